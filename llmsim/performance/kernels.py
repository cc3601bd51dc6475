"""What one kernel costs: closed forms over shapes, vectorised with NumPy.

Every formula has the same shape: a part that does not overlap with anything (launch, serial
latency), and parts that overlap imperfectly, joined by a p-norm.  The parts are returned apart, so
that time can be attributed: inside a p-norm, term i is given ``total * t_i^p / sum(t^p)``.

Sizes are per device: what one rank of a tensor-parallel group computes.  Times are seconds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsim.performance.fits import (
    Chip,
    CollectiveFit,
    DecodeFit,
    ExchangeFit,
    ExpertsFit,
    GemmFit,
    LatentDecodeFit,
    MixedFit,
    PrefillFit,
    StreamFit,
)

Array = NDArray[np.float64]

TILE = 128  # rows of queries that one thread block of an attention kernel works on
CONTEXT_KNEE = 1024.0  # tokens at which half of the split-KV latency of decode attention is reached
MIN_GROUP = 16.0  # decode attention pads the query heads of one KV head to a tensor-core tile
LATENT_WIDTH = 576  # MLA: compressed KV rank 512 + rope part 64, elements a token and layer
LATENT_VALUE_WIDTH = 512  # MLA: the part of it that is also the value
LATENT_HEAD_DIM = 160  # MLA prefill: mean of the query-key width (192) and the value width (128)


@dataclass(frozen=True, slots=True)
class Price:
    """Seconds of a kernel by what they are spent on; the three parts add up to its duration."""

    launch: Array
    compute: Array
    memory: Array

    @property
    def total(self) -> Array:
        """Duration of the kernel in seconds."""
        return self.launch + self.compute + self.memory

    def times(self, factor: Array | float) -> "Price":
        """Return the price of a kernel that takes ``factor`` as long, in the same parts."""
        return Price(self.launch * factor, self.compute * factor, self.memory * factor)


def p_norm(p: float, *terms: ArrayLike) -> tuple[Array, list[Array]]:
    """Return the p-norm of non-negative ``terms``, and each term's share of it (shares add up to the norm)."""
    arrays = [np.asarray(term, dtype=np.float64) for term in terms]
    largest = np.maximum(arrays[0], 1e-15)
    for array in arrays[1:]:
        largest = np.maximum(largest, array)
    powers = [(array / largest) ** p for array in arrays]
    total_power = powers[0]
    for power in powers[1:]:
        total_power = total_power + power
    total_power = np.maximum(total_power, 1e-300)  # when there is nothing to do at all
    norm = largest * total_power ** (1 / p)
    return norm, [norm * (power / total_power) for power in powers]


def _clip(p: float, low: float, high: float) -> float:
    """Bring an exponent into the range in which it was fitted."""
    return min(max(p, low), high)


def _warm(fit: GemmFit | DecodeFit, moved_bytes: Array, cold: bool) -> Array | float:
    """Return the bandwidth gain of a benchmark that finds its data in the L2 cache; serving never does."""
    if cold:
        return 1.0
    return 1.0 + fit.l2_gain / (1 + np.exp(np.clip((moved_bytes / 1e6 - fit.l2_MB) / (0.25 * fit.l2_MB), -30, 30)))


def attended(queries: ArrayLike, prefix: ArrayLike, window: ArrayLike = 0.0) -> Array:
    """Return how many key positions ``queries`` new tokens see in all, summed over the tokens.

    Token j of a chunk behind ``prefix`` cached tokens sees ``min(prefix + j, window)``; without a window (0)
    that is ``queries * prefix + queries^2 / 2`` (the diagonal counted half, as in the fitted formula).
    """
    queries, prefix, window = (np.asarray(value, dtype=np.float64) for value in (queries, prefix, window))
    limit = np.where(window > 0, window, queries + prefix)
    whole = np.clip(limit - prefix, 0.0, queries)  # tokens that the window does not cut short
    return np.asarray(whole * prefix + whole * whole / 2 + (queries - whole) * limit)


def gemm(
    fit: GemmFit,
    chip: Chip,
    m: ArrayLike,
    n: float | Array,
    k: float | Array,
    *,
    compute: str = "bf16",
    weight_bytes: float = 2.0,
    activation_bytes: float = 2.0,
    cold: bool = True,
) -> Price:
    """Price an (m x k) by (k x n) matrix product; ``m`` rows are tokens.

    ``compute`` names the peak in use, the two ``_bytes`` are bytes per element (output is 2).  Launch is
    ``t0 + tk k/(k + ks)``, the latency of the split-K chain; ``qb`` bytes per input element pay for
    quantising activations.  Source: performance model 2.1.
    """
    m, n, k = (np.asarray(value, dtype=np.float64) for value in (m, n, k))
    weights = n * k * weight_bytes
    moved = weights + m * k * activation_bytes + 2 * m * n
    work = 2 * (k + fit.kh) * (m * n + fit.mh * n + fit.nh * m + fit.mnh)
    in_compute = work / (chip.flops[compute] * fit.e_max)
    in_memory = moved / (chip.bandwidth * fit.e_bw * _warm(fit, weights, cold))
    _, (compute_s, memory_s) = p_norm(_clip(fit.p, 1, 12), in_compute, in_memory)
    launch = (fit.t0_us + fit.tk_us * k / (k + fit.ks)) * 1e-6
    return Price(np.broadcast_to(launch, compute_s.shape), compute_s, memory_s + m * k * fit.qb / chip.bandwidth)


def prefill_attention(
    fit: PrefillFit,
    chip: Chip,
    batch: ArrayLike,
    queries: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: int,
    *,
    prefix: ArrayLike = 0.0,
    window: ArrayLike = 0.0,
    cache_bytes: float = 2.0,
) -> Price:
    """Price attention of ``batch`` sequences with ``queries`` new tokens each behind ``prefix`` cached ones.

    ``window`` 0 means none; ``cache_bytes`` per element.  The second compute term is the critical path: the last
    tile of 128 queries walks the whole context while the other multiprocessors run dry.
    Source: performance model 2.2, with a window generalised to chunks behind a prefix.
    """
    batch, queries, heads, kv_heads, prefix, window = (
        np.asarray(value, dtype=np.float64) for value in (batch, queries, heads, kv_heads, prefix, window)
    )
    span = np.where(window > 0, np.minimum(queries + prefix, window), queries + prefix)
    work = batch * heads * (attended(queries, prefix, window) + queries * fit.sT)
    critical = TILE * (span + fit.sT)
    rate = chip.bf16 * fit.e / (4 * head_dim * (1 + fit.hh / head_dim))
    in_compute = (work + fit.occ * chip.multiprocessors * critical) / rate
    cached = np.where(window > 0, np.minimum(prefix, window), prefix)
    elements = batch * queries * 4 * heads * head_dim + 4 * batch * queries * kv_heads * head_dim
    moved = elements + 2 * batch * (queries + cached) * kv_heads * head_dim * cache_bytes
    in_memory = moved / (chip.bandwidth * fit.e_bw) + fit.ti_ns * 1e-9 * batch * heads
    _, (compute_s, memory_s) = p_norm(_clip(fit.p, 1, 10), in_compute, in_memory)
    return Price(np.full(compute_s.shape, fit.t0_us * 1e-6), compute_s, memory_s)


def decode_attention(
    fit: DecodeFit,
    chip: Chip,
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: int,
    *,
    window: ArrayLike = 0.0,
    cache_bytes: float = 2.0,
    cold: bool = True,
) -> Price:
    """Price one new token for each of ``batch`` sequences with mean context ``context`` tokens.

    Only the sum of the contexts matters.  Launch holds the serial latency of split-KV and the cost of work items.
    Where every query head has its own KV head, kernels without split-KV walk a context at ``r1`` B/s.
    Source: performance model 2.3.
    """
    batch, context, heads, kv_heads, window = (
        np.asarray(value, dtype=np.float64) for value in (batch, context, heads, kv_heads, window)
    )
    length = np.where(window > 0, np.minimum(context, window), context)
    moved = 2 * batch * length * kv_heads * head_dim * cache_bytes
    streaming = moved / (chip.bandwidth * fit.e_bw * _warm(fit, moved, cold)) * (1 + fit.h_item / (batch * kv_heads))
    items = fit.ti_ns * 1e-9 * batch * kv_heads * head_dim / 128
    work = 4 * batch * length * kv_heads * head_dim * np.maximum(heads / kv_heads, MIN_GROUP)
    walk = np.where(heads <= kv_heads, 2 * length * head_dim * cache_bytes / (fit.r1_GBps * 1e9), 0.0)
    _, parts = p_norm(_clip(fit.p, 1, 10), streaming, items, work / (chip.bf16 * fit.e_c), walk)
    launch = (fit.t0_us + fit.tk_us * length / (length + CONTEXT_KNEE)) * 1e-6
    return Price(launch + parts[1], parts[2], parts[0] + parts[3])


def mixed_attention(
    fit: MixedFit,
    chip: Chip,
    chunks: ArrayLike,
    contexts: ArrayLike,
    heads: int,
    head_dim: int,
) -> Price:
    """Price one kernel over prefill ``chunks`` (rows of new tokens, prefix) and decode ``contexts``.

    A list-scheduling bound: all work over all multiprocessors, or the longest item on one of them.  Decode rows
    lose split-KV and pay a padded query tile.  Source: performance model 2.4 (fitted on one device only).
    """
    new, prefix = np.asarray(chunks, dtype=np.float64).reshape(-1, 2).T
    contexts = np.asarray(contexts, dtype=np.float64)
    unit = 4 * head_dim / (chip.bf16 * fit.e)
    prefill = heads * float((new * ((new + fit.T) / 2 + prefix)).sum()) * unit
    decode = heads * (float(contexts.sum()) * fit.r + contexts.size * fit.b1 * TILE) * unit
    longest_chunk = fit.sp * TILE * float((new + prefix).max(initial=0.0)) * unit * chip.multiprocessors
    longest_decode = fit.sd * TILE * float(contexts.max(initial=0.0)) * unit * chip.multiprocessors
    _, (work, chunk_path, decode_path) = p_norm(fit.p, prefill + decode, longest_chunk, longest_decode)
    share = prefill / (prefill + decode) if prefill + decode > 0 else 0.0
    return Price(np.asarray(fit.t0_us * 1e-6), work * share + chunk_path, work * (1 - share) + decode_path)


def latent_prefill_attention(
    fit: PrefillFit,
    chip: Chip,
    batch: ArrayLike,
    queries: ArrayLike,
    heads: ArrayLike,
    *,
    prefix: ArrayLike = 0.0,
    cache_bytes: float = 2.0,
) -> Price:
    """Price MLA prefill: multi-head attention of equivalent width 160.  Source: performance model 2.5."""
    return prefill_attention(
        fit, chip, batch, queries, heads, heads, LATENT_HEAD_DIM, prefix=prefix, cache_bytes=cache_bytes
    )


def latent_decode_attention(
    fit: LatentDecodeFit,
    chip: Chip,
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    *,
    cache_bytes: float = 2.0,
) -> Price:
    """Price MLA decode over the compressed cache, which every rank holds whole.  Source: performance model 2.5."""
    batch, context, heads = (np.asarray(value, dtype=np.float64) for value in (batch, context, heads))
    moved = context * LATENT_WIDTH * cache_bytes
    work = 2 * (LATENT_WIDTH + LATENT_VALUE_WIDTH) * np.maximum(heads, fit.nh_pad) * batch * context
    _, (streaming, items, compute_s, walk) = p_norm(
        _clip(fit.p, 1, 10),
        batch * moved / (chip.bandwidth * fit.e_bw),
        fit.ti_ns * 1e-9 * batch,
        work / (chip.bf16 * fit.e_c),
        moved / (fit.r1_GBps * 1e9),
    )
    launch = (fit.t0_us + fit.tk_us * context / (context + CONTEXT_KNEE)) * 1e-6
    return Price(launch + items, compute_s, streaming + walk)


def active_experts(
    tokens: ArrayLike, experts: int, per_token: int, ep: ArrayLike = 1, balanced: ArrayLike = False
) -> Array:
    """Return how many of a rank's experts at least one token visits, routing drawn evenly."""
    tokens, ep = np.asarray(tokens, dtype=np.float64), np.asarray(ep, dtype=np.float64)
    local = experts / ep
    even = local * (1 - (1 - per_token / experts) ** tokens)
    return np.where(balanced, np.minimum(local, np.maximum(tokens * per_token / ep, 1.0)), even)


def experts(
    fit: ExpertsFit,
    chip: Chip,
    tokens: ArrayLike,
    hidden: int,
    width: int,
    per_token: int,
    number: int,
    *,
    tp: ArrayLike = 1,
    ep: ArrayLike = 1,
    matrices: float = 3.0,
    compute: str = "bf16",
    weight_bytes: float = 2.0,
    balanced: ArrayLike = False,
    row_cost: float = 1.0,
) -> Price:
    """Price the fused mixture-of-experts kernels of one rank for ``tokens`` tokens.

    ``width`` is one expert's intermediate size before it is cut by ``tp``; ``number`` experts in all.  The two
    terms behind the p-norm are the traffic of gathering and scattering routed rows.  Each routed row computes
    ``row_cost`` times as long as the formula says.  Source: performance model 2.6.
    """
    tokens, tp, ep = (np.asarray(value, dtype=np.float64) for value in (tokens, tp, ep))
    local_width = width / tp
    active = active_experts(tokens, number, per_token, ep, balanced)
    skew = np.where(balanced, 1.0, 1 + (fit.lam - 1) * (1 - 1 / ep))
    rows = np.minimum(tokens * per_token / ep * skew, tokens * per_token)
    in_memory = active * matrices * hidden * local_width * weight_bytes / (chip.bandwidth * fit.e_bw)
    padded = np.ceil(local_width / 128) * 128
    work = 2 * matrices * hidden * padded * (rows * row_cost + fit.mh * active) * (1 + fit.fh / local_width)
    _, (compute_s, memory_s) = p_norm(_clip(fit.p, 1, 10), work / (chip.flops[compute] * fit.e), in_memory)
    moved = fit.ca * rows * (2 * hidden + matrices * local_width) * 2
    moved = moved + fit.cT * tokens * per_token * (hidden + matrices * local_width) * 2
    launch = (fit.t0_us + fit.tA_ns * 1e-3 * active) * 1e-6
    return Price(launch, compute_s, memory_s + moved / chip.bandwidth)


def collective(fit: CollectiveFit, operation: str, ranks: int, size: ArrayLike, *, one_shot: bool = False) -> Array:
    """Return the seconds of a collective over ``size`` bytes (the full buffer) among ``ranks`` devices.

    ``operation`` is all_reduce, all_gather, reduce_scatter or alltoall.  The soft minimum of a low-latency and a
    bulk protocol; ``one_shot`` is a custom all-reduce, in which each rank reads the buffers of all others.
    Source: performance model 2.7.
    """
    size = np.asarray(size, dtype=np.float64)
    wire = size * (2 if operation == "all_reduce" else 1) * (ranks - 1) / ranks
    quick = fit.a_us * 1e-6 + ((ranks - 1) * size if one_shot else wire) / (fit.B1_GBps * 1e9)
    bulk = (fit.a_us + fit.da_us) * 1e-6 + wire / (fit.B_GBps * 1e9)
    p = _clip(fit.p, 1.2, 8)
    best = np.minimum(quick, bulk)
    return np.asarray(best * ((best / quick) ** p + (best / bulk) ** p) ** (-1 / p))


def expert_exchange(fit: ExchangeFit, tokens: ArrayLike, hidden: int, per_token: int, *, element_bytes: float) -> Array:
    """Return the seconds of DeepEP sending each rank's ``tokens`` to the ranks of their experts, or of the way back.

    Source: performance model 2.7, ``a + tokens x topk x hidden x bytes / B``, fitted to DeepEP's low-latency and
    normal kernels; a is latency, B what a rank achieves.
    """
    size = np.asarray(tokens, dtype=np.float64) * per_token * hidden * element_bytes
    return np.asarray(fit.a_us * 1e-6 + size / (fit.B_GBps * 1e9))


def stream(fit: StreamFit, chip: Chip, moved_bytes: ArrayLike) -> Price:
    """Price an element-wise kernel (norm, rope, activation, embedding).  Source: performance model 2.8."""
    memory = np.asarray(moved_bytes, dtype=np.float64) / (chip.bandwidth * fit.e_bw)
    return Price(np.full(memory.shape, fit.t0_us * 1e-6), np.zeros(memory.shape), memory)
