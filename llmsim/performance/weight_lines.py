"""The weights of one device, part by part, each with its formula."""

from collections import Counter
from dataclasses import dataclass

from llmsim.model import weights
from llmsim.model.shape import Attention, FeedForward, Layer, Lstm, ModelShape


@dataclass(frozen=True, slots=True)
class Line:
    """One number: ``value`` in ``unit`` (bytes, bytes/token, bytes/sequence, bytes/block), its formula and source."""

    part: str
    value: float
    unit: str
    formula: str
    source: str


def weight_lines(
    model: ModelShape, first: int, last: int, *, tensor: int, weight_format: str | None = None, experts_over: int = 0
) -> list[Line]:
    """Return the weights of a rank that holds the layers ``first`` to ``last`` (exclusive), by part.

    Routed experts are spread over ``experts_over`` devices (0: over the ``tensor`` ranks).

    The values add up to `llmsim.model.weights.stage_weight_bytes`.
    """
    form = weight_format or model.weight_format
    own = model.attention_format if weight_format is None else None
    layers = [*(model.encoder if first == 0 else ()), *model.layers[first:last]]
    rank = f", over {tensor} ranks" if tensor > 1 else ""
    source = model.source or "config.json"
    lines = _mixer_lines(model, layers, tensor, own or form, rank, source)
    lines += _block_lines(model, layers, (tensor, experts_over or tensor), form, rank, source)
    small = sum(layer.small_parameters for layer in layers) + (
        model.small_parameters if last == len(model.layers) else 0
    )
    wide = weights.format_bytes_per_element(model.dtype)
    if small:
        said = f"{small:,} elements x {wide:g} B ({model.dtype}), whole on every rank"
        lines.append(Line("weights: norms, biases", small * wide, "bytes", said, source))
    held = weights.stage_weight_bytes(
        model, first, last, tensor=tensor, weight_format=weight_format, experts_over=experts_over
    )
    lines = [*_vocabulary_lines(model, first, last, tensor, form, source), *lines]
    rest = held - sum(line.value for line in lines)
    if abs(rest) > 0.5:
        lines.append(Line("weights: other", rest, "bytes", "all weights less those above", source))
    return lines


def _mixer_lines(model: ModelShape, layers: list[Layer], tensor: int, form: str, rank: str, source: str) -> list[Line]:
    """Return the lines of attention, cross attention and recurrent blocks: one for each kind."""
    size = weights.format_bytes_per_element(form)
    lines = []
    for attention, count in Counter(layer.attention for layer in layers if layer.attention is not None).items():
        elements = weights.attention_elements(model.hidden_size, attention, tensor)
        if attention.memory:
            elements += model.hidden_size * attention.heads // tensor * attention.head_dim
        said = (
            f"{count} layers x {elements:,} elements ({_attention_words(model, attention)}{rank}) x {size:g} B ({form})"
        )
        kind = "attention" if attention.window is None else f"attention, window {attention.window:,}"
        lines.append(Line(f"weights: {kind}", count * elements * size, "bytes", said, source))
    for cross, count in Counter(layer.cross for layer in layers if layer.cross is not None).items():
        elements = weights.attention_elements(model.hidden_size, cross, tensor)
        said = f"{count} layers x {elements:,} elements{rank} x {size:g} B ({form})"
        lines.append(Line("weights: cross attention", count * elements * size, "bytes", said, source))
    for block, count in Counter(layer.recurrent for layer in layers if layer.recurrent is not None).items():
        elements = weights.recurrent_elements(model.hidden_size, block, tensor)
        said = f"{count} layers x {elements:,} elements{rank} x {size:g} B ({form})"
        kind = "lstm" if isinstance(block, Lstm) else block.kind
        lines.append(Line(f"weights: recurrent ({kind})", count * elements * size, "bytes", said, source))
    return lines


def _attention_words(model: ModelShape, attention: Attention) -> str:
    if attention.kind == "mla":
        return "latent: down-projections whole, the rest by heads"
    return f"{model.hidden_size} x {attention.head_dim} x 2 x ({attention.heads} heads + {attention.kv_heads} KV heads)"


def _block_lines(
    model: ModelShape, layers: list[Layer], over: tuple[int, int], form: str, rank: str, source: str
) -> list[Line]:
    """Return the lines of feed-forward blocks, experts and routers; ``over``: ranks of matrices, and of experts."""
    tensor, experts_over = over
    size, wide = weights.format_bytes_per_element(form), weights.format_bytes_per_element(model.dtype)
    lines = []
    for block, count in Counter(layer.feed_forward for layer in layers if layer.feed_forward is not None).items():
        elements = weights.feed_forward_elements(model.hidden_size, block, tensor, experts_over)
        spread = f", experts over {experts_over} devices" if block.experts and experts_over != tensor else rank
        said = f"{count} layers x {elements:,} elements ({_block_words(model, block)}{spread}) x {size:g} B ({form})"
        part = "experts" if block.experts else "feed-forward"
        lines.append(Line(f"weights: {part}", count * elements * size, "bytes", said, source))
        routed = weights.router_elements(model.hidden_size, block)
        if routed:
            said = f"{count} layers x {model.hidden_size} x {block.experts} x {wide:g} B ({model.dtype})"
            lines.append(Line("weights: router", count * routed * wide, "bytes", said, source))
    return lines


def _block_words(model: ModelShape, block: FeedForward) -> str:
    width = f"{block.intermediate_size}"
    if block.experts:
        shared = f" + {block.shared_intermediate_size} shared" if block.shared_intermediate_size else ""
        width = f"({block.experts} experts x {block.intermediate_size}{shared})"
    return f"{block.matrices} x {model.hidden_size} x {width}"


def _vocabulary_lines(model: ModelShape, first: int, last: int, tensor: int, form: str, source: str) -> list[Line]:
    """Return the lines of embedding and output matrix, as far as the stage holds them."""
    width = model.embedding_size or model.hidden_size
    rows = weights.padded_vocabulary(model, tensor)
    wide = weights.format_bytes_per_element(model.dtype)
    names = weights.vocabulary_formats(model.dtype, form)
    sizes = [weights.format_bytes_per_element(name) for name in names]
    part = f", 1/{tensor} of them" if tensor > 1 else ""
    told = [
        f"{rows:,.0f} tokens x {width} x {size:g} B ({name}){part}" for name, size in zip(names, sizes, strict=True)
    ]
    lines = []
    if first == 0:
        more = weights.embedding_elements(model) - model.vocab_size * width
        size = rows * width * sizes[0] + more * wide
        beside = f" + {more:,} elements of positions and projections" if more else ""
        lines.append(Line("weights: embedding", size, "bytes", told[0] + beside, source))
    if last == len(model.layers):
        if model.encoder_only:
            size = weights.head_elements(model) * wide
            if size:
                lines.append(Line("weights: pooler", size, "bytes", f"{model.hidden_size}^2 x {wide:g} B", source))
        elif not (model.tied_embeddings and first == 0):
            lines.append(Line("weights: output matrix", rows * width * sizes[1], "bytes", told[1], source))
    return lines
