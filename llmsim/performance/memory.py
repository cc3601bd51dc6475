"""How many KV-cache blocks a device has left: the engines' rules, with estimates for what they measure at start-up.

vLLM's rule (``gpu_worker.determine_available_memory``): the cache gets ``ceil(total x utilisation)`` less
weights, the peak of the activations in a profiling step, what else was allocated meanwhile, and an estimate
for CUDA graphs; that divided by the bytes of a block, rounded down, is the number of blocks, and one of
them, the null block, is never used.  Weights are exact here.  The other three are estimates: each has its
reason beside it; together we expect them within about 1 GiB, 2 % of the cache of an 80 GB card, untested.
A real server prints its count; ``num_gpu_blocks_override`` takes it.

The rules differ in what their share is of (``memory_rule``):

- ``total``, vLLM: ``share x total - weights - activations - libraries - graphs`` (graphs since 0.21; before, they
  came out of the rest);
- ``static``, SGLang (``ModelRunner.profile_max_num_token``): ``share x free - weights``, where free is what the
  device has once libraries have started; activations and graphs must do with the rest;
- ``free``, TensorRT-LLM (``KvCacheCreator._cal_max_memory``): ``share x (total - weights - activations - libraries)``;
  graphs come out of the rest.

With several kinds of layers (full attention and windows) all share one pool of equal blocks, as in vLLM's
hybrid allocator: layers are dealt into groups of equal size, and a block of the pool holds ``block_size``
tokens for the layers of one group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmsim import units
from llmsim.engine_options import cudagraph_sizes
from llmsim.errors import InfeasibleError
from llmsim.hardware import Device
from llmsim.model import weights
from llmsim.model.shape import Attention, CacheGroup, FeedForward, Layer, ModelShape, Recurrent
from llmsim.parallel import Plan, Stage, layer_ranges

MemoryRule = Literal["total", "static", "free"]

_GIB = 2.0**30

# What CUDA reports of a card's memory: the driver keeps about 1 %.  Public vLLM logs show about 79.2 GiB on an
# H100 80 GB, 139.8 of 141 on an H200, 44.4 of 45.0 on an L40S; read there, not measured by us.
_VISIBLE = 0.99
# Kernel modules and library workspaces that appear during profiling (vLLM's "non_torch_memory", one device): a guess
# at the size of what public logs show, 0.1 to 0.6 GiB.
_LIBRARIES = 0.25 * _GIB
# Buffers of NCCL and of the custom all-reduce, once more than one device takes part: a guess of the same kind.
_COMMUNICATION = 1.0 * _GIB
# A captured CUDA graph keeps its kernels' arguments.  Public logs show about 0.5 GiB for 51 sizes of an 8B model (32
# layers) and about 1.2 GiB for a 70B model (80 layers), so 0.3 MiB a layer and size.
_GRAPH_LAYER = 0.3 * 2.0**20
# Bytes a logit while sampling: the model's own 16 bit, the copy in fp32, and the probabilities in fp32.
_SAMPLING = 2 + 4 + 4


@dataclass(frozen=True, slots=True)
class CacheBudget:
    """The KV cache of one replica, in blocks that every one of its devices has.

    ``groups`` says how the pool is shared: for each window (None is full attention) how many blocks of the
    pool a span of ``block_size`` tokens costs.  ``source`` says where the count came from, for people.  The
    parts are bytes on the device that has the fewest blocks; those that were not needed are None.  ``short_bytes`` is
    what activations and graphs are expected to need beyond the rest that a rule leaves them.  ``state_blocks`` is what
    the state of recurrent layers takes of the pool for each sequence, whatever its length.
    """

    blocks: int
    bytes_per_block: float
    block_size: int
    groups: tuple[tuple[int | None, int], ...]
    source: str
    stage: int = 0
    weight_bytes: float = 0.0
    activation_bytes: float | None = None
    library_bytes: float | None = None
    graph_bytes: float | None = None
    cache_bytes: float = 0.0
    reserved: int = 1
    short_bytes: float = 0.0
    state_blocks: int = 0

    @property
    def usable(self) -> int:
        """Blocks that sequences can have: all but vLLM's null block."""
        return self.blocks - self.reserved

    @property
    def tokens(self) -> int:
        """Tokens that fit when every group keeps all of them: the figure that vLLM prints at start-up."""
        return self.usable // sum(copies for _, copies in self.groups) * self.block_size


def kv_blocks(model: ModelShape, plan: Plan, stages: Sequence[Stage], device: Device, **options: Any) -> CacheBudget:
    """Return the KV-cache budget of a replica: the fewest blocks over its stages.

    The arguments are those of `stage_budgets`.

    Raises:
        InfeasibleError: weights and activations leave no room for a cache.
    """
    budgets = stage_budgets(model, plan, stages, device, **options)
    for budget in budgets:
        if budget.usable < 1:
            raise InfeasibleError(_does_not_fit(model, plan, device, budget))
    return min(budgets, key=lambda one: one.blocks)


def stage_budgets(
    model: ModelShape,
    plan: Plan,
    stages: Sequence[Stage],
    device: Device,
    *,
    block_size: int,
    gpu_memory_utilization: float,
    weight_format: str | None = None,
    cache_format: str = "auto",
    max_num_batched_tokens: int,
    max_num_seqs: int,
    cuda_graphs: bool | Sequence[int] = True,
    num_gpu_blocks_override: int | None = None,
    kv_cache_memory_bytes: float | None = None,
    memory_rule: MemoryRule = "total",
    null_block: bool = True,
    max_cache_tokens: int | None = None,
    draft_weight_bytes: float = 0.0,
    draft_cache_bytes: float = 0.0,
) -> list[CacheBudget]:
    """Return the KV-cache budget of a device of each stage of a replica, whether it fits or not.

    Args:
        model: the model.
        plan: how it is cut.
        stages: one replica's stages; when empty, the stages that `parallel.layer_ranges` gives.
        device: the device; all of a replica are alike.
        block_size: tokens a block.
        gpu_memory_utilization: share of the device's memory, of which ``memory_rule`` says what it is for.
        weight_format: of the big matrices; None for the checkpoint's own.
        cache_format: a format, or vLLM's ``--kv-cache-dtype``.
        max_num_batched_tokens: tokens of the profiling step.
        max_num_seqs: sequences that are sampled at once.
        cuda_graphs: whether graphs are captured, or the sizes for which they are.
        num_gpu_blocks_override: this many blocks, whatever the memory.
        kv_cache_memory_bytes: this much for the cache on each device, whatever the utilisation.
        memory_rule: of the engine, see above.
        null_block: whether one block is never used.
        max_cache_tokens: no more blocks than these tokens fill.
        draft_weight_bytes: weights of a draft model or layer on each device (speculative decoding).
        draft_cache_bytes: cache of a draft for one token on each device.  It goes with every block; where full
            attention and windows share a pool, that is more than it needs.

    Raises:
        InfeasibleError: the weights of an encoder do not fit.
    """
    cut = [(stage.first_layer, stage.last_layer) for stage in stages] or layer_ranges(len(model.layers), plan.pipeline)
    layout = _layout(model)
    form, limits = weights.cache_format(model, cache_format), (max_num_batched_tokens, max_num_seqs)
    groups = tuple((window, len(parts)) for window, parts in layout.items())
    budgets: list[CacheBudget] = []
    for index, (first, last) in enumerate(cut):
        page = (_bytes_per_block(model, layout, first, last, form, plan.tensor) + draft_cache_bytes) * block_size
        page, state_blocks = _with_state(page, weights.state_bytes(model, first, last, tensor=plan.tensor))
        held = weights.stage_weight_bytes(
            model, first, last, tensor=plan.tensor, weight_format=weight_format, experts_over=plan.group
        )
        held += draft_weight_bytes
        if num_gpu_blocks_override is not None:
            blocks, source = num_gpu_blocks_override, "num_gpu_blocks_override"
            budget = CacheBudget(blocks, page, block_size, groups, source, index, held, cache_bytes=blocks * page)
        elif not page:
            blocks = max_num_seqs * -(-model.max_model_len // block_size) + 1
            budget = CacheBudget(blocks, 0.0, block_size, groups, "an encoder keeps no KV cache", index, held)
            _check_room(model, plan, device, budget, gpu_memory_utilization, *limits)
        elif kv_cache_memory_bytes is not None:
            size = float(kv_cache_memory_bytes)
            source = f"kv_cache_memory_bytes: {units.format_bytes(size)} a device"
            budget = CacheBudget(int(size // page), page, block_size, groups, source, index, held, cache_bytes=size)
        else:
            rest = held, *_others(model, plan, device, (first, last), limits, cuda_graphs)
            budget = _estimated(device, memory_rule, gpu_memory_utilization, index, page, block_size, groups, rest)
        budgets.append(replace(_limited(budget, int(null_block), max_cache_tokens), state_blocks=state_blocks))
    return budgets


def _others(
    model: ModelShape,
    plan: Plan,
    device: Device,
    span: tuple[int, int],
    limits: tuple[int, int],
    cuda_graphs: bool | Sequence[int],
) -> tuple[float, float, float]:
    """Return the bytes of activations, libraries and CUDA graphs on a device of the stage with the layers ``span``."""
    tokens, sequences = limits
    part = activation_bytes(model, *span, tensor=plan.tensor, tokens=tokens, sequences=sequences)
    return part, _library_bytes(plan, device), _graph_bytes(device, span[1] - span[0], cuda_graphs, sequences)


def _with_state(page: float, state: float) -> tuple[float, int]:
    """Return the bytes of a block, and the blocks that ``state`` bytes of a sequence take beside its cache.

    Without a cache that grows, a block is a sequence's whole state; with neither, it costs nothing.
    """
    return (page, math.ceil(state / page)) if page else (state, 0)


def _check_room(
    model: ModelShape, plan: Plan, device: Device, budget: CacheBudget, share: float, tokens: int, sequences: int
) -> None:
    """Raise where weights and activations do not fit a device, although nothing is kept beside them."""
    part = activation_bytes(model, 0, len(model.layers), tensor=plan.tensor, tokens=tokens, sequences=sequences)
    if budget.weight_bytes + part > device.memory_bytes * _VISIBLE * share:
        raise InfeasibleError(_does_not_fit(model, plan, device, budget))


def _limited(budget: CacheBudget, reserved: int, most_tokens: int | None) -> CacheBudget:
    """Return ``budget`` with the blocks that are never used, and no more blocks than ``most_tokens`` fill."""
    most = budget.blocks if most_tokens is None else most_tokens // budget.block_size
    if most >= budget.blocks:
        return replace(budget, reserved=reserved)
    return replace(budget, blocks=most, reserved=reserved, source=f"at most {most_tokens} tokens", short_bytes=0.0)


def _estimated(
    device: Device,
    rule: MemoryRule,
    share: float,
    stage: int,
    page: float,
    block_size: int,
    groups: tuple[tuple[int | None, int], ...],
    rest: tuple[float, float, float, float],
) -> CacheBudget:
    held, activations, libraries, graphs = rest
    visible = device.memory_bytes * _VISIBLE
    in_gib = [part / _GIB for part in (visible, held, activations, libraries, graphs)]
    total, weights_, active, library, graph = (f"{part:.1f}" for part in in_gib)
    short = 0.0
    if rule == "total":
        size = math.ceil(visible * share) - held - activations - libraries - graphs
        said = f"{share:g} x {total} GiB - weights {weights_} - activations {active} - libraries {library}"
        said += f" - graphs {graph}" if graphs else ""
    elif rule == "static":
        size = (visible - libraries) * share - held
        short = max(activations + graphs - (visible - libraries) * (1 - share), 0.0)
        said = f"{share:g} x ({total} GiB - libraries {library}) - weights {weights_}"
    else:
        size = (visible - held - activations - libraries) * share
        short = max(graphs - (visible - held - activations - libraries) * (1 - share), 0.0)
        said = f"{share:g} x ({total} GiB - weights {weights_} - activations {active} - libraries {library})"
    source = f"estimated: {said} = {size / _GIB:.1f} GiB, in blocks of {units.format_bytes(page)}"
    blocks = max(int(size // page), 0)
    return CacheBudget(
        blocks, page, block_size, groups, source, stage, held, activations, libraries, graphs, size, short_bytes=short
    )


def _does_not_fit(model: ModelShape, plan: Plan, device: Device, budget: CacheBudget) -> str:
    needed = budget.weight_bytes * plan.group
    return (
        f"{model.name} on {device.name} with Plan(tensor={plan.tensor}, pipeline={plan.pipeline}): stage "
        f"{budget.stage} leaves no room for a KV cache ({budget.source})\n"
        f"hint: its weights take {units.format_bytes(needed)} over {plan.group} of {device.title} with "
        f"{units.format_bytes(device.memory_bytes)} each: a larger tensor_parallel_size or pipeline_parallel_size, "
        "fp8 or 4-bit weights, a smaller max_num_batched_tokens or max_num_seqs"
    )


# -- estimates ----------------------------------------------------------------------------------------


def activation_bytes(
    model: ModelShape, first_layer: int, last_layer: int, *, tensor: int, tokens: int, sequences: int
) -> float:
    """Return the peak of the activations on one device of a stage, in bytes: an estimate.

    The larger of two moments: the widest layer of a step of ``tokens`` tokens (its input and output, the
    residual, and what the widest block holds at once), and the sampling of ``sequences`` sequences in the
    last stage, where logits of the whole vocabulary meet on every rank.
    """
    size = weights.format_bytes_per_element(model.dtype)
    here = [*(model.encoder if first_layer == 0 else ()), *model.layers[first_layer:last_layer]]
    widest = max(_layer_width(layer, model.hidden_size, tensor) for layer in dict.fromkeys(here))
    forward = tokens * (3 * model.hidden_size + widest) * size
    samples = last_layer == len(model.layers) and not model.encoder_only
    sampling = sequences * model.vocab_size * _SAMPLING if samples else 0
    return float(max(forward, sampling))


def _layer_width(layer: Layer, hidden_size: int, tensor: int) -> float:
    """Return the elements a token in the widest part of a layer."""
    widths = [_attention_width(one, tensor) for one in (layer.attention, layer.cross) if one is not None]
    if layer.feed_forward is not None:
        widths.append(_feed_forward_width(layer.feed_forward, hidden_size, tensor))
    if isinstance(layer.recurrent, Recurrent):
        widths.append((2 * layer.recurrent.inner + layer.recurrent.channels) / tensor)
    elif layer.recurrent is not None:
        widths.append(5 * layer.recurrent.directions * layer.recurrent.hidden_size / tensor)
    return max(widths)


def _attention_width(attention: Attention, tensor: int) -> float:
    """Return the elements a token while attention runs: queries, keys, values and the output."""
    heads = attention.heads // tensor
    if attention.kind == "mla":
        return heads * (2 * attention.head_dim + 2 * attention.value_head_dim)
    return attention.head_dim * (2 * heads + 2 * weights.kv_heads_of_rank(attention, tensor))


def _feed_forward_width(block: FeedForward, hidden_size: int, tensor: int) -> float:
    """Return the elements a token in the feed-forward: first products and activated ones, for each expert visited.

    Fused expert kernels keep the second products, one row of the model's width an expert, where the first were.
    """
    first = (block.matrices - 1) * block.intermediate_size / tensor
    activated = block.intermediate_size / tensor
    if not block.experts:
        return first + activated
    shared = block.matrices * block.shared_intermediate_size / tensor
    return block.experts_per_token * (max(first, hidden_size) + activated) + shared


def _library_bytes(plan: Plan, device: Device) -> float:
    return _LIBRARIES + (_COMMUNICATION if plan.devices > 1 and device.kind != "cpu" else 0.0)


def _graph_bytes(device: Device, layers: int, cuda_graphs: bool | Sequence[int], max_num_seqs: int) -> float:
    if cuda_graphs is False or device.kind != "gpu":
        return 0.0
    sizes = cudagraph_sizes(min(2 * max_num_seqs, 512)) if cuda_graphs is True else cuda_graphs
    return len(sizes) * layers * _GRAPH_LAYER


# -- the shared pool ----------------------------------------------------------------------------------


def _layout(model: ModelShape) -> dict[int | None, list[list[int]]]:
    """Return the layers of each group of the pool, by window, full attention first.

    Source: vLLM ``_get_kv_cache_groups_uniform_page_size``.  Groups have as many layers as the rarest kind,
    or as the most frequent one when the two are within a quarter of each other; kinds with more layers make
    several groups, the last ones not quite full.
    """
    by_window: dict[int | None, list[int]] = {group.window: [] for group in weights.cache_groups(model)}
    for index, layer in enumerate(model.layers):
        attention = weights.cached_attention(layer)
        if attention is not None:
            by_window[attention.window].append(index)
    if not by_window:  # nothing that grows with the text: tokens are counted, and weigh nothing
        return {None: [[]]}
    counts = [len(indices) for indices in by_window.values()]
    size = max(counts) if max(counts) < 1.25 * min(counts) else min(counts)
    layout = {}
    for window, indices in by_window.items():
        number = -(-len(indices) // size)
        layout[window] = [indices[start::number] for start in range(number)]
    return layout


def _bytes_per_block(
    model: ModelShape, layout: dict[int | None, list[list[int]]], first: int, last: int, form: str, tensor: int
) -> float:
    """Return the bytes of one token of the pool on one rank of a stage: those of the group with most layers there."""
    most = 0.0
    for parts in layout.values():
        for part in parts:
            here = [index for index in part if first <= index < last]
            if here:
                attention = weights.cached_attention(model.layers[here[0]])
                assert attention is not None  # the layout has cached layers only
                group = CacheGroup(attention.window, attention, len(here))
                most = max(most, weights.cache_bytes_per_token(group, form, tensor))
    return most
