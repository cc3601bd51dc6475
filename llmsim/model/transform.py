"""Pruned and distilled models: the shape of what would be left.  What that does to the answers is not modelled.

- ``layers`` takes layers out: the share nearest to the one asked for, from behind, but for the last layer, which is
  kept.  Source: Gromov et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers" (a block of neighbours
  before the last layer); the depth-pruned Minitron drops layers 16 to 31 of 32 in one piece too.
- ``width`` takes heads and feed-forward neurons out of every layer, the same share of both, so that the matrices of the
  layers shrink by just that share; the hidden size stays, and so do embedding and head.  Query heads go with their KV
  head, widths are rounded to multiples of 128.  Source: Ma et al. 2023, LLM-Pruner (coupled structures).
- ``heads`` takes heads only.
- ``unstructured`` sets single weights to zero.  The matrices stay as they are, in memory too, and no engine skips the
  zeros: a step takes as long as before.
- ``2:4`` sets two of each four neighbours to zero, on devices whose data sheet has matrix units for that: half of the
  values and two bits for each place, 9/16 of the bytes at 16 bit.  Source: Mishra et al. 2021, "Accelerating Sparse
  Deep Neural Networks".

A distilled model is a smaller one of the same make: fewer layers, a smaller hidden size, or both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from llmsim.errors import InfeasibleError, InputError
from llmsim.model.shape import Attention, FeedForward, Layer, ModelShape
from llmsim.model.weights import SPARSE_FORMATS, parameters

PruneKind = Literal["width", "layers", "heads", "unstructured", "2:4"]
PRUNE_KINDS: tuple[str, ...] = get_args(PruneKind)
# Widths stay multiples of this, the side of the tiles that matrix products are cut into.
TILE = 128
_SAID = "quality is not modelled, so nothing here says how good its answers are"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """What is done to a model before it is served: distilled first, then pruned.

    ``prune`` is the share taken away, 0 <= prune < 1; ``layers``, ``hidden``, ``heads``, ``kv_heads`` and
    ``intermediate`` are those of the distilled model, None for what follows from the rest.
    """

    prune: float = 0.0
    prune_kind: PruneKind = "width"
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    intermediate: int | None = None

    @property
    def distils(self) -> bool:
        """Whether a smaller model takes the place of the one given."""
        return any((self.layers, self.hidden, self.heads, self.kv_heads, self.intermediate))

    def __bool__(self) -> bool:
        return self.prune > 0 or self.distils


def transformed(model: ModelShape, transform: Transform, *, sparsity: str | None = None) -> ModelShape:
    """Return the shape of ``model`` after ``transform``; ``notes`` of it say what was done.

    Args:
        model: what is pruned or distilled.
        transform: what is done.
        sparsity: the pattern of zeros that the device's matrix units skip, from its data sheet; only "2:4" is known.

    Raises:
        InputError: a size is not smaller than before, or nothing would be left.
        InfeasibleError: 2:4 on a device that does not state it, or of a format that has no such units.
    """
    if not 0 <= transform.prune < 1:
        raise InputError(f"prune: not a share from 0 to below 1 (got {transform.prune:g})")
    if transform.distils:
        model = _distilled(model, transform)
    if not transform.prune:
        return model
    if transform.prune_kind == "2:4":
        return _sparse(model, transform.prune, sparsity)
    makers: Mapping[str, Callable[[ModelShape, float], ModelShape]] = {
        "width": _narrower,
        "layers": _shallower,
        "heads": _fewer_heads,
        "unstructured": lambda same, _: same,
    }
    changed = makers[transform.prune_kind](model, transform.prune)
    name = f"{model.name}-pruned-{transform.prune_kind}-{100 * transform.prune:g}"
    return _noted(changed, name, f"pruned by {transform.prune:.0%} ({_WORDS[transform.prune_kind]})")


_WORDS = {
    "width": "heads and feed-forward neurons of every layer",
    "layers": "whole layers",
    "heads": "attention heads",
    "unstructured": "single weights; stored dense, and no kernel skips the zeros: neither faster nor smaller",
}


def _noted(model: ModelShape, name: str, note: str) -> ModelShape:
    """Return ``model`` under ``name``, with a note on what was done and on how large it is now."""
    said = f"{note}; {parameters(model) / 1e9:.3g} B parameters; {_SAID}"
    return replace(model, name=name, notes=(*model.notes, said))


# -- pruning ------------------------------------------------------------------------------------------


def _shallower(model: ModelShape, share: float) -> ModelShape:
    """Return ``model`` with the nearest whole number of its layers to ``1 - share``, at least one."""
    kept = max(1, round(len(model.layers) * (1 - share)))
    encoder = model.encoder
    if encoder:
        encoder = _fewer(encoder, max(1, round(len(encoder) * (1 - share))))
    return replace(model, layers=_fewer(model.layers, kept), encoder=encoder)


def _fewer(layers: tuple[Layer, ...], kept: int) -> tuple[Layer, ...]:
    """Return the first ``kept - 1`` layers and the last one."""
    return (*layers[: kept - 1], layers[-1])


def _narrower(model: ModelShape, share: float) -> ModelShape:
    return _each_layer(_fewer_heads(model, share), lambda layer: _narrow(layer, 1 - share))


def _narrow(layer: Layer, left: float) -> Layer:
    block = layer.feed_forward
    if block is None:
        return layer
    return replace(
        layer,
        feed_forward=replace(
            block,
            intermediate_size=_tiles(block.intermediate_size * left, block.intermediate_size),
            shared_intermediate_size=_tiles(block.shared_intermediate_size * left, block.shared_intermediate_size),
        ),
    )


def _fewer_heads(model: ModelShape, share: float) -> ModelShape:
    def change(layer: Layer) -> Layer:
        _check_heads(model, layer)
        attention, cross = (one and _with_heads(one, 1 - share) for one in (layer.attention, layer.cross))
        return replace(layer, attention=attention, cross=cross)

    return _each_layer(model, change)


def _check_heads(model: ModelShape, layer: Layer) -> None:
    if layer.recurrent is not None:
        raise InputError(
            f"prune: heads of the recurrent layers of {model.name} cannot be taken out here\n"
            "hint: prune_kind layers, or a distilled model"
        )


def _with_heads(attention: Attention, left: float) -> Attention:
    """Return ``attention`` with the share ``left`` of its heads: KV heads with all their query heads.

    With one KV head, or latent attention, which has none, query heads go one by one.
    """
    if attention.kind == "mla" or attention.kv_heads == 1:
        heads = max(1, round(attention.heads * left))
        return replace(attention, heads=heads, kv_heads=heads if attention.kind == "mla" else 1)
    kv_heads = max(1, round(attention.kv_heads * left))
    return replace(attention, heads=attention.heads // attention.kv_heads * kv_heads, kv_heads=kv_heads)


def _each_layer(model: ModelShape, change: Callable[[Layer], Layer]) -> ModelShape:
    changed = {layer: change(layer) for layer in dict.fromkeys((*model.encoder, *model.layers))}
    return replace(
        model,
        layers=tuple(changed[layer] for layer in model.layers),
        encoder=tuple(changed[layer] for layer in model.encoder),
    )


def _tiles(width: float, before: int) -> int:
    """Return ``width`` as a multiple of 128, where the width before was one and there is more than one tile."""
    if before % TILE or width < TILE:
        return max(round(width), min(before, 1))
    return round(width / TILE) * TILE


def _sparse(model: ModelShape, share: float, sparsity: str | None) -> ModelShape:
    if share != 0.5:
        raise InputError(f"prune: 2:4 is half of the weights (got {share:g})\nhint: prune 0.5, or another prune_kind")
    if sparsity != "2:4":
        raise InfeasibleError(
            "prune_kind: 2:4 needs matrix units that skip zeros, and the device's data sheet has none\n"
            "hint: prune_kind width, heads or layers"
        )
    wanted = SPARSE_FORMATS.get(model.weight_format)
    if wanted is None:
        known = ", ".join(SPARSE_FORMATS)
        raise InfeasibleError(f"prune_kind: 2:4 is of weights in {known} only (got {model.weight_format})")
    attention = model.attention_format and SPARSE_FORMATS.get(model.attention_format, model.attention_format)
    changed = replace(model, weight_format=wanted, attention_format=attention)
    return _noted(changed, f"{model.name}-pruned-2-4", "pruned 2:4 (two of each four weights)")


# -- distillation -------------------------------------------------------------------------------------


def _distilled(model: ModelShape, wanted: Transform) -> ModelShape:
    """Return a smaller model of the same make; heads keep their width, and other sizes go with the hidden size."""
    depth = len(model.layers)
    layers = wanted.layers or depth
    hidden = wanted.hidden or model.hidden_size
    for name, size, most in (("layers", layers, depth), ("hidden", hidden, model.hidden_size)):
        if not 1 <= size <= most:
            raise InputError(f"distill_to: {name}: not within 1 to {most}, those of {model.name} (got {size})")
    ratio = hidden / model.hidden_size
    kept = replace(model, layers=_fewer(model.layers, layers))
    if model.encoder:
        kept = replace(kept, encoder=_fewer(model.encoder, max(1, round(len(model.encoder) * layers / depth))))
    kept = _each_layer(kept, lambda layer: _student(model, layer, wanted, ratio))
    said = [f"{layers} layers"] + ([f"hidden size {hidden}"] if ratio != 1 else [])
    embedding = model.embedding_size and min(model.embedding_size, hidden)
    kept = replace(
        kept,
        hidden_size=hidden,
        embedding_size=None if embedding == hidden else embedding,
        small_parameters=round(model.small_parameters * ratio),
    )
    name = f"{model.name}-distilled-{layers}-layers" + (f"-{hidden}" if ratio != 1 else "")
    return _noted(kept, name, f"distilled to {' and '.join(said)}")


def _student(model: ModelShape, layer: Layer, wanted: Transform, ratio: float) -> Layer:
    """Return a layer of the student: the teacher's, in proportion to the hidden size unless sizes were given."""
    narrower = ratio != 1 or bool(wanted.heads or wanted.kv_heads)
    if narrower and layer.recurrent is not None:
        raise InputError(f"distill_to: hidden: {model.name} has recurrent layers, give layers only")
    attention, cross = (
        _student_heads(one, wanted, ratio) if one is not None and narrower else one
        for one in (layer.attention, layer.cross)
    )
    block = layer.feed_forward
    if block is not None:
        block = _student_block(block, wanted, ratio)
    return replace(
        layer,
        attention=attention,
        cross=cross,
        feed_forward=block,
        small_parameters=round(layer.small_parameters * ratio),
    )


def _student_heads(attention: Attention, wanted: Transform, ratio: float) -> Attention:
    heads = wanted.heads or max(1, round(attention.heads * ratio))
    if attention.kind == "mla":
        return replace(attention, heads=heads, kv_heads=heads)
    kv_heads = wanted.kv_heads or (heads if attention.kv_heads == attention.heads else attention.kv_heads)
    while wanted.kv_heads is None and heads % kv_heads:
        kv_heads -= 1  # the most KV heads, no more than the teacher's, that share the query heads evenly
    if kv_heads > heads or heads % kv_heads:
        raise InputError(f"distill_to: kv_heads: does not divide the {heads} heads (got {kv_heads})")
    if heads > attention.heads:
        raise InputError(f"distill_to: heads: more than the model's {attention.heads} (got {heads})")
    return replace(attention, heads=heads, kv_heads=kv_heads)


def _student_block(block: FeedForward, wanted: Transform, ratio: float) -> FeedForward:
    width = wanted.intermediate or _tiles(block.intermediate_size * ratio, block.intermediate_size)
    if width > block.intermediate_size:
        raise InputError(f"distill_to: intermediate: more than the model's {block.intermediate_size} (got {width})")
    shared = block.shared_intermediate_size
    return replace(block, intermediate_size=width, shared_intermediate_size=_tiles(shared * ratio, shared))
