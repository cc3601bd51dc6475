"""From a config.json to a `ModelShape`: which family it is of, what that family makes of it, what is refused."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llmsim.errors import ModelError
from llmsim.model import quantization
from llmsim.model.config import Config
from llmsim.model.encoders import ENCODERS
from llmsim.model.families import DENSE, Body, Dense, decoder
from llmsim.model.hybrids import HYBRIDS
from llmsim.model.mixtures import MIXTURES
from llmsim.model.shape import Layer, ModelShape

FAMILIES: dict[str, Callable[[Config], Body]] = {**DENSE, **MIXTURES, **ENCODERS, **HYBRIDS}

_ENCODERS = ("deberta-v2", "electra", "modernbert", "nomic_bert")
_ENCODER_DECODERS = ("bart", "mbart", "pegasus", "whisper", "marian", "m2m_100", "t5gemma")
_RECURRENT = (
    "bamba", "zamba", "zamba2", "falcon_h1", "rwkv", "recurrent_gemma", "lfm2", "minimax", "kimi_linear", "plamo2",
)  # fmt: skip
_RECURRENT_KEYS = (
    "hybrid_override_pattern", "layers_block_type", "ssm_state_size", "mamba_d_state", "mamba_num_heads",
    "linear_num_key_heads", "full_attention_interval", "attn_layer_period", "ssm_cfg",
)  # fmt: skip


def shape_of(content: Mapping[str, Any], *, name: str, source: str = "") -> ModelShape:
    """Return the shape that a config.json describes.

    Raises:
        ModelError: a key is missing or wrong, or the family is not supported; the message names it.
    """
    where = source or f"model {name}"
    if not isinstance(content, Mapping):
        raise ModelError(f"{where}: not a mapping of keys to values")
    config = Config(where, content)
    body = _family(config)(config)
    dtype = config.dtype()
    said = config.whole.get("quantization_config") or config.whole.get("compression_config")
    formats = quantization.read(where, said, dtype)
    tied = config.whole.get("tie_word_embeddings", config.content.get("tie_word_embeddings"))
    hidden = config.count("hidden_size", body.hidden_default)
    projected = config.amount("word_embed_proj_dim", hidden)
    # With an encoder the prompt may be that long, and so may the answer.
    longest = config.max_model_len(body.positions_default) * (2 if body.encoder else 1)
    return ModelShape(
        name=name,
        architecture=config.model_type,
        hidden_size=hidden,
        vocab_size=config.count("vocab_size", body.vocab_default),
        layers=tuple(_within(layer, longest) for layer in body.layers),
        max_model_len=longest,
        weight_format=formats.weights or dtype,
        tied_embeddings=body.tied_default if tied is None else bool(tied),
        attention_bias=body.attention_bias,
        position_embeddings=body.position_embeddings,
        source=str(content.get("_source", source)),
        attention_format=formats.attention,
        dtype=dtype,
        cache_format=formats.cache,
        embedding_size=projected if projected != hidden else None,
        small_parameters=body.small_parameters,
        notes=body.notes,
        mtp_layers=config.amount("num_nextn_predict_layers"),
        encoder=body.encoder,
        encoder_only=body.encoder_only,
        pooled=body.pooled,
        rotary=body.rotary,
        static_scales=formats.static_scales,
    )


def _within(layer: Layer, longest: int) -> Layer:
    """Return a layer without its window when no context can outgrow that."""
    attention = layer.attention
    if attention is None or attention.window is None or attention.window < longest or attention.memory:
        return layer
    return replace(layer, attention=replace(attention, window=None, chunked=False))


def _family(config: Config) -> Callable[[Config], Body]:
    kind = config.model_type
    if kind in FAMILIES:
        return FAMILIES[kind]
    refused = _refusal(config, kind)
    if refused:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(
            f"{config.where}: model_type: {refused} are not supported yet (got {kind!r})\nhint: supported are {known}"
        )
    if config.raw("experts") or config.raw("kv_lora_rank"):
        raise ModelError(
            f"{config.where}: model_type: unknown, and a mixture of experts or latent attention is not guessed at "
            f"(got {kind!r})\nhint: if it is laid out like a known family, set model_type to that, e.g. qwen3_moe"
        )
    missing = [key for key in ("hidden_size", "intermediate_size", "num_attention_heads") if key not in config.content]
    if missing:
        raise ModelError(f"{config.where}: model_type: unknown, and {', '.join(missing)} missing (got {kind!r})")
    return _guess


def _refusal(config: Config, kind: str) -> str:
    if config.outer.get("is_encoder_decoder") is True or kind in _ENCODER_DECODERS:
        return "encoder-decoder models"
    architectures = config.outer.get("architectures") or ()
    if kind in _ENCODERS or any("MaskedLM" in str(entry) for entry in architectures):
        return "encoder-only models"
    recurrent = any(config.raw(key) is not None for key in _RECURRENT_KEYS)
    return "models with state-space or linear-attention layers" if recurrent or kind in _RECURRENT else ""


def _guess(config: Config) -> Body:
    """Read an unknown family with llama's keys as a llama, and say so."""
    body = decoder(Dense())(config)
    note = f"model type {config.model_type!r} is unknown: read as a dense llama-like decoder"
    return Body(body.layers, body.small_parameters, attention_bias=body.attention_bias, notes=(note,))
