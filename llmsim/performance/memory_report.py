"""The memory of one device, item by item, each with the formula that gave it and where that comes from.

Everything is on the device with the fewest blocks.  The items of `Memory.lines` that are bytes of the device's memory
add up to what the engine may take; cache bytes a token are told apart by kind of layer.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmsim.errors import InfeasibleError
from llmsim.hardware import Device
from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.model import weights
from llmsim.model.shape import Attention, ModelShape
from llmsim.parallel import Plan, check, layer_ranges
from llmsim.performance.memory import CacheBudget, activation_bytes, stage_budgets
from llmsim.performance.weight_lines import Line, weight_lines

# Lengths for which the greatest concurrency is told, beside max_model_len.
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_GIB = 2.0**30
_RULES = {
    "total": "vLLM, gpu_worker.determine_available_memory: share x visible - all that is not cache",
    "static": "SGLang, ModelRunner.profile_max_num_token: share x (visible - libraries) - weights",
    "free": "TensorRT-LLM, KvCacheCreator: share x (visible - weights - activations - libraries)",
}
# What is said of how far to trust it.
TRUST = (
    "weights and cache bytes are counted; activations, libraries and CUDA graphs are estimates, expected within 1 GiB "
    "together (2 % of the cache of an 80 GB device), untested"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a model takes of a device.

    ``lines`` are the items.  ``blocks`` and ``tokens`` are what the cache of a replica holds, 0 where nothing fits;
    ``concurrency`` says for some lengths, in tokens, how many sequences of that length it holds at once.
    ``short_bytes`` is what a device lacks for one block; ``problems`` are what does not fit, in words;
    ``fewest_tensor`` is the smallest tensor-parallel size at which the model fits, ``fewest_tensor_longest`` the one at
    which a request of ``max_model_len`` tokens does; None: no size that divides the model.
    """

    model: str
    device: str
    plan: str
    preset: str
    rule: str
    stage: int
    lines: tuple[Line, ...]
    blocks: int
    block_size: int
    tokens: int
    max_model_len: int
    max_num_seqs: int
    concurrency: Mapping[int, float]
    fits: bool
    short_bytes: float
    problems: tuple[str, ...]
    fewest_tensor: int | None
    fewest_tensor_longest: int | None
    trust: str = TRUST

    def bytes_of(self, part: str) -> float:
        """Return the bytes of ``part``, such as "weights: experts", or "weights" for all of them; 0 without any."""
        return sum(
            line.value
            for line in self.lines
            if line.unit == "bytes" and part in (line.part, line.part.split(":", 1)[0])
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain types, for JSON."""
        told = asdict(self)
        told["concurrency"] = {str(length): count for length, count in self.concurrency.items()}
        return told


def report(
    model: ModelShape,
    plan: Plan,
    device: Device,
    *,
    preset: str,
    max_model_len: int,
    cache_options: Mapping[str, Any],
) -> Memory:
    """Return the memory of a model on a device; a model that does not fit is told, not raised.

    Args:
        model: the model.
        plan: how it is cut.
        device: the device of every rank.
        preset: engine and version, to be told.
        max_model_len: the longest request.
        cache_options: the options of `llmsim.performance.memory.stage_budgets`.
    """
    lines: list[Line] = []
    problems: list[str] = []
    budget = _budget(model, plan, device, cache_options, problems)
    stage = budget.stage if budget is not None else 0
    first, last = layer_ranges(len(model.layers), plan.pipeline)[stage]
    form = cache_options["weight_format"]
    lines += weight_lines(model, first, last, tensor=plan.tensor, weight_format=form, experts_over=plan.group)
    lines += _draft_lines(cache_options)
    if budget is not None:
        lines += _other_lines(model, plan, device, budget, cache_options, (first, last))
        lines += _cache_lines(model, plan, budget, cache_options, (first, last))
        problems += _problems(model, device, budget, max_model_len, cache_options)
    usable = max(budget.usable, 0) if budget is not None else 0
    fits = budget is not None and budget.usable >= 1
    return Memory(
        model=model.name,
        device=device.title,
        plan=plan.told,
        preset=preset,
        rule=str(cache_options["memory_rule"]),
        stage=stage,
        lines=tuple(lines),
        blocks=usable,
        block_size=int(cache_options["block_size"]),
        tokens=budget.tokens if budget is not None and fits else 0,
        max_model_len=max_model_len,
        max_num_seqs=int(cache_options["max_num_seqs"]),
        concurrency=_concurrency(budget, max_model_len, cache_options) if budget is not None and fits else {},
        fits=fits,
        short_bytes=_short_bytes(budget, cache_options) if budget is not None else 0.0,
        problems=tuple(problems),
        fewest_tensor=_fewest_tensor(model, plan, device, cache_options, 1),
        fewest_tensor_longest=_fewest_tensor(model, plan, device, cache_options, max_model_len),
    )


def _budget(
    model: ModelShape, plan: Plan, device: Device, options: Mapping[str, Any], problems: list[str]
) -> CacheBudget | None:
    """Return the budget of the device with the fewest blocks; None, and a problem, where not even that can be told."""
    try:
        return min(stage_budgets(model, plan, (), device, **options), key=lambda one: (one.blocks, one.cache_bytes))
    except InfeasibleError as error:
        problems.append(str(error).split("\n", 1)[0])
        return None


def _draft_lines(options: Mapping[str, Any]) -> list[Line]:
    if not options["draft_weight_bytes"]:
        return []
    said = "all that this rank holds of what proposes drafts"
    return [Line("weights: draft", options["draft_weight_bytes"], "bytes", said, "the draft's config.json")]


def _other_lines(
    model: ModelShape,
    plan: Plan,
    device: Device,
    budget: CacheBudget,
    options: Mapping[str, Any],
    span: tuple[int, int],
) -> list[Line]:
    """Return what else a device holds beside weights and cache, as far as the rule asks for it."""
    lines = []
    if budget.activation_bytes is not None:
        tokens, sequences = int(options["max_num_batched_tokens"]), int(options["max_num_seqs"])
        forward = activation_bytes(model, *span, tensor=plan.tensor, tokens=tokens, sequences=0)
        said = f"{tokens:,} tokens x {forward / tokens:,.0f} B in the widest layer"
        if budget.activation_bytes > forward:
            said = f"{sequences:,} sequences x {model.vocab_size:,} logits x 10 B while sampling, more than {said}"
        lines.append(
            Line("activations", budget.activation_bytes, "bytes", said, "an estimate: peak of a profiling step")
        )
    if budget.library_bytes is not None:
        said = "0.25 GiB" + (" + 1 GiB of communication buffers" if budget.library_bytes > _GIB else "")
        lines.append(Line("libraries", budget.library_bytes, "bytes", said, "a guess at what public logs show"))
    if budget.graph_bytes:
        sizes, layers = options["cuda_graphs"], span[1] - span[0]
        said = f"{len(sizes)} sizes x {layers} layers x 0.3 MiB"
        lines.append(Line("CUDA graphs", budget.graph_bytes, "bytes", said, "an estimate from public vLLM logs"))
    if budget.bytes_per_block:
        lines.append(Line("cache", max(budget.cache_bytes, 0.0), "bytes", budget.source, _rule_source(budget, options)))
    if budget.activation_bytes is not None and budget.usable >= 1:
        held = budget.weight_bytes + sum(line.value for line in lines)
        unused = device.memory_bytes - held
        lines.append(Line("left over", unused, "bytes", f"{device.memory_bytes / _GIB:.1f} GiB - all above",
                          "what the share leaves to others, and 1 % that the driver keeps"))  # fmt: skip
    return lines


def _rule_source(budget: CacheBudget, options: Mapping[str, Any]) -> str:
    return _RULES[options["memory_rule"]] if budget.source.startswith("estimated") else "the scenario"


def _cache_lines(
    model: ModelShape, plan: Plan, budget: CacheBudget, options: Mapping[str, Any], span: tuple[int, int]
) -> list[Line]:
    """Return what a token, a sequence and a block take, by kind of layer."""
    form = weights.cache_format(model, options["cache_format"])
    lines = []
    for group in weights.cache_groups(model, *span):
        size = weights.cache_bytes_per_token(group, form, plan.tensor)
        said = f"{group.layers} layers x {_width(group.attention, plan.tensor)}, in {form}"
        lines.append(Line(f"cache a token: {_kind(group.attention)}", size, "bytes/token", said, _cache_source(form)))
    if options["draft_cache_bytes"]:
        said = "keys and values of all of the draft's layers"
        lines.append(Line("cache a token: draft", options["draft_cache_bytes"], "bytes/token", said, "its config.json"))
    state = weights.state_bytes(model, *span, tensor=plan.tensor)
    if state:
        layers = sum(layer.recurrent is not None for layer in model.layers[slice(*span)])
        said = f"{layers} layers, whatever the length; {budget.state_blocks} blocks"
        lines.append(Line("state a sequence: recurrent", state, "bytes/sequence", said, "config.json"))
    if budget.bytes_per_block:
        copies = sum(copies for _, copies in budget.groups)
        said = f"{options['block_size']} tokens of the widest of {copies} group{'s' * (copies > 1)} of layers"
        lines.append(Line("a block", budget.bytes_per_block, "bytes/block", said, "vLLM, get_kv_cache_groups"))
    return lines


def _kind(attention: Attention) -> str:
    if attention.kind == "mla":
        return "latent attention"
    if attention.memory:
        return f"hidden states of {attention.memory:,} tokens"
    if attention.window is None:
        return "full attention"
    return f"{'chunks' if attention.chunked else 'windows'} of {attention.window:,}"


def _width(attention: Attention, tensor: int) -> str:
    if attention.kind == "mla":
        return f"(latent {attention.kv_lora_rank} + rotary {attention.rope_head_dim}), whole on every rank"
    if attention.memory:
        return f"{attention.heads} heads x {attention.head_dim}"
    held = weights.kv_heads_of_rank(attention, tensor)
    return f"2 (keys, values) x {held} of {attention.kv_heads} KV heads x {attention.head_dim}"


def _cache_source(form: str) -> str:
    if form == "fp8_ds_mla":
        return "vLLM's layout for DeepSeek: 656 B a token and layer"
    return f"config.json; {weights.format_bytes_per_element(form):g} B an element"


def _concurrency(budget: CacheBudget, longest: int, options: Mapping[str, Any]) -> dict[int, float]:
    """Return how many sequences of some lengths the blocks hold at once: vLLM's "maximum concurrency"."""
    pool = _pool(budget, options)
    lengths = sorted({length for length in LENGTHS if length < longest} | {longest})
    return {length: pool.blocks / pool.most_held(length) for length in lengths if pool.most_held(length)}


def _pool(budget: CacheBudget, options: Mapping[str, Any]) -> BlockPool:
    groups = tuple(BlockGroup(window, copies) for window, copies in budget.groups)
    return BlockPool(
        max(budget.usable, 0),
        budget.block_size,
        groups,
        max_chunk=int(options["max_num_batched_tokens"]),
        constant=budget.state_blocks,
    )


def _short_bytes(budget: CacheBudget, options: Mapping[str, Any]) -> float:
    """Return the bytes that a device lacks for one block that a sequence can have."""
    wanted = (1 + budget.reserved) * budget.bytes_per_block
    lacking = max(wanted - budget.cache_bytes, 0.0) if budget.usable < 1 else 0.0
    # Of a share of what is left, only that share goes to the cache.
    return lacking / float(options["gpu_memory_utilization"]) if options["memory_rule"] == "free" else lacking


def _problems(
    model: ModelShape, device: Device, budget: CacheBudget, longest: int, options: Mapping[str, Any]
) -> list[str]:
    said = []
    if budget.usable < 1:
        lacking = _short_bytes(budget, options) / _GIB
        said.append(f"{model.name} does not fit {device.title}: {lacking:.2f} GiB short of one block a device")
    else:
        pool = _pool(budget, options)
        missing = pool.most_held(longest) - pool.blocks
        if missing > 0:
            size = missing * budget.bytes_per_block / _GIB
            said.append(f"one request of max_model_len {longest:,} tokens does not fit: {missing:,} blocks, "
                        f"{size:.2f} GiB a device, short")  # fmt: skip
    if budget.short_bytes and budget.usable >= 1:
        said.append(f"activations and CUDA graphs need {budget.short_bytes / _GIB:.2f} GiB more than the share leaves")
    return said


def _fewest_tensor(
    model: ModelShape, plan: Plan, device: Device, options: Mapping[str, Any], length: int
) -> int | None:
    """Return the smallest tensor-parallel size at which one sequence of ``length`` tokens fits."""
    widest = max((layer.attention.heads for layer in model.layers if layer.attention is not None), default=1)
    for tensor in range(1, widest + 1):
        wanted = Plan(tensor, plan.pipeline, plan.data, min(plan.expert, tensor * plan.data))
        try:
            check(model, wanted)
            budgets = stage_budgets(model, wanted, (), device, **options)
        except InfeasibleError:
            continue
        if all(one.usable >= max(1, math.ceil(_pool(one, options).most_held(length))) for one in budgets):
            return tensor
    return None
