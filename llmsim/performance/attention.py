"""Attention of one cache group on one stage: arrays for the tables of decode steps, plain numbers for mixed steps.

`mixed` is on the hot path: it is called for every step that holds prefill chunks, so everything that does not depend
on the step is folded into a few numbers beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmsim.model.shape import CacheGroup
from llmsim.model.weights import kv_heads_of_rank
from llmsim.performance import formats
from llmsim.performance.coefficients import Coefficients, Known
from llmsim.performance.fits import DecodeFit, LatentDecodeFit, MixedFit, PrefillFit
from llmsim.performance.kernels import (
    CONTEXT_KNEE,
    LATENT_HEAD_DIM,
    LATENT_VALUE_WIDTH,
    LATENT_WIDTH,
    MIN_GROUP,
    TILE,
    Array,
    Price,
    decode_attention,
    latent_decode_attention,
)
from llmsim.performance.masked_attention import MaskedAttention
from llmsim.performance.paged_attention import CAPTURED_TOKENS, PagedAttention

if TYPE_CHECKING:
    from llmsim.performance.residuals import Residuals

Factors = Callable[..., Array]

# Contexts of a batch differ, and the kernel waits for the longest ones: measured against a batch whose contexts all
# equal the mean, 1.02 in the median and 1.10-1.17 at p90 (performance model 2.3, 1311 points).
SKEW = 1.02


class GroupAttention:
    """Prices of the attention of all ``group.layers`` layers of one cache group on one rank.

    A step with chunks is priced by the measured mixed-batch kernel where there is one.  Elsewhere the work of
    all chunks is added up inside the prefill formula (one launch; the longest chunk is the critical path), and
    decode attention is added without a launch of its own.  ``longest`` is how many tokens a context may have, which
    PagedAttention's speed depends on; ``shares`` the numbers of query heads that decode by reading their KV head once,
    None for all (see `masked_attention`).
    """

    def __init__(
        self,
        known: Coefficients,
        group: CacheGroup,
        tensor: int,
        cache_format: str,
        longest: int = CAPTURED_TOKENS,
        shares: Sequence[int] | None = None,
    ) -> None:
        attention = group.attention
        self.layers = group.layers
        self.latent = attention.kind == "mla"
        self.number = formats.cache(cache_format)
        self.heads = -(-attention.heads // tensor)
        self.kv_heads = self.heads if self.latent else kv_heads_of_rank(attention, tensor)
        self.head_dim = LATENT_HEAD_DIM if self.latent else attention.head_dim
        self.window = attention.window
        self.chunked = attention.chunked
        self.bidirectional = attention.bidirectional
        self.global_tokens = attention.global_tokens
        self._chip = known.chip
        kernel = self.number.kernel
        self.prefill_known = known.latent_prefill(kernel) if self.latent else known.prefill(kernel)
        self.decode_known: Known[LatentDecodeFit] | Known[DecodeFit]
        if self.latent:
            self.decode_known = known.latent_decode(kernel)
        else:
            self.decode_known = known.decode(kernel, grouped=self.heads > self.kv_heads)
        self._prefill_factor, self._decode_factor = self._factors(known.residuals, kernel)
        mixed = None if self.latent else known.mixed(kernel)
        self._fold_prefill(self.prefill_known.fit)
        self._fold_decode(self.decode_known.fit)
        self._mixed = mixed.fit if mixed else None
        if mixed:
            self._fold_mixed(mixed.fit)
        paged = None if self.latent else known.paged()
        self._paged: PagedAttention | None = None
        if paged is not None:
            self._paged = PagedAttention(
                paged, known.chip, self.heads, self.head_dim, cache_bytes=self.number.weight_bytes, longest=longest
            )
            self._mixed, self._decode_t0 = None, paged.t0_us * 1e-6
        self._masked: MaskedAttention | None = None
        if shares is not None and not self.latent and self.heads / self.kv_heads not in shares:
            fit = known.masked()
            self._masked = MaskedAttention(
                fit, known.chip, known.device.clock_hz, self.heads, self.kv_heads, self.head_dim,
                cache_bytes=self.number.weight_bytes,
            )  # fmt: skip
            self._mixed, self._decode_t0 = None, fit.t0_us * 1e-6

    def _factors(self, residuals: Residuals | None, kernel: str) -> tuple[Factors | None, Factors | None]:
        """Return what measured kernels say beside the formulas of prefill and decode; None where they say nothing."""
        if not residuals:
            return None, None
        if self.latent:
            names, key, heads = ("mla_prefill", "mla_decode"), (kernel,), (self.heads,)
            prefill, decode = (residuals.surface(name, key, heads) for name in names)
            return prefill, decode
        both = (self.heads, self.kv_heads)
        return (
            residuals.surface("attn_prefill", (kernel, self.head_dim), both),
            residuals.surface("attn_decode", (kernel, self.head_dim), both),
        )

    def decode(self, batch: Array, context: Array) -> Price:
        """Price one layer's decode attention of ``batch`` sequences at mean attended length ``context``."""
        fit = self.decode_known.fit
        cache_bytes = self.number.weight_bytes
        if self._paged is not None:
            price = self._paged.price(batch, context)
        elif self._masked is not None:
            price = self._masked.price(batch, context)
        elif isinstance(fit, LatentDecodeFit):
            price = latent_decode_attention(fit, self._chip, batch, context, self.heads, cache_bytes=cache_bytes)
        else:
            price = decode_attention(
                fit, self._chip, batch, context, self.heads, self.kv_heads, self.head_dim, cache_bytes=cache_bytes
            )
        if self._decode_factor is not None:
            price = price.times(self._decode_factor(batch, context))
        skew = np.where(np.asarray(batch) > 1, SKEW, 1.0)
        return Price(price.launch, price.compute * skew, price.memory * skew)

    def mixed(
        self,
        chunks: Sequence[tuple[int, int]],
        decodes: int,
        context_sum: float,
        longest: float,
        queries: float = 1.0,
    ) -> tuple[float, float]:
        """Price all layers for a step with prefill ``chunks`` (new tokens, prefix) beside ``decodes`` decode rows.

        ``context_sum`` and ``longest`` are attended tokens of the decode rows: the sum and the largest; each row has
        ``queries`` tokens (drafts), which read the cache once and share a tile of the tensor cores.

        Returns:
            seconds, and the share of them that is bound by compute; the rest is memory, launch included.
        """
        if not chunks:
            if not decodes:
                return 0.0, 0.0
            seconds, compute = self._decode_step(decodes, context_sum, queries)
            seconds += self._decode_t0
            seconds, compute = self._decode_measured(seconds, compute, decodes, context_sum)
        elif self._mixed is not None:
            seconds, compute = self._mixed_step(self._mixed, chunks, decodes, context_sum, longest)
        else:
            seconds, compute = self._prefill_step(chunks)
            if self._prefill_factor is not None:
                count = len(chunks)
                new, prefix = (sum(part) / count for part in zip(*chunks, strict=True))
                factor = float(self._prefill_factor(count, new, prefix)[0])
                seconds, compute = seconds * factor, compute * factor
            if decodes:
                more, more_compute = self._decode_step(decodes, context_sum, queries)
                more, more_compute = self._decode_measured(more, more_compute, decodes, context_sum)
                seconds += more
                compute += more_compute
        return seconds * self.layers, compute / seconds

    def _decode_measured(self, seconds: float, compute: float, decodes: int, context_sum: float) -> tuple[float, float]:
        """Return the two with what measured kernels say of ``decodes`` sequences at their mean context."""
        if self._decode_factor is None:
            return seconds, compute
        factor = float(self._decode_factor(decodes, context_sum / decodes)[0])
        return seconds * factor, compute * factor

    def _seen(self, queries: int, prefix: int) -> float:
        """Return the key positions that a chunk's queries see in all (see `kernels.attended`)."""
        window = self.window
        if self.bidirectional:
            return _seen_both_ways(queries, window, self.global_tokens)
        if window is None or queries + prefix <= window:
            return queries * (prefix + queries / 2)
        if self.chunked:
            return _seen_chunked(prefix + queries, window) - _seen_chunked(prefix, window)
        whole = max(window - prefix, 0)
        return whole * (prefix + whole / 2) + (queries - whole) * window

    # -- prefill: performance model 2.2, summed over chunks -------------------------------------------

    def _fold_prefill(self, fit: PrefillFit) -> None:
        chip, head_dim, heads, kv_heads = self._chip, self.head_dim, self.heads, self.kv_heads
        rate = chip.bf16 * fit.e / (4 * head_dim * (1 + fit.hh / head_dim))
        self._work_s = heads / rate
        self._tail = fit.sT
        self._path_s = fit.occ * chip.multiprocessors * TILE / rate
        bandwidth = chip.bandwidth * fit.e_bw
        read = 2 * kv_heads * head_dim * self.number.weight_bytes
        self._query_s = (4 * heads * head_dim + 4 * kv_heads * head_dim + read) / bandwidth
        self._prefix_s = read / bandwidth
        self._chunk_s = fit.ti_ns * 1e-9 * heads
        self._prefill_p = min(max(fit.p, 1.0), 10.0)
        self._prefill_t0 = fit.t0_us * 1e-6

    def _prefill_step(self, chunks: Sequence[tuple[int, int]]) -> tuple[float, float]:
        window = self.window
        queries = prefixes = longest = 0
        seen = 0.0
        for new, prefix in chunks:
            queries += new
            seen += self._seen(new, prefix)
            span = new + prefix
            if window is not None:
                prefix = min(prefix, window)
                span = min(span, window)
            prefixes += prefix
            if span > longest:
                longest = span
        tail = self._tail
        compute = (seen + queries * tail) * self._work_s + (longest + tail) * self._path_s
        memory = queries * self._query_s + prefixes * self._prefix_s + len(chunks) * self._chunk_s
        p = self._prefill_p
        if p == 1.0:
            return self._prefill_t0 + compute + memory, compute
        power = compute**p
        both = power + memory**p
        norm: float = both ** (1 / p)
        return self._prefill_t0 + norm, norm * power / both

    # -- decode: performance model 2.3 and 2.5, without the launch --------------------------------------

    def _fold_decode(self, fit: DecodeFit | LatentDecodeFit) -> None:
        chip, cache_bytes = self._chip, self.number.weight_bytes
        bandwidth = chip.bandwidth * fit.e_bw
        self._item = 0.0
        if isinstance(fit, LatentDecodeFit):
            width = LATENT_WIDTH * cache_bytes
            self._stream_s, self._row_s = width / bandwidth, fit.ti_ns * 1e-9
            self._group, self._least_group = float(self.heads), float(fit.nh_pad)
            work = 2 * (LATENT_WIDTH + LATENT_VALUE_WIDTH) * max(self.heads, fit.nh_pad)
            self._dot_s = work / (chip.bf16 * fit.e_c)
            self._walk_s = width / (fit.r1_GBps * 1e9)
        else:
            elements = self.kv_heads * self.head_dim
            self._item = fit.h_item / self.kv_heads
            self._stream_s = 2 * elements * cache_bytes / bandwidth
            self._row_s = fit.ti_ns * 1e-9 * elements / 128
            self._group, self._least_group = self.heads / self.kv_heads, float(MIN_GROUP)
            group = max(self.heads / self.kv_heads, MIN_GROUP)
            self._dot_s = 4 * elements * group / (chip.bf16 * fit.e_c)
            alone = self.heads <= self.kv_heads
            self._walk_s = 2 * self.head_dim * cache_bytes / (fit.r1_GBps * 1e9) if alone else 0.0
        self._knee_s = fit.tk_us * 1e-6
        self._decode_p = min(max(fit.p, 1.0), 10.0)
        self._decode_t0 = fit.t0_us * 1e-6

    def _decode_step(self, decodes: int, context_sum: float, queries: float = 1.0) -> tuple[float, float]:
        if self._paged is not None:
            return self._paged.seconds(decodes, context_sum) * (SKEW if decodes > 1 else 1.0), 0.0
        if self._masked is not None:
            skew = SKEW if decodes > 1 else 1.0
            seconds, computing = self._masked.seconds(decodes, context_sum)
            return seconds * skew, computing * skew
        mean = context_sum / decodes
        p = self._decode_p
        streaming = (context_sum * self._stream_s * (1 + self._item / decodes)) ** p
        dot_s = self._dot_s
        if queries != 1.0:
            least = self._least_group
            dot_s *= max(self._group * queries, least) / max(self._group, least)
        compute = (context_sum * dot_s) ** p
        rows = (decodes * self._row_s) ** p
        every = streaming + compute + (mean * self._walk_s) ** p + rows
        norm: float = every ** (1 / p)
        knee = self._knee_s * mean / (mean + CONTEXT_KNEE)
        if decodes == 1:
            return norm + knee, norm * compute / every
        return norm * (rows + SKEW * (every - rows)) / every + knee, SKEW * norm * compute / every

    # -- mixed: performance model 2.4 -------------------------------------------------------------------

    def _fold_mixed(self, fit: MixedFit) -> None:
        unit = 4 * self.head_dim / (self._chip.bf16 * fit.e)
        self._unit_s = self.heads * unit
        self._longest_s = unit * self._chip.multiprocessors * TILE

    def _mixed_step(
        self, fit: MixedFit, chunks: Sequence[tuple[int, int]], decodes: int, context_sum: float, longest: float
    ) -> tuple[float, float]:
        window = self.window
        seen, span = 0.0, 0
        half_tile = fit.T / 2
        for new, prefix in chunks:
            seen += self._seen(new, prefix) + new * half_tile
            if new + prefix > span:
                span = new + prefix
        if window is not None:
            span = min(span, window)
            longest = min(longest, window)
        rows = context_sum * fit.r + decodes * fit.b1 * TILE
        p = fit.p
        work = ((seen + rows) * self._unit_s) ** p
        chunk_path = (fit.sp * span * self._longest_s) ** p
        all_three = work + chunk_path + (fit.sd * longest * self._longest_s if decodes else 0.0) ** p
        norm: float = all_three ** (1 / p)
        compute = (work * seen / (seen + rows) + chunk_path) / all_three
        return fit.t0_us * 1e-6 + norm, norm * compute


def _seen_both_ways(queries: int, window: int | None, global_tokens: int) -> float:
    """Return the key positions seen in an encoder: all, or half a window on either side and the global tokens.

    Global tokens are seen by all and see all (Beltagy et al. 2020, section 3.1).
    """
    if window is None or queries <= window // 2:
        return float(queries) * queries
    half = window / 2
    return queries * 2 * half - half * half + 2.0 * global_tokens * queries


def _seen_chunked(end: int, window: int) -> float:
    """Return the key positions seen by all queries before ``end`` when each sees its own chunk only."""
    whole, rest = divmod(end, window)
    return whole * window * window / 2 + rest * rest / 2
