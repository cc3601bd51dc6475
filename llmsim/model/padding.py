"""Heads added to a model so that they divide among devices: they cost what any head costs and say nothing.

Pope et al. 2022, "Efficiently Scaling Transformer Inference", section 4: PaLM's 48 heads padded to 64 for 64 chips.
vLLM refuses such a plan; who partitions by hand may pad.
"""

from dataclasses import replace
from math import lcm

from llmsim.errors import ModelError
from llmsim.model.shape import Attention, Layer, ModelShape


def heads_needed(model: ModelShape, tensor: int) -> int | None:
    """Return to how many query heads a model must be padded for ``tensor`` devices; None when it divides as it is."""
    fits = [_padded(one, tensor) for one in _attentions(model)]
    if all(heads == one.heads for heads, one in zip(fits, _attentions(model), strict=True)):
        return None
    return max(fits)


def with_heads(model: ModelShape, heads: int) -> ModelShape:
    """Return ``model`` with query heads added to every layer until it has ``heads``; its name says so.

    KV heads grow along where there is one for each query head; fewer are left as they are and must divide ``heads``.

    Raises:
        ModelError: the model has more heads, no heads, or KV heads that do not divide them.
    """
    attentions = _attentions(model)
    if not attentions or max(one.heads for one in attentions) > heads:
        raise ModelError(f"model {model.name}: padding its heads: only adds heads (got {heads})")
    wrong = [one.kv_heads for one in attentions if one.kv_heads != one.heads and heads % one.kv_heads]
    if wrong:
        raise ModelError(f"model {model.name}: padding its heads: {wrong[0]} KV heads do not divide them (got {heads})")
    return replace(
        model,
        name=f"{model.name}-heads{heads}",
        layers=tuple(_with(layer, heads) for layer in model.layers),
        encoder=tuple(_with(layer, heads) for layer in model.encoder),
        notes=(*model.notes, f"padded to {heads} query heads"),
    )


def _padded(attention: Attention, tensor: int) -> int:
    grouped = attention.kv_heads not in (1, attention.heads)
    step = lcm(tensor, attention.kv_heads) if grouped else tensor
    return -(-attention.heads // step) * step


def _with(layer: Layer, heads: int) -> Layer:
    return replace(layer, attention=_wider(layer.attention, heads), cross=_wider(layer.cross, heads))


def _wider(attention: Attention | None, heads: int) -> Attention | None:
    if attention is None:
        return None
    kv_heads = heads if attention.kv_heads == attention.heads else attention.kv_heads
    return replace(attention, heads=heads, kv_heads=kv_heads)


def _attentions(model: ModelShape) -> list[Attention]:
    layers = (*model.encoder, *model.layers)
    return list(dict.fromkeys(one for layer in layers for one in (layer.attention, layer.cross) if one is not None))
