"""The operators of a transformer layer on one rank, each as the kernels that run it.

Sizes are those of vLLM's tensor parallelism: query, output and feed-forward matrices are cut over ``tensor``
ranks, KV heads too until each rank has one, and what is small (norms, the router, the down-projections of
latent attention) every rank does whole.  Activations are 16 bit.  Composition: performance model section 3.
"""

from dataclasses import dataclass

import numpy as np

from llmsim.model.shape import Attention, FeedForward, Lstm, Recurrent
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
        self._residuals = known.residuals
        self._hidden = hidden
        self._tensor = tensor
        self._plain = plain  # 16-bit matrices: router, head
        self._norm, self._rope = known.stream("norm"), known.stream("rope")
        self._activation, self._embedding = known.stream("act"), known.stream("embedding")

    @property
    def hidden(self) -> int:
        """Elements of a token between layers."""
        return self._hidden

    def gemm(self, matrices: Matrices, rows: Array, columns: float, depth: float) -> Price:
        """Price a product with a (depth x columns) matrix for ``rows`` tokens."""
        number = matrices.number
        price = kernels.gemm(
            matrices.known.fit,
            self._chip,
            rows,
            columns,
            depth,
            compute=number.compute,
            weight_bytes=number.weight_bytes,
            activation_bytes=number.activation_bytes,
        )
        if not self._residuals:
            return price
        return price.times(self._residuals.line("gemm", (number.kernel,), (columns, depth), rows))

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
            queries = 2 * heads if attention.gated else heads
            shapes = [((queries + 2 * kv_heads) * head_dim, self._hidden), (self._hidden, heads * head_dim)]
            rotated = (heads + kv_heads) * head_dim
        if attention.global_tokens:  # every token has keys and values of a second kind, for the global ones
            shapes.append((2 * heads * attention.head_dim, self._hidden))
        for columns, depth in shapes:
            tally.add("attention", self.gemm(matrices, tokens, columns, depth), count)
        if rotary:
            tally.add("attention", self._stream(self._rope, 2 * rotated, tokens), count)

    def cross(self, tally: Tally, attention: Attention, matrices: Matrices, tokens: Array, count: int) -> None:
        """Add the query and output products of ``count`` cross attentions; keys and values are the encoder's work."""
        width = -(-attention.heads // self._tensor) * attention.head_dim
        tally.add("attention", self.gemm(matrices, tokens, width, self._hidden), count)
        tally.add("attention", self.gemm(matrices, tokens, self._hidden, width), count)

    def recurrent(self, tally: Tally, block: Recurrent | Lstm, matrices: Matrices, tokens: Array, count: int) -> None:
        """Add what ``count`` recurrent blocks do for each token alone: products in and out, convolution, gate.

        The part that passes from token to token is `RecurrentGroup`'s and `LstmGroup`'s.
        """
        if isinstance(block, Lstm):
            columns = -(-block.directions * 4 * block.hidden_size // self._tensor)
            tally.add("attention", self.gemm(matrices, tokens, columns, block.input_size), count)
            return
        inner, channels = -(-block.inner // self._tensor), -(-block.channels // self._tensor)
        columns = inner + channels + (0 if block.kind == "mamba" else -(-block.heads // self._tensor))
        tally.add("attention", self.gemm(matrices, tokens, columns, self._hidden), count)
        if block.kind == "mamba":
            tally.add("attention", self.gemm(matrices, tokens, block.rank + 2 * block.state_size, inner), count)
            tally.add("attention", self.gemm(matrices, tokens, inner, block.rank), count)
        tally.add("attention", self._stream(self._activation, 2 * channels, tokens), count)  # convolution
        tally.add("attention", self._stream(self._activation, 3 * inner, tokens), count)  # gate and norm
        tally.add("attention", self.gemm(matrices, tokens, self._hidden, inner), count)

    def pooler(self, tally: Tally, rows: Array) -> None:
        """Add the square matrix at the end of an encoder."""
        tally.add("head", self.gemm(self._plain, rows, self._hidden, self._hidden))

    def feed_forward(
        self, tally: Tally, width: int, gated: int, matrices: Matrices, tokens: Array, count: int, operator: str
    ) -> None:
        """Add ``count`` dense blocks; ``gated`` is the number of matrices, 3 with a gate and 2 without."""
        local = -(-width // self._tensor)
        tally.add(operator, self.gemm(matrices, tokens, (gated - 1) * local, self._hidden), count)
        tally.add(operator, self._stream(self._activation, gated * local, tokens), count)
        tally.add(operator, self.gemm(matrices, tokens, self._hidden, local), count)

    def experts(
        self,
        tally: Tally,
        block: FeedForward,
        fit: ExpertsFit,
        matrices: Matrices,
        tokens: Array,
        count: int,
        *,
        spread: tuple[int, int] | None = None,
        row_cost: float = 1.0,
    ) -> None:
        """Add the routed experts of ``count`` mixtures, for ``tokens`` of all ranks that share them.

        ``spread`` is over how many devices each expert is cut, and over how many they are dealt whole; None: each is
        cut over the ``tensor`` ranks.  ``row_cost`` is the stack's factor on a routed row.
        """
        number = matrices.number
        cut, dealt = spread or (self._tensor, 1)
        price = kernels.experts(
            fit,
            self._chip,
            tokens,
            self._hidden,
            block.intermediate_size,
            block.experts_per_token,
            block.experts,
            tp=cut,
            ep=dealt,
            matrices=block.matrices,
            compute=number.compute,
            weight_bytes=number.weight_bytes,
            row_cost=row_cost,
        )
        if self._residuals:
            sizes = (self._hidden, block.intermediate_size, block.experts_per_token, block.experts, cut, dealt)
            price = price.times(self._residuals.line("moe", (number.kernel, *sizes), (), tokens))
        tally.add("experts", price, count)

    def beside_experts(self, tally: Tally, block: FeedForward, matrices: Matrices, tokens: Array, count: int) -> None:
        """Add what ``count`` mixtures do with a rank's own ``tokens``: the router, and the experts that all visit."""
        tally.add("experts", self.gemm(self._plain, tokens, block.experts, self._hidden), count)
        if block.shared_intermediate_size:
            shared = block.shared_intermediate_size
            self.feed_forward(tally, shared, block.matrices, matrices, tokens, count, "experts")

    def embedding(self, tally: Tally, tokens: Array, lookups: int) -> None:
        """Add the look-up of tokens, and of positions where they are learned."""
        tally.add("embedding", self._stream(self._embedding, 2 * self._hidden, tokens), lookups)

    def head(self, tally: Tally, rows: Array, vocabulary: int, width: int, matrices: Matrices | None = None) -> None:
        """Add the last norm and the output matrix, which stays 16 bit unless said, for the sampled ``rows``."""
        tally.add("head", self._stream(self._norm, 2 * self._hidden, rows))
        tally.add("head", self.gemm(matrices or self._plain, rows, -(-vocabulary // self._tensor), width))

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
