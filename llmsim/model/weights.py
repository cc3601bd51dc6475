"""What a model weighs, and what the cache of a token takes: whole, per layer, per tensor-parallel rank.

Counts are in elements, sizes in bytes.  Matrices are split over the ranks as vLLM does it: query, output
and feed-forward matrices are divided, KV heads are divided until each rank has one and then repeated,
and what is small (norms, routers, the down-projections of latent attention) is held by every rank.
"""

from collections.abc import Iterable
from dataclasses import replace

from llmsim.errors import InputError
from llmsim.model.shape import Attention, CacheGroup, FeedForward, Layer, Lstm, ModelShape, Recurrent

# Bytes an element, scales included: nvfp4 has one byte for 16, mxfp4 one for 32, int4 (AWQ, GPTQ) 16 bit
# for 128, nf4 (bitsandbytes) 32 bit for 64.  fp8_block's 4 bytes for 128 x 128 are left out: 0.02 %.
FORMAT_BYTES = {
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0,
    "int8": 1.0,
    "w8a8": 1.0,
    "nvfp4": 0.5625,
    "mxfp4": 0.53125,
    "int4": 0.515625,
    "nf4": 0.5625,
    # Two of each four zero: half of the values, and two bits that say where each of those left stands.
    "bf16_2_4": 1.125,
    "fp16_2_4": 1.125,
    "fp8_2_4": 0.625,
    # GGUF, bytes of a block over its elements (llama.cpp, ggml-common.h): 32 elements with one or two 16-bit scales, or
    # 256 with two levels of scales.  The mixtures _m keep half of the value and down matrices, some 15 % of a layer,
    # in q6_k (llama.cpp, `llama_tensor_get_type`).
    "q4_0": 18 / 32,
    "q4_1": 20 / 32,
    "q5_0": 22 / 32,
    "q5_1": 24 / 32,
    "q8_0": 34 / 32,
    "q2_k": 84 / 256,
    "q3_k": 110 / 256,
    "q4_k": 144 / 256,
    "q5_k": 176 / 256,
    "q6_k": 210 / 256,
    "q4_k_m": 0.85 * 144 / 256 + 0.15 * 210 / 256,
    "q5_k_m": 0.85 * 176 / 256 + 0.15 * 210 / 256,
}
# GGUF files quantise the vocabulary too: the embedding as most layers are, the output matrix in q6_k or better.
GGUF_EMBEDDING = {name: name.removesuffix("_m") for name in FORMAT_BYTES if name[0] == "q"}
# Format -> the one with two of each four weights zero.
SPARSE_FORMATS = {"bf16": "bf16_2_4", "fp16": "fp16_2_4", "fp8": "fp8_2_4"}

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


def vocabulary_formats(dtype: str, weight_format: str) -> tuple[str, str]:
    """Return the formats of the embedding and of the output matrix: the model's own, but for GGUF files."""
    if weight_format not in GGUF_EMBEDDING:
        return dtype, dtype
    return GGUF_EMBEDDING[weight_format], "q8_0" if weight_format == "q8_0" else "q6_k"


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
    return hidden_size * attention.head_dim * ((3 if attention.gated else 2) * heads + 2 * kv_heads)


def kv_heads_of_rank(attention: Attention, tensor: int) -> int:
    """Return the KV heads that one rank holds: at least one, repeated when there are more ranks than heads."""
    return attention.kv_heads if attention.kind == "mla" else max(1, attention.kv_heads // tensor)


def feed_forward_elements(hidden_size: int, block: FeedForward, tensor: int = 1, experts_over: int = 0) -> int:
    """Return the elements of one feed-forward block's matrices on one rank, all its experts included.

    Routed experts are spread over ``experts_over`` devices, whole or in parts; 0: over the ``tensor`` ranks.
    """
    width = block.intermediate_size * max(block.experts, 1) + block.shared_intermediate_size
    if not block.experts or experts_over in (0, tensor):
        return -(-block.matrices * hidden_size * width // tensor)
    routed = -(-block.matrices * hidden_size * block.intermediate_size * block.experts // experts_over)
    return routed + -(-block.matrices * hidden_size * block.shared_intermediate_size // tensor)


def router_elements(hidden_size: int, block: FeedForward) -> int:
    """Return the elements of the router, which every rank holds whole and which stays unquantised."""
    return hidden_size * block.experts


def recurrent_elements(hidden_size: int, block: Recurrent | Lstm, tensor: int = 1) -> int:
    """Return the elements of a recurrent block's matrices on one rank: heads are divided over the ranks.

    An LSTM has four gates over its input and over its own last output, in each direction.
    """
    if isinstance(block, Lstm):
        return -(-block.directions * 4 * block.hidden_size * (block.input_size + block.hidden_size) // tensor)
    inner = -(-block.inner // tensor)
    if block.kind == "mamba":
        return inner * (3 * hidden_size + 2 * block.rank + 2 * block.state_size)
    keys = 2 * block.groups * block.state_size // tensor
    steps = block.heads * (2 if block.kind == "delta" else 1) // tensor
    return hidden_size * (3 * inner + keys + steps)


def mixer_elements(hidden_size: int, layer: Layer, tensor: int = 1) -> int:
    """Return the elements of all matrices of a layer in which tokens meet: attention, recurrent, cross."""
    total = sum(attention_elements(hidden_size, one, tensor) for one in (layer.attention, layer.cross) if one)
    if layer.attention is not None and layer.attention.memory:  # the projection of relative positions
        total += hidden_size * layer.attention.heads // tensor * layer.attention.head_dim
    if layer.recurrent is not None:
        total += recurrent_elements(hidden_size, layer.recurrent, tensor)
    return total


def layer_elements(hidden_size: int, layer: Layer) -> int:
    """Return all parameters of one layer."""
    total = mixer_elements(hidden_size, layer) + layer.small_parameters
    if layer.feed_forward is not None:
        total += feed_forward_elements(hidden_size, layer.feed_forward)
        total += router_elements(hidden_size, layer.feed_forward)
    return total


def embedding_elements(shape: ModelShape) -> int:
    """Return the elements of token and position embeddings, and of the projections of OPT-350M."""
    width = shape.embedding_size or shape.hidden_size
    projections = 2 * width * shape.hidden_size if shape.embedding_size else 0
    return shape.vocab_size * width + projections + shape.position_embeddings * shape.hidden_size


def head_elements(shape: ModelShape) -> int:
    """Return the elements of the output matrix, counted even when it is tied to the embedding; an encoder's pooler."""
    if shape.encoder_only:
        return shape.hidden_size**2 if shape.pooled else 0
    return shape.vocab_size * (shape.embedding_size or shape.hidden_size)


def parameters(shape: ModelShape) -> int:
    """Return the number of parameters, a tied output matrix counted once, as published figures do."""
    total = embedding_elements(shape) + shape.small_parameters
    total += 0 if shape.tied_embeddings and not shape.encoder_only else head_elements(shape)
    return total + sum(layer_elements(shape.hidden_size, layer) for layer in (*shape.encoder, *shape.layers))


def active_parameters(shape: ModelShape) -> int:
    """Return the parameters that one token visits: of each mixture only the experts it is sent to."""
    idle = 0
    for layer in shape.layers:
        block = layer.feed_forward
        if block is None:
            continue
        unvisited = max(block.experts - block.experts_per_token, 0)
        idle += unvisited * block.matrices * shape.hidden_size * block.intermediate_size
    return parameters(shape) - idle


# -- bytes --------------------------------------------------------------------------------------------


def layer_weight_bytes(
    shape: ModelShape, layer_index: int, *, tensor: int = 1, weight_format: str | None = None, experts_over: int = 0
) -> float:
    """Return the bytes of one layer's weights on one rank.

    ``weight_format`` stands for the shape's own when given, and then for all its big matrices; routed experts are
    spread over ``experts_over`` devices (0: over the ``tensor`` ranks).
    """
    return _layer_bytes(shape, shape.layers[layer_index], tensor, weight_format, experts_over)


def _layer_bytes(
    shape: ModelShape, layer: Layer, tensor: int, weight_format: str | None, experts_over: int = 0
) -> float:
    wide = format_bytes_per_element(shape.dtype)
    matrices = format_bytes_per_element(weight_format or shape.weight_format)
    attention = matrices
    if weight_format is None and shape.attention_format is not None:
        attention = format_bytes_per_element(shape.attention_format)
    total = mixer_elements(shape.hidden_size, layer, tensor) * attention + layer.small_parameters * wide
    if layer.feed_forward is not None:
        total += feed_forward_elements(shape.hidden_size, layer.feed_forward, tensor, experts_over) * matrices
        total += router_elements(shape.hidden_size, layer.feed_forward) * wide
    return total


def stage_weight_bytes(
    shape: ModelShape,
    first_layer: int = 0,
    last_layer: int | None = None,
    *,
    tensor: int = 1,
    weight_format: str | None = None,
    experts_over: int = 0,
) -> float:
    """Return the bytes that one rank of a stage holds: layers ``first_layer`` to ``last_layer`` (exclusive).

    Routed experts are spread over ``experts_over`` devices (0: over the ``tensor`` ranks).
    The first stage holds the embedding and an encoder, the last one the output matrix; a tied matrix is held once when
    both are the same stage.  Embedding and output matrix are split by vocabulary and stay in the model's dtype, but
    for GGUF files.
    """
    last = len(shape.layers) if last_layer is None else last_layer
    wide = format_bytes_per_element(shape.dtype)
    total = sum(
        layer_weight_bytes(shape, index, tensor=tensor, weight_format=weight_format, experts_over=experts_over)
        for index in range(first_layer, last)
    )
    width = shape.embedding_size or shape.hidden_size
    vocabulary = padded_vocabulary(shape, tensor) * width
    embedding, output = (
        vocabulary * format_bytes_per_element(name)
        for name in vocabulary_formats(shape.dtype, weight_format or shape.weight_format)
    )
    if first_layer == 0:
        total += embedding + (embedding_elements(shape) - shape.vocab_size * width) * wide
        total += sum(_layer_bytes(shape, layer, tensor, weight_format) for layer in shape.encoder)
    if last == len(shape.layers):
        held_already = shape.tied_embeddings and first_layer == 0
        head = head_elements(shape) * wide if shape.encoder_only else 0 if held_already else output
        total += shape.small_parameters * wide + head
    return total


def padded_vocabulary(shape: ModelShape, tensor: int) -> float:
    """Return the tokens of the vocabulary whose rows one of ``tensor`` ranks holds, those of the padding included."""
    padded = -(-shape.vocab_size // _VOCABULARY_PADDING) * _VOCABULARY_PADDING
    return padded / tensor if tensor > 1 else float(shape.vocab_size)


def weight_bytes(shape: ModelShape, *, weight_format: str | None = None) -> float:
    """Return the bytes of all weights, held once."""
    return stage_weight_bytes(shape, weight_format=weight_format)


# -- cache --------------------------------------------------------------------------------------------


def cache_groups(shape: ModelShape, first_layer: int = 0, last_layer: int | None = None) -> tuple[CacheGroup, ...]:
    """Return the groups of layers whose cache behaves alike: full attention first, then by growing window.

    Encoders and recurrent layers keep none.  In a decoder with cross attention the keys of a prompt token belong to
    the cross attention, and those of a generated one to the layer's own, which is as large: one group for both.
    """
    layers = shape.layers[first_layer : len(shape.layers) if last_layer is None else last_layer]
    return attention_groups([cached_attention(layer) for layer in layers])


def attention_groups(attentions: Iterable[Attention | None]) -> tuple[CacheGroup, ...]:
    """Return equal attentions as groups, in the order of `cache_groups`; None is left out."""
    counts: dict[Attention, int] = {}
    for attention in attentions:
        if attention is not None:
            counts[attention] = counts.get(attention, 0) + 1
    groups = [CacheGroup(attention.window, attention, count) for attention, count in counts.items()]
    return tuple(sorted(groups, key=lambda group: (group.window is not None, group.window or 0)))


def cached_attention(layer: Layer) -> Attention | None:
    """Return the attention of a layer that keeps a cache, None if the layer has none."""
    attention = layer.attention or layer.cross
    return None if attention is None or attention.bidirectional else attention


def state_bytes(shape: ModelShape, first_layer: int = 0, last_layer: int | None = None, *, tensor: int = 1) -> float:
    """Return the bytes of state that one sequence keeps on one rank in its recurrent layers, whatever its length."""
    layers = shape.layers[first_layer : len(shape.layers) if last_layer is None else last_layer]
    total = 0.0
    for layer in layers:
        block = layer.recurrent
        if isinstance(block, Recurrent):
            total += block.state_elements * block.state_bytes / tensor
        elif block is not None:  # an LSTM's cell is kept in fp32 and its output in the model's format: 8 bytes at most
            total += 2 * block.directions * block.hidden_size * format_bytes_per_element("fp32") / tensor
    return total


def cache_bytes_per_token(what: ModelShape | CacheGroup, cache_format: str = "bf16", tensor: int = 1) -> float:
    """Return the bytes that one token takes in the cache of one of ``tensor`` ranks, over all layers of ``what``.

    Grouped-query attention: keys and values of the rank's KV heads.  Latent attention: one latent and one
    rotary key for all heads, whole on every rank.  Transformer-XL keeps the hidden state, heads times their width.
    """
    if isinstance(what, ModelShape):
        return sum(cache_bytes_per_token(group, cache_format, tensor) for group in cache_groups(what))
    attention = what.attention
    if attention.kind == "mla":
        if cache_format == "fp8_ds_mla":
            return what.layers * _FP8_DS_MLA_BYTES
        width = attention.kv_lora_rank + attention.rope_head_dim
    elif attention.memory:
        width = attention.heads * attention.head_dim
    else:
        width = 2 * kv_heads_of_rank(attention, tensor) * attention.head_dim
    return what.layers * width * format_bytes_per_element(cache_format)


def in_format(shape: ModelShape, weight_format: str) -> ModelShape:
    """Return ``shape`` with all its big matrices in another format, as a quantised checkpoint would have them."""
    format_bytes_per_element(weight_format)
    return replace(shape, weight_format=weight_format, attention_format=None)
