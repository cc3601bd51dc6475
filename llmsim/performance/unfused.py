"""What frameworks do that fuse little: scores of attention in memory, vectors moved once more, a launch for each step.

Which stacks do is told in ``hardware/performance/stacks.yaml`` (`llmsim.performance.correction.Unfused`).
"""

from collections.abc import Sequence

from llmsim.model.shape import Attention, CacheGroup, Layer, Lstm
from llmsim.performance.attention import GroupAttention
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.correction import Unfused
from llmsim.performance.kernels import Array, Price, stream
from llmsim.performance.operators import Matrices

# Kernels of an attention that is none: both products with their scores, scale, mask, softmax.
SCORE_KERNELS = 5
# Launches of each part of a layer, biases as kernels of their own, counted in the modules of Hugging Face's BERT (19
# with four projections, 7 for a block with two matrices) and of NVIDIA DeepLearningExamples' Transformer-XL and GNMT.
ATTENTION_LAUNCHES = 19
RELATIVE_LAUNCHES = 24
CROSS_LAUNCHES = 12
BLOCK_LAUNCHES = 7
LSTM_LAUNCHES = 4  # one call computes all gates of all tokens; then what joins it to its neighbours
PLAIN_LAUNCHES = ATTENTION_LAUNCHES + BLOCK_LAUNCHES


def plain_layers(layers: Sequence[Layer]) -> float:
    """Return how many plain layers (attention and a block of two matrices) have as many launches as ``layers``."""
    return sum(launches(layer) for layer in layers) / PLAIN_LAUNCHES


def launches(layer: Layer) -> int:
    """Return the kernels that a framework without fusion launches for a layer."""
    count = 0
    if layer.attention is not None:
        count += RELATIVE_LAUNCHES if layer.attention.memory else ATTENTION_LAUNCHES
    if layer.cross is not None:
        count += CROSS_LAUNCHES
    if layer.feed_forward is not None:
        count += BLOCK_LAUNCHES
    if layer.recurrent is not None:
        count += LSTM_LAUNCHES if isinstance(layer.recurrent, Lstm) else ATTENTION_LAUNCHES
    return count


def is_unfused(attention: Attention, unfused: Unfused | None, matrices: Matrices) -> bool:
    """Return whether a stack computes this attention in kernels of its own for scores and softmax."""
    if unfused is None:
        return False
    narrow = matrices.number.activation_bytes <= 2.0
    return not (narrow and attention.bidirectional and attention.head_dim in unfused.fused_heads)


def moved(known: Coefficients, hidden: float, tokens: Array, matrices: Matrices) -> Price:
    """Price ``hidden`` elements of each token that kernels of their own move, without their launches.

    The launches bound a small step from the host's side, where `HostWork` has them.
    """
    price = stream(known.stream("act"), known.chip, score_bytes(matrices) * hidden * tokens)
    return Price(0.0 * price.launch, price.compute, price.memory)


def score_bytes(matrices: Matrices) -> float:
    """Return the bytes of one element between kernels: 4 in single precision, else 2."""
    return max(matrices.number.activation_bytes, 2.0)


class Products:
    """Both products of attention as batched matrix products, one for each head: depth head_dim, then depth span."""

    def __init__(self, known: Coefficients, matrices: Matrices, heads: int, head_dim: int) -> None:
        fit = matrices.known.fit
        self._flop_s = 2 * heads / (known.chip.flops[matrices.number.compute] * fit.e_max)
        self._width, self._lost = head_dim, fit.kh

    def seconds(self, queries: float, span: float) -> float:
        """Return the seconds of ``queries`` tokens that meet ``span`` keys each, with what small depths lose."""
        return self._flop_s * queries * (span * (self._width + self._lost) + self._width * (span + self._lost))


class UnfusedAttention(GroupAttention):
    """Attention whose scores lie in memory: a product, passes over whole squares of scores, and another product.

    Nothing is saved for tokens that a mask hides.  Tokens that are generated one by one are priced as `GroupAttention`
    does: their scores are a vector.
    """

    def __init__(
        self,
        known: Coefficients,
        group: CacheGroup,
        tensor: int,
        cache_format: str,
        unfused: Unfused,
        matrices: Matrices,
        shares: Sequence[int] | None = None,
    ) -> None:
        super().__init__(known, group, tensor, cache_format, shares=shares)
        self._products = Products(known, matrices, self.heads, self.head_dim)
        activations = known.stream("act")
        size = score_bytes(matrices)
        self._launch_s = SCORE_KERNELS * activations.t0_us * 1e-6
        self._score_s = unfused.scores * size * self.heads / (known.chip.bandwidth * activations.e_bw)

    def mixed(
        self,
        chunks: Sequence[tuple[int, int]],
        decodes: int,
        context_sum: float,
        longest: float,
        queries: float = 1.0,
    ) -> tuple[float, float]:
        """Price all layers for ``chunks`` beside ``decodes`` sequences: seconds, and the share of compute."""
        seconds, share = super().mixed([], decodes, context_sum, longest, queries) if decodes else (0.0, 0.0)
        if not chunks:
            return seconds, share
        scores = sum(new * (new + prefix) for new, prefix in chunks)
        compute = sum(self._products.seconds(new, new + prefix) for new, prefix in chunks)
        own = self._launch_s + compute + scores * self._score_s
        total = seconds + own * self.layers
        return total, (seconds * share + compute * self.layers) / total
