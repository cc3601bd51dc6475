"""What a model weighs, and what the cache of a token takes: whole, per layer, per tensor-parallel rank.

Counts are in elements, sizes in bytes.  Matrices are split over the ranks as vLLM does it: query, output
and feed-forward matrices are divided, KV heads are divided until each rank has one and then repeated,
and what is small (norms, routers, the down-projections of latent attention) is held by every rank.
"""

from dataclasses import replace

from llmsim.errors import InputError
from llmsim.model.shape import Attention, CacheGroup, FeedForward, Layer, ModelShape

# Bytes an element, scales included: nvfp4 has one byte for 16, mxfp4 one for 32, int4 (AWQ, GPTQ) 16 bit
# for 128, nf4 (bitsandbytes) 32 bit for 64.  fp8_block's 4 bytes for 128 x 128 are left out: 0.02 %.
FORMAT_BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0,
    "int8": 1.0,
    "nvfp4": 0.5625,
    "mxfp4": 0.53125,
    "int4": 0.515625,
    "nf4": 0.5625,
}

# vLLM's --kv-cache-dtype values -> format; "auto" is the checkpoint's own, else its dtype.
CACHE_FORMATS = {
    "float16": "fp16",
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "fp8_inc": "fp8",
    "fp8_ds_mla": "fp8_ds_mla",
    "nvfp4": "nvfp4",
}
# 512 latent fp8 values, 4 fp32 scales, 64 rotary bf16 values: vLLM's layout for DeepSeek's latent cache.
_FP8_DS_MLA_BYTES = 656.0
_VOCABULARY_PADDING = 64  # vLLM pads the vocabulary so that it divides


def format_bytes_per_element(name: str) -> float:
    """Return the bytes of one element in a format.

    Raises:
        InputError: the format is unknown.
    """
    if name not in FORMAT_BYTES:
        raise InputError(f"format: unknown (got {name!r})\nhint: known are {', '.join(FORMAT_BYTES)}")
    return FORMAT_BYTES[name]


def cache_format(shape: ModelShape, kv_cache_dtype: str = "auto") -> str:
    """Return the format of the KV cache for vLLM's ``--kv-cache-dtype``; formats themselves are accepted too.

    Raises:
        InputError: the value is none that is modelled.
    """
    if kv_cache_dtype == "auto":
        return shape.cache_format or shape.dtype
    if kv_cache_dtype in CACHE_FORMATS or kv_cache_dtype in FORMAT_BYTES:
        return CACHE_FORMATS.get(kv_cache_dtype, kv_cache_dtype)
    known = ", ".join(["auto", *CACHE_FORMATS])
    raise InputError(f"kv_cache_dtype: not modelled (got {kv_cache_dtype!r})\nhint: modelled are {known}")


# -- elements -----------------------------------------------------------------------------------------


def attention_elements(hidden_size: int, attention: Attention, tensor: int = 1) -> int:
    """Return the elements of one attention block's matrices that one of ``tensor`` ranks holds."""
    heads = attention.heads // tensor
    if attention.kind == "mla":
        query_width = heads * attention.head_dim
        if attention.q_lora_rank:
            query = hidden_size * attention.q_lora_rank + attention.q_lora_rank * query_width
        else:
            query = hidden_size * query_width
        down = hidden_size * (attention.kv_lora_rank + attention.rope_head_dim)
        up = attention.kv_lora_rank * heads * (attention.nope_head_dim + attention.value_head_dim)
        return query + down + up + heads * attention.value_head_dim * hidden_size
    kv_heads = kv_heads_of_rank(attention, tensor)
    return hidden_size * attention.head_dim * (2 * heads + 2 * kv_heads)


def kv_heads_of_rank(attention: Attention, tensor: int) -> int:
    """Return the KV heads that one rank holds: at least one, repeated when there are more ranks than heads."""
    return attention.kv_heads if attention.kind == "mla" else max(1, attention.kv_heads // tensor)


def feed_forward_elements(hidden_size: int, block: FeedForward, tensor: int = 1) -> int:
    """Return the elements of one feed-forward block's matrices on one rank, all its experts included."""
    width = block.intermediate_size * max(block.experts, 1) + block.shared_intermediate_size
    return -(-block.matrices * hidden_size * width // tensor)


def router_elements(hidden_size: int, block: FeedForward) -> int:
    """Return the elements of the router, which every rank holds whole and which stays unquantised."""
    return hidden_size * block.experts


def layer_elements(hidden_size: int, layer: Layer) -> int:
    """Return all parameters of one layer."""
    return (
        attention_elements(hidden_size, layer.attention)
        + feed_forward_elements(hidden_size, layer.feed_forward)
        + router_elements(hidden_size, layer.feed_forward)
        + layer.small_parameters
    )


def embedding_elements(shape: ModelShape) -> int:
    """Return the elements of token and position embeddings, and of the projections of OPT-350M."""
    width = shape.embedding_size or shape.hidden_size
    projections = 2 * width * shape.hidden_size if shape.embedding_size else 0
    return shape.vocab_size * width + projections + shape.position_embeddings * shape.hidden_size


def head_elements(shape: ModelShape) -> int:
    """Return the elements of the output matrix, counted even when it is tied to the embedding."""
    return shape.vocab_size * (shape.embedding_size or shape.hidden_size)


def parameters(shape: ModelShape) -> int:
    """Return the number of parameters, a tied output matrix counted once, as published figures do."""
    total = embedding_elements(shape) + shape.small_parameters
    total += 0 if shape.tied_embeddings else head_elements(shape)
    return total + sum(layer_elements(shape.hidden_size, layer) for layer in shape.layers)


def active_parameters(shape: ModelShape) -> int:
    """Return the parameters that one token visits: of each mixture only the experts it is sent to."""
    idle = 0
    for layer in shape.layers:
        block = layer.feed_forward
        unvisited = max(block.experts - block.experts_per_token, 0)
        idle += unvisited * block.matrices * shape.hidden_size * block.intermediate_size
    return parameters(shape) - idle


# -- bytes --------------------------------------------------------------------------------------------


def layer_weight_bytes(
    shape: ModelShape, layer_index: int, *, tensor: int = 1, weight_format: str | None = None
) -> float:
    """Return the bytes of one layer's weights on one rank.

    ``weight_format`` stands for the shape's own when given, and then for all its big matrices.
    """
    layer = shape.layers[layer_index]
    wide = format_bytes_per_element(shape.dtype)
    matrices = format_bytes_per_element(weight_format or shape.weight_format)
    attention = matrices
    if weight_format is None and shape.attention_format is not None:
        attention = format_bytes_per_element(shape.attention_format)
    return (
        attention_elements(shape.hidden_size, layer.attention, tensor) * attention
        + feed_forward_elements(shape.hidden_size, layer.feed_forward, tensor) * matrices
        + (router_elements(shape.hidden_size, layer.feed_forward) + layer.small_parameters) * wide
    )


def stage_weight_bytes(
    shape: ModelShape,
    first_layer: int = 0,
    last_layer: int | None = None,
    *,
    tensor: int = 1,
    weight_format: str | None = None,
) -> float:
    """Return the bytes that one rank of a stage holds: layers ``first_layer`` to ``last_layer`` (exclusive).

    The first stage holds the embedding, the last one the output matrix; a tied matrix is held once when
    both are the same stage.  Embedding and output matrix stay in the model's dtype and are split by vocabulary.
    """
    last = len(shape.layers) if last_layer is None else last_layer
    wide = format_bytes_per_element(shape.dtype)
    total = sum(
        layer_weight_bytes(shape, index, tensor=tensor, weight_format=weight_format)
        for index in range(first_layer, last)
    )
    padded = -(-shape.vocab_size // _VOCABULARY_PADDING) * _VOCABULARY_PADDING
    rows = padded / tensor if tensor > 1 else shape.vocab_size
    vocabulary = rows * (shape.embedding_size or shape.hidden_size) * wide
    if first_layer == 0:
        total += vocabulary + (embedding_elements(shape) - head_elements(shape)) * wide
    if last == len(shape.layers):
        held_already = shape.tied_embeddings and first_layer == 0
        total += shape.small_parameters * wide + (0 if held_already else vocabulary)
    return total


def weight_bytes(shape: ModelShape, *, weight_format: str | None = None) -> float:
    """Return the bytes of all weights, held once."""
    return stage_weight_bytes(shape, weight_format=weight_format)


# -- cache --------------------------------------------------------------------------------------------


def cache_groups(shape: ModelShape, first_layer: int = 0, last_layer: int | None = None) -> tuple[CacheGroup, ...]:
    """Return the groups of layers whose cache behaves alike: full attention first, then by growing window."""
    layers = shape.layers[first_layer : len(shape.layers) if last_layer is None else last_layer]
    counts: dict[Attention, int] = {}
    for layer in layers:
        counts[layer.attention] = counts.get(layer.attention, 0) + 1
    groups = [CacheGroup(attention.window, attention, count) for attention, count in counts.items()]
    return tuple(sorted(groups, key=lambda group: (group.window is not None, group.window or 0)))


def cache_bytes_per_token(what: ModelShape | CacheGroup, cache_format: str = "bf16", tensor: int = 1) -> float:
    """Return the bytes that one token takes in the cache of one of ``tensor`` ranks, over all layers of ``what``.

    Grouped-query attention: keys and values of the rank's KV heads.  Latent attention: one latent and one
    rotary key for all heads, whole on every rank.
    """
    if isinstance(what, ModelShape):
        return sum(cache_bytes_per_token(group, cache_format, tensor) for group in cache_groups(what))
    attention = what.attention
    if attention.kind == "mla":
        if cache_format == "fp8_ds_mla":
            return what.layers * _FP8_DS_MLA_BYTES
        width = attention.kv_lora_rank + attention.rope_head_dim
    else:
        width = 2 * kv_heads_of_rank(attention, tensor) * attention.head_dim
    return what.layers * width * format_bytes_per_element(cache_format)


def in_format(shape: ModelShape, weight_format: str) -> ModelShape:
    """Return ``shape`` with all its big matrices in another format, as a quantised checkpoint would have them."""
    format_bytes_per_element(weight_format)
    return replace(shape, weight_format=weight_format, attention_format=None)
