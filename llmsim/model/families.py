"""The families of language models: what each makes of its config.json, one small function a family.

Every family returns its layers, the parameters outside of them that are no matrices, and its learned
positions.  Defaults are those of the transformers configuration class when a key is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from llmsim.errors import ModelError
from llmsim.model.config import Config
from llmsim.model.shape import Attention, FeedForward, Layer

# The longest context of a recurrent model whose file names none: the architecture sets no limit.
UNLIMITED = 131072


@dataclass(frozen=True, slots=True)
class Body:
    """What a family says of a model beyond its width and its vocabulary."""

    layers: tuple[Layer, ...]
    small_parameters: int
    tied_default: bool = False
    position_embeddings: int = 0
    attention_bias: bool = False
    vocab_default: int | None = None
    hidden_default: int | None = None
    positions_default: int | None = None
    notes: tuple[str, ...] = ()
    encoder: tuple[Layer, ...] = ()
    encoder_only: bool = False
    pooled: bool = False
    rotary: bool = True


@dataclass(frozen=True, slots=True)
class Dense:
    """The rules in which llama-like families differ."""

    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    matrices: int = 3
    norms: float = 2.0  # weight vectors a layer; LayerNorm with bias counts double
    final_norms: float = 1.0
    qk_norm: Literal["none", "head", "full"] = "none"
    tied: bool = False
    head_dim: int | None = None


Windows = Callable[[Config, int], list[int | None]]


def windows_everywhere(config: Config, layers: int) -> list[int | None]:
    """Return one window for all layers, as in Mistral 7B v0.1; none when ``use_sliding_window`` says so."""
    kinds = config.kinds(layers)
    window = config.window() if config.flag("use_sliding_window", True) else None
    if kinds is not None:
        return _by_kind(config, kinds)
    return [window] * layers


def windows_from_layer(config: Config, layers: int) -> list[int | None]:
    """Return Qwen's windows: off by default, else from layer ``max_window_layers`` on."""
    kinds = config.kinds(layers)
    if kinds is not None:
        return _by_kind(config, kinds)
    window = config.window() if config.flag("use_sliding_window", False) else None
    first = config.amount("max_window_layers", 28)
    return [window if index >= first else None for index in range(layers)]


def windows_alternating(every: int, default: int) -> Windows:
    """Return the rule "all layers slide, but each ``every``-th" of Gemma 2 and 3 and gpt-oss."""

    def windows(config: Config, layers: int) -> list[int | None]:
        kinds = config.kinds(layers)
        if kinds is not None:
            return _by_kind(config, kinds, default)
        period = config.count("sliding_window_pattern", every)
        window = config.window(default)
        return [None if (index + 1) % period == 0 else window for index in range(layers)]

    return windows


def _by_kind(config: Config, kinds: list[str], default: int | None = None) -> list[int | None]:
    window: dict[str, int | None] = {
        "full_attention": None,
        "sliding_attention": config.window(default),
        "chunked_attention": config.count("attention_chunk_size", 8192),
    }
    for index, kind in enumerate(kinds):
        if kind not in window:
            raise ModelError(
                f"{config.where}: layer_types[{index}]: layers of this kind are not supported yet (got {kind!r})"
            )
    return [window[kind] for kind in kinds]


def attention_of(config: Config, dense: Dense, hidden: int) -> Attention:
    """Return the attention block that most families share; KV heads default to all heads."""
    heads = config.count("num_attention_heads")
    head_dim = config.count("head_dim", dense.head_dim or hidden // heads)
    return Attention(heads, config.count("num_key_value_heads", heads), head_dim)


def small_of(attention: Attention, hidden: int, dense: Dense) -> int:
    """Return the number of a layer's parameters in norms and attention biases."""
    query, key = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    small = round(dense.norms * hidden)
    small += (query + 2 * key) * dense.qkv_bias + hidden * dense.output_bias
    if dense.qk_norm == "head":
        small += 2 * attention.head_dim
    elif dense.qk_norm == "full":
        small += query + key
    return small


def decoder(dense: Dense, windows: Windows = windows_everywhere) -> Callable[[Config], Body]:
    """Return the reader of a dense llama-like family that differs from its siblings in ``dense`` only."""

    def read(config: Config) -> Body:
        hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
        bias = config.flag("attention_bias")
        rules = replace(dense, qkv_bias=dense.qkv_bias or bias, output_bias=dense.output_bias or bias)
        attention = attention_of(config, rules, hidden)
        width = config.count("intermediate_size", 4 * hidden)
        small = small_of(attention, hidden, rules)
        if rules.mlp_bias or config.flag("mlp_bias"):
            small += (rules.matrices - 1) * width + hidden
        stack = tuple(
            Layer(replace(attention, window=window), FeedForward(width, rules.matrices), small)
            for window in windows(config, layers)
        )
        return Body(stack, round(rules.final_norms * hidden), rules.tied, attention_bias=rules.qkv_bias)

    return read


def with_defaults(read: Callable[[Config], Body], **defaults: int) -> Callable[[Config], Body]:
    """Return ``read`` over a file in which missing keys have the family's own defaults."""

    def read_with_defaults(config: Config) -> Body:
        filled = Config(config.where, {**defaults, **config.content})
        return replace(
            read(filled),
            vocab_default=defaults["vocab_size"],
            hidden_default=defaults["hidden_size"],
            positions_default=defaults["max_position_embeddings"],
        )

    return read_with_defaults


def gpt2(config: Config) -> Body:
    """GPT-2, and GPT-3 in its words: learned positions, biases everywhere, tied head."""
    body = decoder(Dense(qkv_bias=True, output_bias=True, mlp_bias=True, matrices=2, norms=4, final_norms=2))(config)
    positions = config.count("max_position_embeddings", 1024)
    return replace(body, tied_default=True, position_embeddings=positions, positions_default=1024)


def opt(config: Config) -> Body:
    """OPT: as GPT-2, with two more positions than it uses, and a projected embedding in the 350M model."""
    body = decoder(Dense(qkv_bias=True, output_bias=True, mlp_bias=True, matrices=2, norms=4, final_norms=2))(config)
    return replace(body, tied_default=True, position_embeddings=config.count("max_position_embeddings", 2048) + 2)


def bloom(config: Config) -> Body:
    """BLOOM: ALiBi, biases everywhere, a norm behind the embedding; the file names no longest context."""
    body = decoder(Dense(qkv_bias=True, output_bias=True, mlp_bias=True, matrices=2, norms=4, final_norms=4))(config)
    return replace(body, tied_default=True, positions_default=2048)


def gpt_j(config: Config) -> Body:
    """GPT-J: rotary, one norm a layer, biases in the feed-forward and the head only."""
    body = decoder(Dense(mlp_bias=True, matrices=2, norms=2, final_norms=2))(config)
    return replace(body, small_parameters=body.small_parameters + config.count("vocab_size", 50400))


def falcon(config: Config) -> Body:
    """Falcon: one KV head in the old layout, ``num_kv_heads`` in the new one; one or two norms a layer."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    heads, new = config.count("num_attention_heads"), config.flag("new_decoder_architecture")
    if new:
        kv_heads = config.count("num_key_value_heads", heads)
        norms = config.count("num_ln_in_parallel_attn", 2)
    else:
        kv_heads = 1 if config.flag("multi_query", True) else heads
        norms = 1 if config.flag("parallel_attn", True) else 2
    bias = config.flag("bias")
    attention = Attention(heads, kv_heads, hidden // heads)
    width = config.count("intermediate_size", 4 * hidden)
    small = small_of(attention, hidden, Dense(qkv_bias=bias, output_bias=bias, norms=2 * norms))
    parallel = new or config.flag("parallel_attn", True)
    layer = Layer(attention, FeedForward(width, 2), small + (width + hidden) * bias, parallel=parallel)
    return Body((layer,) * layers, 2 * hidden, True, attention_bias=bias, positions_default=2048)


def palm(config: Config) -> Body:
    """PaLM: parallel layers, one KV head, SwiGLU, one norm a layer, tied (Chowdhery et al. 2022, section 2)."""
    body = decoder(Dense(norms=1, tied=True, head_dim=256))(config)
    return replace(body, layers=tuple(replace(layer, parallel=True) for layer in body.layers))


def cohere(config: Config) -> Body:
    """Command-R: parallel layers, one norm without bias a layer, tied; norms over each query and key head in Plus."""
    heads, layers = config.count("num_attention_heads"), config.count("num_hidden_layers")
    body = decoder(Dense(norms=1, tied=True))(config)
    extra = 0
    if config.flag("use_qk_norm"):
        extra = (heads + config.count("num_key_value_heads", heads)) * (config.count("hidden_size") // heads)
    stack = (replace(body.layers[0], parallel=True, small_parameters=body.layers[0].small_parameters + extra),) * layers
    return replace(body, layers=stack)


def gpt_bigcode(config: Config) -> Body:
    """StarCoder: GPT-2 with one KV head."""
    one = {"num_key_value_heads": 1} if config.flag("multi_query", True) else {}
    return gpt2(Config(config.where, {**one, **config.content}))


def stablelm(config: Config) -> Body:
    """StableLM: llama with LayerNorm, and biases of queries, keys and values in its second version."""
    return decoder(Dense(qkv_bias=config.flag("use_qkv_bias"), norms=4, final_norms=2))(config)


_LAYER_NORM = Dense(qkv_bias=True, output_bias=True, mlp_bias=True, matrices=2, norms=4, final_norms=2)

DENSE: dict[str, Callable[[Config], Body]] = {
    "llama": decoder(Dense()),
    "mistral": decoder(Dense()),
    "ministral": decoder(Dense()),
    "mistral3_text": decoder(Dense()),
    "granite": decoder(Dense()),
    "smollm3": decoder(Dense(tied=True), windows_from_layer),
    "seed_oss": decoder(Dense(qkv_bias=True)),
    "qwen2": decoder(Dense(qkv_bias=True), windows_from_layer),
    "qwen3": decoder(Dense(qk_norm="head", head_dim=128), windows_from_layer),
    "phi3": decoder(Dense()),
    "phi": decoder(replace(_LAYER_NORM, norms=2)),
    "olmo": decoder(Dense(norms=0, final_norms=0)),
    "olmo2": decoder(Dense(qk_norm="full")),
    "olmo3": decoder(Dense(qk_norm="full"), windows_alternating(4, 4096)),
    "gemma": with_defaults(
        decoder(Dense(tied=True, head_dim=256)),
        vocab_size=256000, hidden_size=3072, intermediate_size=24576, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=8192,
    ),
    "gemma2": with_defaults(
        decoder(Dense(tied=True, head_dim=256, norms=4), windows_alternating(2, 4096)),
        vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=8192,
    ),
    "gemma3_text": with_defaults(
        decoder(Dense(tied=True, head_dim=256, norms=4, qk_norm="head"), windows_alternating(6, 4096)),
        vocab_size=262208, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=131072,
    ),
    "starcoder2": decoder(replace(_LAYER_NORM, tied=True)),
    "gpt_neox": decoder(_LAYER_NORM),
    "gpt2": gpt2,
    "gptj": gpt_j,
    "opt": opt,
    "bloom": bloom,
    "falcon": falcon,
    "palm": palm,
    "cohere": cohere,
    "gpt_bigcode": gpt_bigcode,
    "stablelm": stablelm,
    "mpt": decoder(Dense(matrices=2, tied=True)),
    "nemotron": decoder(Dense(matrices=2, norms=4, final_norms=2)),
}  # fmt: skip
DENSE["gemma3"] = DENSE["gemma3_text"]
DENSE["mistral3"] = DENSE["mistral3_text"]
DENSE["phi4"] = DENSE["phi3"]
