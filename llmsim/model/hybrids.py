"""Families with recurrent layers, alone or between attention layers: what each makes of its config.json."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil

from llmsim.errors import ModelError
from llmsim.model.config import Config
from llmsim.model.families import UNLIMITED, Body, Dense, attention_of, small_of
from llmsim.model.shape import FeedForward, Layer, Recurrent


def _state_bytes(config: Config) -> float:
    """Return the bytes of an element of the state: vLLM's ``mamba_ssm_cache_dtype``, auto is the model's own."""
    said = config.raw("mamba_ssm_cache_dtype") or config.raw("mamba_ssm_dtype")
    return 4.0 if said == "float32" else 2.0


def mamba_block(config: Config, expand: int) -> tuple[Recurrent, int]:
    """Return Mamba's block and its small parameters: convolution, A, D and the bias of the time step."""
    hidden = config.count("hidden_size")
    inner = config.count("mamba_expand", expand) * hidden
    state = config.count("mamba_d_state", config.count("state_size", 16))
    kernel = config.count("mamba_d_conv", config.count("conv_kernel", 4))
    said = config.raw("mamba_dt_rank") or config.raw("time_step_rank")
    rank = said if isinstance(said, int) else ceil(hidden / 16)
    block = Recurrent("mamba", inner, 1, state, 1, kernel, rank, _state_bytes(config))
    return block, inner * (kernel + 1) + inner * state + 2 * inner


def mamba2_block(
    config: Config, heads: int, head_dim: int, state: int, groups: int, kernel: int
) -> tuple[Recurrent, int]:
    """Return Mamba-2's block and its small parameters: convolution, A, D, time step, gated norm."""
    block = Recurrent("mamba2", heads, head_dim, state, groups, kernel, 0, _state_bytes(config))
    return block, block.channels * (kernel + 1) + 3 * heads + block.inner


def mamba(config: Config) -> Body:
    """Mamba: selective scan in every layer, no feed-forward block."""
    hidden = config.count("hidden_size")
    block, small = mamba_block(config, config.count("expand", 2))
    layer = Layer(None, None, small + hidden, block)
    layers = (layer,) * config.count("num_hidden_layers")
    return Body(layers, hidden, tied_default=True, positions_default=UNLIMITED, rotary=False)


def mamba2(config: Config) -> Body:
    """Mamba-2: the state-space duality in every layer."""
    hidden, head_dim = config.count("hidden_size"), config.count("head_dim", 64)
    heads = config.count("num_heads", config.count("expand", 2) * hidden // head_dim)
    block, small = mamba2_block(
        config, heads, head_dim, config.count("state_size", 128), config.count("n_groups", 8),
        config.count("conv_kernel", 4),
    )  # fmt: skip
    layer = Layer(None, None, small + hidden, block)
    layers = (layer,) * config.count("num_hidden_layers")
    return Body(layers, hidden, positions_default=UNLIMITED, rotary=False)


def jamba(config: Config) -> Body:
    """Jamba: attention in every ``attn_layer_period``-th layer, experts in every ``expert_layer_period``-th."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    attention = attention_of(config, Dense(), hidden)
    block, small = mamba_block(config, 2)
    small += block.rank + 2 * block.state_size  # norms of the time step, B and C
    width = config.count("intermediate_size")
    plain = FeedForward(width)
    experts = FeedForward(width, 3, config.count("experts", 16), config.count("experts_per_token", 2))
    period, offset = config.count("attn_layer_period", 8), config.amount("attn_layer_offset", 4)
    every, first = config.count("expert_layer_period", 2), config.amount("expert_layer_offset", 1)
    stack = []
    for index in range(layers):
        forward = experts if index % every == first and experts.experts > 1 else plain
        if index % period == offset:
            stack.append(Layer(attention, forward, 2 * hidden))
        else:
            stack.append(Layer(None, forward, 2 * hidden + small, block))
    return Body(tuple(stack), hidden, rotary=False)


def nemotron_h(config: Config) -> Body:
    """Nemotron-H: each layer is one of Mamba-2 (M), attention (*), feed-forward (-) and experts (E)."""
    hidden = config.count("hidden_size")
    pattern = _pattern(config)
    attention = attention_of(config, Dense(head_dim=config.amount("attention_head_dim", 128)), hidden)
    heads, head_dim = config.count("mamba_num_heads"), config.count("mamba_head_dim")
    block, small = mamba2_block(
        config, heads, head_dim, config.count("ssm_state_size", 128), config.count("n_groups", 8),
        config.count("conv_kernel", config.count("mamba_d_conv", 4)),
    )  # fmt: skip
    parts = {
        "M": Layer(None, None, small + hidden, block),
        "*": Layer(attention, None, hidden),
        "-": Layer(None, FeedForward(config.count("intermediate_size"), 2), hidden),
    }
    if "E" in pattern:
        number = config.count("experts")
        shared = config.amount("moe_shared_expert_intermediate_size") * config.amount("n_shared_experts", 1)
        width, each = config.count("moe_intermediate_size"), config.count("experts_per_token")
        # Experts that work in a latent space: of the hidden size they would have as many elements if they were
        # narrower, and the two products into that space and out of it are those of a shared expert as wide.
        latent = config.amount("moe_latent_size")
        if latent:
            width, shared = width * latent // hidden, shared + latent
        parts["E"] = Layer(None, FeedForward(width, 2, number, each, shared), hidden + number)
    return Body(tuple(parts[kind] for kind in pattern), hidden, rotary=False)


def _pattern(config: Config) -> str:
    """Return one letter a layer, from ``hybrid_override_pattern`` or from ``layers_block_type``."""
    said = config.raw("hybrid_override_pattern")
    if said is None:
        letters = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}
        said = "".join(letters.get(str(kind), "?") for kind in config.raw("layers_block_type") or ())
    pattern, layers = str(said), config.count("num_hidden_layers", len(str(said)))
    if not pattern or set(pattern) - set("M*-E") or len(pattern) != layers:
        raise ModelError(
            f"{config.where}: hybrid_override_pattern: not one of M * - E for each of {layers} layers (got {said!r})"
        )
    return pattern


def granite_hybrid(config: Config) -> Body:
    """Granite 4 hybrids: Mamba-2 or attention by ``layer_types``, each with experts and a shared block."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    attention = attention_of(config, Dense(), hidden)
    heads = config.count("mamba_n_heads", 128)
    head_dim = config.raw("mamba_d_head")
    width = head_dim if isinstance(head_dim, int) else config.count("mamba_expand", 2) * hidden // heads
    block, small = mamba2_block(
        config, heads, width, config.count("mamba_d_state", 256), config.count("mamba_n_groups", 1),
        config.count("mamba_d_conv", 4),
    )  # fmt: skip
    number, shared = config.amount("experts"), config.amount("shared_intermediate_size")
    if number:
        forward = FeedForward(config.count("intermediate_size"), 3, number, config.count("experts_per_token"), shared)
    else:
        forward = FeedForward(shared or config.count("intermediate_size"))
    stack = []
    for kind in config.kinds(layers) or config.raw("layers_block_type") or ["mamba"] * layers:
        if kind in ("attention", "full_attention"):
            stack.append(Layer(attention, forward, 2 * hidden))
        else:
            stack.append(Layer(None, forward, 2 * hidden + small, block))
    return Body(tuple(stack), hidden, tied_default=True, rotary=False)


def qwen_hybrid(config: Config) -> Body:
    """Qwen3-Next and Qwen3.5: the gated delta rule, and gated attention in every fourth layer."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    plain = attention_of(config, Dense(head_dim=256), hidden)
    attention = replace(plain, gated=True)
    attention_small = small_of(plain, hidden, Dense(qk_norm="head"))
    block, small = _delta(config)
    every = config.count("full_attention_interval", 4)
    kinds = config.kinds(layers) or [
        "full_attention" if (index + 1) % every == 0 else "linear_attention" for index in range(layers)
    ]
    forward, extra = _qwen_block(config, hidden)
    stack = []
    for kind in kinds:
        if kind == "full_attention":
            stack.append(Layer(attention, forward, attention_small + extra))
        else:
            stack.append(Layer(None, forward, 2 * hidden + small + extra, block))
    return Body(tuple(stack), hidden)


def _delta(config: Config) -> tuple[Recurrent, int]:
    """Return the block of the gated delta rule and its small parameters: convolution, A, time step, norm."""
    heads, head_dim = config.count("linear_num_value_heads", 32), config.count("linear_value_head_dim", 128)
    kernel = config.count("linear_conv_kernel_dim", 4)
    block = Recurrent(
        "delta", heads, head_dim, config.count("linear_key_head_dim", 128), config.count("linear_num_key_heads", 16),
        kernel, 0, _state_bytes(config),
    )  # fmt: skip
    return block, block.channels * kernel + 2 * heads + head_dim


def _qwen_block(config: Config, hidden: int) -> tuple[FeedForward, int]:
    """Return the feed-forward block, a mixture or not, and the parameters of a shared expert's gate."""
    if not config.raw("experts"):
        return FeedForward(config.count("intermediate_size")), 0
    shared = config.amount("shared_expert_intermediate_size")
    width = config.count("moe_intermediate_size")
    block = FeedForward(width, 3, config.count("experts"), config.count("experts_per_token"), shared)
    return block, hidden if shared else 0


HYBRIDS: dict[str, Callable[[Config], Body]] = {
    "mamba": mamba,
    "falcon_mamba": mamba,
    "mamba2": mamba2,
    "jamba": jamba,
    "nemotron_h": nemotron_h,
    "granitemoehybrid": granite_hybrid,
    "qwen3_next": qwen_hybrid,
    "qwen3_5": qwen_hybrid,
    "qwen3_5_text": qwen_hybrid,
    "qwen3_5_moe": qwen_hybrid,
    "qwen3_5_moe_text": qwen_hybrid,
}
