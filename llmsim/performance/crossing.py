"""Prompts that pass through an encoder, and memories of hidden states: work beside the decoder's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmsim.model.shape import Attention, CacheGroup, Layer
from llmsim.performance import formats
from llmsim.performance.attention import GroupAttention
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.correction import Unfused
from llmsim.performance.kernels import Array, Price
from llmsim.performance.kinds import Tally
from llmsim.performance.unfused import Products, score_bytes

if TYPE_CHECKING:
    from llmsim.performance.operators import Matrices, Operators
    from llmsim.performance.stage_prices import StagePrices

# How often scores are read or written where attention is not one kernel: the product writes them, scale and mask and
# softmax each read and write, a cast or shift does too, and the product with the values reads.  Counted, not fitted.
SCORE_PASSES = 8
# Vectors of hidden size that a remembered token has written or read where nothing is fused: joined to the segment (2),
# keys and values laid out for the products (4), and made anew (2).  Counted in mem_transformer.py of NVIDIA
# DeepLearningExamples.
MEMORY_VECTORS = 8


class Passes:
    """What it takes for scores to pass through memory as often as unfused kernels need, 16 bit or single precision."""

    def __init__(self, known: Coefficients, matrices: Matrices, unfused: Unfused | None) -> None:
        stream = known.stream("act")
        self._count = SCORE_PASSES if unfused is None else unfused.scores
        self._launch_s = stream.t0_us * 1e-6
        self._score_s = score_bytes(matrices) / (known.chip.bandwidth * stream.e_bw)

    def seconds(self, scores: float) -> float:
        """Return the seconds of all passes of ``scores`` elements."""
        return self._count * (self._launch_s + scores * self._score_s)


class EncoderGroup:
    """The encoder's pass over the prompts of a step, and the keys and values that cross attention takes from it.

    ``encoder`` are the prices of the encoder as a model of its own; ``layers`` are the decoder's.  The pass is made
    once: a step without prompts costs nothing here.  All its time counts as attention's in the books of a simulation.
    """

    bidirectional = True
    window = None
    layers = 1

    def __init__(
        self, encoder: StagePrices, operators: Operators, matrices: Matrices, layers: Sequence[Layer], tensor: int
    ) -> None:
        self.number = formats.cache("bf16")
        self._encoder, self._operators, self._matrices = encoder, operators, matrices
        self._crosses = [layer.cross for layer in layers if layer.cross is not None]
        self._tensor = tensor
        self._linear: dict[int, float] = {}

    def decode(self, batch: Array, context: Array) -> Price:
        """Price a step that only decodes: nothing."""
        nothing = np.zeros(np.broadcast(np.asarray(batch), np.asarray(context)).shape)
        return Price(nothing, nothing, nothing)

    def mixed(
        self,
        chunks: Sequence[tuple[int, int]],
        decodes: int,
        context_sum: float,
        longest: float,
        queries: float = 1.0,
    ) -> tuple[float, float]:
        """Price the encoder's pass over the prompts: seconds, and the share of compute in its own mixing."""
        if not chunks:
            return 0.0, 0.0
        tokens = sum(new for new, _ in chunks)
        if tokens not in self._linear:
            self._linear[tokens] = self._price(float(tokens))
        seconds = self._linear[tokens]
        compute = 0.0
        for group in range(len(self._encoder.windows)):
            part, share = self._encoder.mixed_attention(group, chunks, 0, 0.0, 0.0)
            seconds += part
            compute += part * share
        return seconds, compute / seconds

    def _price(self, tokens: float) -> float:
        rows = np.array([tokens])
        total = float(self._encoder.linear(rows).sum())
        tally = Tally(1)
        for cross in self._crosses:
            width = 2 * -(-cross.kv_heads // self._tensor) * cross.head_dim
            tally.add("attention", self._operators.gemm(self._matrices, rows, width, self._encoder.hidden_size))
        return total + float(tally.seconds.sum())


class CrossAttention(GroupAttention):
    """A decoder's attention to its own tokens and to the encoder's output, which together are its context.

    Both have the same heads, so the bytes add up; there are two kernels, so there are two launches.  A prompt is one
    row beside the decoding ones: the decoder begins with a single token.
    """

    def __init__(self, known: Coefficients, group: CacheGroup, tensor: int, cache_format: str, kernels: int) -> None:
        super().__init__(known, group, tensor, cache_format)
        self._kernels = kernels

    def decode(self, batch: Array, context: Array) -> Price:
        """Price one layer's attention of ``batch`` sequences at mean context ``context``."""
        price = super().decode(batch, context)
        more = (self._kernels - 1) * self.decode_known.fit.t0_us * 1e-6
        return Price(price.launch + more, price.compute, price.memory)

    def mixed(
        self,
        chunks: Sequence[tuple[int, int]],
        decodes: int,
        context_sum: float,
        longest: float,
        queries: float = 1.0,
    ) -> tuple[float, float]:
        """Price all layers for the first tokens of the prompts in ``chunks`` beside ``decodes`` sequences."""
        attended = context_sum + sum(new + prefix for new, prefix in chunks)
        seconds, share = super().mixed([], decodes + len(chunks), attended, longest, queries)
        if not seconds:
            return 0.0, 0.0
        more = self.layers * (self._kernels - 1) * self.decode_known.fit.t0_us * 1e-6
        return seconds + more, share * seconds / (seconds + more)


class LocalAttention(GroupAttention):
    """Attention of Longformer: half a window on either side, and global tokens; no fused kernel computes it.

    Blocks of half a window meet three blocks of keys, and the scores pass through memory several times (Beltagy et al.
    2020, appendix A: "chunked" matrix products).
    """

    def __init__(
        self, known: Coefficients, group: CacheGroup, tensor: int, cache_format: str, matrices: Matrices,
        unfused: Unfused | None = None,
    ) -> None:  # fmt: skip
        super().__init__(known, group, tensor, cache_format)
        self._passes = Passes(known, matrices, unfused)
        self._products = Products(known, matrices, self.heads, self.head_dim) if unfused is not None else None

    def mixed(
        self,
        chunks: Sequence[tuple[int, int]],
        decodes: int,
        context_sum: float,
        longest: float,
        queries: float = 1.0,
    ) -> tuple[float, float]:
        """Price all layers for whole texts ``chunks``: seconds, and the share of compute."""
        assert self.window is not None
        spans = [min(1.5 * self.window, new) + self.global_tokens for new, _ in chunks]
        scores = sum(new * span for (new, _), span in zip(chunks, spans, strict=True))
        if self._products is None:
            seconds, share = super().mixed(chunks, decodes, context_sum, longest, queries)
        else:
            products = (self._products.seconds(new, span) for (new, _), span in zip(chunks, spans, strict=True))
            seconds, share = self.layers * sum(products), 1.0
        passes = self._passes.seconds(self.heads * scores) * self.layers
        return seconds + passes, share * seconds / (seconds + passes) if seconds else 0.0


class RelativeAttention(GroupAttention):
    """Attention of Transformer-XL: keys and values of the whole memory are made anew, and positions have a product.

    For each segment: query, key and value products over the memory's hidden states too, a product over as many
    relative positions, a second score product, and passes over the scores, which no fused kernel spares (Dai et al.
    2019, appendix B).  One generated token is a segment of one.
    """

    def __init__(
        self, known: Coefficients, group: CacheGroup, tensor: int, cache_format: str, operators: Operators,
        matrices: Matrices, unfused: Unfused | None = None,
    ) -> None:  # fmt: skip
        super().__init__(known, group, tensor, cache_format)
        attention: Attention = group.attention
        self._memory = attention.memory
        self._operators, self._matrices = operators, matrices
        self._passes = Passes(known, matrices, unfused)
        self._unfused = Products(known, matrices, self.heads, self.head_dim) if unfused is not None else None
        self._moved_s = 0.0
        if unfused is not None:
            rate = known.chip.bandwidth * known.stream("act").e_bw
            self._moved_s = MEMORY_VECTORS * operators.hidden * score_bytes(matrices) / rate
        self._positions: dict[tuple[int, int], float] = {}

    def decode(self, batch: Array, context: Array) -> Price:
        """Price one layer for ``batch`` sequences that each compute one token."""
        price = super().decode(batch, context)
        batch, context = np.broadcast_arrays(np.asarray(batch, float), np.asarray(context, float))
        remembered = np.minimum(context, self._memory)
        width = self.heads * self.head_dim
        again = self._operators.gemm(self._matrices, batch * remembered, 3 * width, self._operators.hidden)
        places = self._operators.gemm(self._matrices, remembered + 1.0, width, self._operators.hidden)
        return Price(
            price.launch + again.launch + places.launch,
            price.compute + again.compute + places.compute,
            price.memory + again.memory + places.memory,
        )

    def mixed(
        self,
        chunks: Sequence[tuple[int, int]],
        decodes: int,
        context_sum: float,
        longest: float,
        queries: float = 1.0,
    ) -> tuple[float, float]:
        """Price all layers for segments ``chunks`` (tokens, memory before them) beside ``decodes`` sequences."""
        if self._unfused is None or decodes:
            seconds, share = super().mixed(chunks, decodes, context_sum, longest, queries)
            compute = seconds * share
        else:
            seconds = compute = self.layers * sum(self._unfused.seconds(new, new + before) for new, before in chunks)
        remembered = [min(prefix, self._memory) for _, prefix in chunks]
        scores = sum(new * (new + before) for (new, _), before in zip(chunks, remembered, strict=True))
        if scores:
            # Two score products, each of which is written and read.
            passes = self._passes.seconds(2 * self.heads * scores)
            span = max(new + before for (new, _), before in zip(chunks, remembered, strict=True))
            products = self._products(sum(remembered), span)
            moved = self._moved_s * sum(remembered)
            seconds += self.layers * (passes + products + moved) + compute / 2
            compute *= 1.5
        return seconds, compute / seconds if seconds else 0.0

    def _products(self, remembered: int, span: int) -> float:
        """Return seconds of the products over the memory and over ``span`` relative positions, in one layer."""
        key = remembered, span
        if key not in self._positions:
            width, hidden = self.heads * self.head_dim, self._operators.hidden
            places = self._operators.gemm(self._matrices, np.array([float(span)]), width, hidden)
            total = float(places.total[0])
            if remembered:
                again = self._operators.gemm(self._matrices, np.array([float(remembered)]), 3 * width, hidden)
                total += float(again.total[0])
            self._positions[key] = total
        return self._positions[key]
