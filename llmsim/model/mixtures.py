"""The families with experts, and those with multi-head latent attention: what each makes of its config.json."""

from collections.abc import Callable
from dataclasses import replace

from llmsim.model.config import Config
from llmsim.model.families import (
    Body,
    Dense,
    Windows,
    attention_of,
    small_of,
    windows_alternating,
    windows_everywhere,
    windows_from_layer,
)
from llmsim.model.shape import Attention, FeedForward, Layer


def sparse_everywhere(dense: Dense, windows: Windows = windows_everywhere) -> Callable[[Config], Body]:
    """Return the reader of a family with experts in every layer and ``intermediate_size`` as their width."""

    def read(config: Config) -> Body:
        hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
        attention = attention_of(config, dense, hidden)
        experts = FeedForward(
            config.count("intermediate_size"), 3, config.count("experts"), config.count("experts_per_token")
        )
        small = small_of(attention, hidden, dense)
        stack = tuple(Layer(replace(attention, window=window), experts, small) for window in windows(config, layers))
        return Body(stack, hidden, dense.tied, attention_bias=dense.qkv_bias)

    return read


def minimax_m2(config: Config) -> Body:
    """MiniMax-M2: Mixtral with norms over all query and key heads, and a bias for each expert's score."""
    body = sparse_everywhere(Dense(qk_norm="full" if config.flag("use_qk_norm", True) else "none"))(config)
    extra = config.count("experts")
    return replace(body, layers=tuple(replace(layer, small_parameters=layer.small_parameters + extra)
                                      for layer in body.layers))  # fmt: skip


def gpt_oss(config: Config) -> Body:
    """gpt-oss: alternating windows, a sink for each head, biases in attention, router and experts."""
    body = sparse_everywhere(
        Dense(qkv_bias=True, output_bias=True, head_dim=64), windows_alternating(2, 128)
    )(config)  # fmt: skip
    hidden, experts, attention = config.count("hidden_size"), body.layers[0].feed_forward, body.layers[0].attention
    assert experts is not None
    assert attention is not None
    biases = experts.experts * (1 + 2 * experts.intermediate_size + hidden)
    sinks = attention.heads
    return replace(
        body,
        layers=tuple(replace(layer, small_parameters=layer.small_parameters + biases + sinks) for layer in body.layers),
    )


def qwen_moe(dense: Dense) -> Callable[[Config], Body]:
    """Return the reader of Qwen's mixtures: experts in every ``decoder_sparse_step``-th layer, some layers dense."""

    def read(config: Config) -> Body:
        hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
        attention = attention_of(config, dense, hidden)
        shared = config.amount("shared_expert_intermediate_size")
        experts = FeedForward(
            config.count("moe_intermediate_size"), 3, config.count("experts"), config.count("experts_per_token"), shared
        )
        plain = FeedForward(config.count("intermediate_size", experts.intermediate_size))
        dense_layers, step = config.raw("mlp_only_layers") or (), config.count("decoder_sparse_step", 1)
        small = small_of(attention, hidden, dense)
        stack = []
        for index, window in enumerate(windows_from_layer(config, layers)):
            sparse = index not in dense_layers and (index + 1) % step == 0
            # A shared expert has a gate of its own: one vector.
            extra = hidden if sparse and shared else 0
            stack.append(Layer(replace(attention, window=window), experts if sparse else plain, small + extra))
        return Body(tuple(stack), hidden, attention_bias=dense.qkv_bias)

    return read


def _deepseek_experts(config: Config, default_first: int) -> tuple[FeedForward, FeedForward, int]:
    """Return the dense block, the mixture, and in how many layers at the start the dense one stands."""
    width = config.count("moe_intermediate_size")
    experts = FeedForward(
        width,
        3,
        config.count("experts"),
        config.count("experts_per_token"),
        width * config.amount("n_shared_experts", config.amount("moe_num_shared_experts")),
    )
    first = config.amount("first_k_dense_replace", default_first)
    return FeedForward(config.count("intermediate_size")), experts, first


def deepseek(version: int) -> Callable[[Config], Body]:
    """Return the reader of DeepSeek-V2 and V3: latent attention, some dense layers first, shared experts."""

    def read(config: Config) -> Body:
        hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
        heads = config.count("num_attention_heads")
        nope, rope = config.count("qk_nope_head_dim", 128), config.count("qk_rope_head_dim", 64)
        attention = Attention(
            heads=heads,
            kv_heads=1,
            head_dim=nope + rope,
            kind="mla",
            kv_lora_rank=config.count("kv_lora_rank", 512),
            q_lora_rank=config.amount("q_lora_rank", 0 if "q_lora_rank" in config.content else 1536),
            rope_head_dim=rope,
            nope_head_dim=nope,
            value_head_dim=config.count("v_head_dim", 128),
        )
        plain, experts, first = _deepseek_experts(config, 3 if version == 3 else 0)
        step = config.count("moe_layer_freq", 1)
        small = 2 * hidden + attention.kv_lora_rank + attention.q_lora_rank
        scores = experts.experts if version == 3 else 0  # one bias an expert, for routing without auxiliary loss
        stack = tuple(
            Layer(attention, experts, small + scores)
            if index >= first and index % step == 0
            else Layer(attention, plain, small)
            for index in range(layers)
        )
        notes = () if config.raw("index_topk") is None else ("sparse attention is read as full attention",)
        return Body(stack, hidden, notes=notes)

    return read


def glm4_moe(config: Config) -> Body:
    """GLM-4.5: grouped-query attention with the mixture of DeepSeek-V3."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    dense = Dense(
        qkv_bias=config.flag("attention_bias"), qk_norm="head" if config.flag("use_qk_norm") else "none", head_dim=128
    )
    attention = attention_of(config, dense, hidden)
    plain, experts, first = _deepseek_experts(config, 1)
    small = small_of(attention, hidden, dense)
    stack = tuple(
        Layer(attention, experts, small + experts.experts) if index >= first else Layer(attention, plain, small)
        for index in range(layers)
    )
    return Body(stack, hidden, attention_bias=dense.qkv_bias)


def llama4(config: Config) -> Body:
    """Llama 4: experts in every ``interleave_moe_layer_step``-th layer, chunked attention where rotary is used."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    attention = attention_of(config, Dense(head_dim=128), hidden)
    width, chunk = config.count("intermediate_size"), config.count("attention_chunk_size", 8192)
    experts = FeedForward(width, 3, config.count("experts"), config.count("experts_per_token", 1), width)
    plain = FeedForward(config.count("intermediate_size_mlp", 2 * width))
    step = config.count("interleave_moe_layer_step", 1)
    sparse = config.raw("moe_layers") or range(step - 1, layers, step)
    rotary = config.raw("no_rope_layers") or [int((index + 1) % 4 != 0) for index in range(layers)]
    local = replace(attention, window=chunk, chunked=True)
    stack = tuple(
        Layer(local if rotary[index] else attention, experts if index in sparse else plain, 2 * hidden)
        for index in range(layers)
    )
    return Body(stack, hidden)


MIXTURES: dict[str, Callable[[Config], Body]] = {
    "mixtral": sparse_everywhere(Dense()),
    "granitemoe": sparse_everywhere(Dense(tied=True)),
    "olmoe": sparse_everywhere(Dense(qk_norm="full")),
    "phimoe": sparse_everywhere(Dense(qkv_bias=True, output_bias=True, norms=4)),
    "minimax_m2": minimax_m2,
    "gpt_oss": gpt_oss,
    "qwen2_moe": qwen_moe(Dense(qkv_bias=True)),
    "qwen3_moe": qwen_moe(Dense(qk_norm="head", head_dim=128)),
    "deepseek_v2": deepseek(2),
    "deepseek_v3": deepseek(3),
    "deepseek_v32": deepseek(3),
    "kimi_k2": deepseek(3),
    "glm4_moe": glm4_moe,
    "llama4": llama4,
    "llama4_text": llama4,
}
