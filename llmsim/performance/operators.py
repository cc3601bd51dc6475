"""The operators of a transformer layer on one rank, each as the kernels that run it.

Sizes are those of vLLM's tensor parallelism: query, output and feed-forward matrices are cut over ``tensor``
ranks, KV heads too until each rank has one, and what is small (norms, the router, the down-projections of
latent attention) every rank does whole.  Activations are 16 bit.  Composition: performance model section 3.
"""

from dataclasses import dataclass

import numpy as np

from llmsim.model.shape import Attention, FeedForward
from llmsim.model.weights import kv_heads_of_rank
from llmsim.performance import kernels
from llmsim.performance.coefficients import Coefficients, Known
from llmsim.performance.fits import ExpertsFit, GemmFit, StreamFit
from llmsim.performance.formats import Number
from llmsim.performance.kernels import Array, Price
from llmsim.performance.kinds import Tally

ACTIVATION_BYTES = 2.0  # between kernels, whatever the weights are in


@dataclass(frozen=True, slots=True)
class Matrices:
    """How one part of the model is multiplied: constants and number format."""

    known: Known[GemmFit]
    number: Number


class Operators:
    """Adds the kernels of layers with ``hidden`` elements a token, on one of ``tensor`` ranks, to a tally."""

    def __init__(self, known: Coefficients, hidden: int, tensor: int, plain: Matrices) -> None:
        self._chip = known.chip
        self._hidden = hidden
        self._tensor = tensor
        self._plain = plain  # 16-bit matrices: router, head
        self._norm, self._rope = known.stream("norm"), known.stream("rope")
        self._activation, self._embedding = known.stream("act"), known.stream("embedding")

    def gemm(self, matrices: Matrices, rows: Array, columns: float, depth: float) -> Price:
        """Price a product with a (depth x columns) matrix for ``rows`` tokens."""
        number = matrices.number
        return kernels.gemm(
            matrices.known.fit,
            self._chip,
            rows,
            columns,
            depth,
            compute=number.compute,
            weight_bytes=number.weight_bytes,
            activation_bytes=number.activation_bytes,
        )

    def norms(self, tally: Tally, tokens: Array, count: int) -> None:
        """Add ``count`` normalisations; they are counted to attention."""
        tally.add("attention", self._stream(self._norm, 2 * self._hidden, tokens), count)

    def attention(
        self, tally: Tally, attention: Attention, matrices: Matrices, tokens: Array, count: int, *, rotary: bool
    ) -> None:
        """Add what surrounds attention in ``count`` layers: projections in and out, rotary embedding."""
        heads = -(-attention.heads // self._tensor)
        if attention.kind == "mla":
            shapes = _latent_projections(attention, heads, self._hidden)
            rotated = (heads + 1) * attention.rope_head_dim
        else:
            kv_heads = kv_heads_of_rank(attention, self._tensor)
            head_dim = attention.head_dim
            shapes = [((heads + 2 * kv_heads) * head_dim, self._hidden), (self._hidden, heads * head_dim)]
            rotated = (heads + kv_heads) * head_dim
        for columns, depth in shapes:
            tally.add("attention", self.gemm(matrices, tokens, columns, depth), count)
        if rotary:
            tally.add("attention", self._stream(self._rope, 2 * rotated, tokens), count)

    def feed_forward(
        self, tally: Tally, width: int, gated: int, matrices: Matrices, tokens: Array, count: int, operator: str
    ) -> None:
        """Add ``count`` dense blocks; ``gated`` is the number of matrices, 3 with a gate and 2 without."""
        local = -(-width // self._tensor)
        tally.add(operator, self.gemm(matrices, tokens, (gated - 1) * local, self._hidden), count)
        tally.add(operator, self._stream(self._activation, gated * local, tokens), count)
        tally.add(operator, self.gemm(matrices, tokens, self._hidden, local), count)

    def experts(
        self, tally: Tally, block: FeedForward, fit: ExpertsFit, matrices: Matrices, tokens: Array, count: int
    ) -> None:
        """Add ``count`` mixtures: router, routed experts, and the experts that every token visits."""
        number = matrices.number
        price = kernels.experts(
            fit,
            self._chip,
            tokens,
            self._hidden,
            block.intermediate_size,
            block.experts_per_token,
            block.experts,
            tp=self._tensor,
            matrices=block.matrices,
            compute=number.compute,
            weight_bytes=number.weight_bytes,
        )
        tally.add("experts", price, count)
        tally.add("experts", self.gemm(self._plain, tokens, block.experts, self._hidden), count)
        if block.shared_intermediate_size:
            shared = block.shared_intermediate_size
            self.feed_forward(tally, shared, block.matrices, matrices, tokens, count, "experts")

    def embedding(self, tally: Tally, tokens: Array, lookups: int) -> None:
        """Add the look-up of tokens, and of positions where they are learned."""
        tally.add("embedding", self._stream(self._embedding, 2 * self._hidden, tokens), lookups)

    def head(self, tally: Tally, rows: Array, vocabulary: int, width: int) -> None:
        """Add the last norm and the output matrix, which stays 16 bit, for the sampled ``rows``."""
        tally.add("head", self._stream(self._norm, 2 * self._hidden, rows))
        tally.add("head", self.gemm(self._plain, rows, -(-vocabulary // self._tensor), width))

    def _stream(self, fit: StreamFit, elements: float, tokens: Array) -> Price:
        return kernels.stream(fit, self._chip, ACTIVATION_BYTES * elements * tokens)


def sampler(known: Coefficients, rows: Array) -> Price:
    """Price the sampler for ``rows`` sequences."""
    row = known.default("sampler", "any")
    seconds = np.asarray(float(row["per_sequence_us"]) * 1e-6 * rows)
    return Price(np.full(seconds.shape, float(row["t0_us"]) * 1e-6), np.zeros(seconds.shape), seconds)


def _latent_projections(attention: Attention, heads: int, hidden: int) -> list[tuple[int, int]]:
    """Return the (columns, depth) of the matrices of latent attention on a rank with ``heads`` heads.

    The down-projections run whole on every rank.  The up-projection of keys and values is priced once for each
    token: prefill unfolds the latent with it, decode folds it into query and output, which is the same work.
    """
    down = attention.kv_lora_rank + attention.rope_head_dim
    query = heads * (attention.nope_head_dim + attention.rope_head_dim)
    shapes = [(down + attention.q_lora_rank, hidden)]
    shapes.append((query, attention.q_lora_rank or hidden))
    shapes.append((heads * (attention.nope_head_dim + attention.value_head_dim), attention.kv_lora_rank))
    shapes.append((hidden, heads * attention.value_head_dim))
    return shapes
