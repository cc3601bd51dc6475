"""vLLM's defaults by version, 0.6 to 0.33: batch limits, memory, CUDA graphs, and which scheduler.

What is known, and how: the rules of 0.33.0 were read in its source (``EngineArgs.get_batch_defaults`` and
``_set_default_max_num_seqs_and_batched_tokens_args`` in vllm/engine/arg_utils.py, ``VllmConfig`` in
vllm/config/vllm.py).  Those of 0.6 to 0.15 are from memory of the same files of that time.  The releases between
0.15 and 0.21 or 0.33 were not read: changes that lie somewhere between stand at 0.21, the one release in that gap
of which a change is known (the estimate of CUDA graphs counts as used memory since then).
"""

import re
from dataclasses import replace
from typing import Any

from llmsim.engine_options import cudagraph_sizes
from llmsim.hardware import Device
from llmsim.model.shape import ModelShape
from llmsim.schema.filler import Filled, Filler
from llmsim.schema.flags import FLAGS, Flag

GIB = 2**30
Version = tuple[int, int]

OLDEST: Version = (0, 6)
NEWEST: Version = (0, 33)
# First version of each set of rules, and what changed.
CHANGES: dict[Version, str] = {
    (0, 6): "V0: prompts before decodes unless chunked, which is on above 32768 tokens of context, 512 tokens a step",
    (0, 7): "V0: 2048 tokens a step when chunked (the change came within 0.6)",
    (0, 8): "V1: one queue of tokens, prefix caching on, batch limits by device, graphs for every 8 up to 512",
    (0, 9): "A100 loses the larger batch limits of 80 GB cards",
    (0, 10): "graphs up to twice max_num_seqs, at most 512",
    (0, 12): "graphs for every 16 above 256 (0.11.1 or 0.12)",
    (0, 14): "asynchronous scheduling on by default",
    (0, 21): "graphs count as used memory; somewhere between 0.15 and 0.33: share of memory 0.92, batch limits of "
             "160 GiB cards and GB10, graphs up to 1024 on B200, whole prompts must fit",
    (0, 33): "as read in its source",
}  # fmt: skip

# V0 switched chunked prefill on where a model's window is longer than this (EngineArgs.create_engine_config, 0.6).
_LONG_CONTEXT = 32768
# BlockSpaceManager(watermark=0.01); no flag of V0's own.
_V0_WATERMARK = 0.01
_V0_GONE = {
    "swap_space": (4.0, "sequences are never swapped out: one sequence a request is recomputed"),
    "num_scheduler_steps": (1, "one step is decided at a time"),
    "preemption_mode": ("recompute", "preempted sequences are recomputed"),
    "max_num_partial_prefills": (1, "one prompt at a time is cut"),
}


def flags(version: Version) -> dict[str, Flag]:
    """Return the flags of a version with its defaults."""
    changed: dict[str, Any] = {}
    if version < (0, 21):
        changed |= {"gpu_memory_utilization": 0.90, "scheduler_reserve_full_isl": False}
    if version < (0, 14):
        changed["async_scheduling"] = False
    table = {name: replace(flag, default=changed.get(name, flag.default)) for name, flag in FLAGS.items()}
    if version < (0, 8):
        table["watermark"] = replace(FLAGS["watermark"], default=_V0_WATERMARK)
        table["enable_prefix_caching"] = replace(FLAGS["enable_prefix_caching"], default=False)
        table["enable_chunked_prefill"] = replace(FLAGS["enable_chunked_prefill"], default=None)
        for name, (default, note) in _V0_GONE.items():
            table[name] = replace(FLAGS[name], default=default, help=note, status="not modelled")
    return table


def batch_defaults(
    device: Device, devices: int, *, offline: bool = False, version: Version = NEWEST
) -> tuple[int, int]:
    """Return the default (max_num_batched_tokens, max_num_seqs) of ``vllm serve``, or of ``LLM()`` when ``offline``.

    ``devices`` is the number of devices of an engine; only a CPU's defaults depend on it.  V0 (below 0.8) has other
    rules.
    """
    if device.kind == "cpu":
        return (4096 * devices, 256 * devices) if offline else (2048 * devices, 128 * devices)
    if device.memory_bytes >= 160 * GIB and version >= (0, 21):
        return 16384, 1024
    names = f"{device.name} {device.title}".lower()
    small = [name for name, since in (("a100", (0, 9)), ("gb10", (0, 21))) if version >= since]
    if device.memory_bytes >= 70 * GIB and not any(name in names for name in small):
        return (16384, 1024) if offline else (8192, 1024)
    return (8192, 256) if offline else (2048, 256)


_PLAIN = (
    "block_size", "gpu_memory_utilization", "num_gpu_blocks_override", "kv_cache_memory_bytes",
    "enable_prefix_caching", "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive", "scheduling_policy", "scheduler_reserve_full_isl", "watermark",
    "prefill_schedule_interval", "stream_interval", "max_num_queued_reqs", "max_num_queued_tokens", "enforce_eager",
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel",
    "all2all_backend",
)  # fmt: skip


def fill(filler: Filler, version: Version, model: ModelShape, device: Device) -> Filled:
    """Return the options that a version of vLLM gives an engine of ``model`` on ``device``."""
    v0 = version < (0, 8)
    values: dict[str, Any] = {
        "max_model_len": filler.take("max_model_len", model.max_model_len, "model config"),
        "async_scheduling": filler.take("async_scheduling", None if version < (0, 14) else True),
    }
    for name in _PLAIN:
        values[name] = filler.take(name)
    values["enable_chunked_prefill"] = _chunked(filler, values, model) if v0 else filler.take("enable_chunked_prefill")
    values |= _batch_limits(filler, values, device, version)
    values["cudagraph_sizes"] = _graphs(filler, values, device, version)
    values["graphs_in_budget"] = version >= (0, 21)
    values["null_block"] = not v0
    filled = Filled(values, "vllm_v0" if v0 else "continuous")
    if v0:
        filled.set(filler, "watermark")
    return filled


def _chunked(filler: Filler, values: dict[str, Any], model: ModelShape) -> bool:
    windows = any(layer.attention and layer.attention.window is not None for layer in model.layers)
    long = values["max_model_len"] > _LONG_CONTEXT and not windows
    return bool(filler.take("enable_chunked_prefill", long, f"preset {filler.preset}, by max_model_len"))


def _batch_limits(filler: Filler, values: dict[str, Any], device: Device, version: Version) -> dict[str, int]:
    window = values["max_model_len"]
    origin = f"preset {filler.preset}, by device"
    if version < (0, 8):
        budget = 512 if version < (0, 7) else 2048
        tokens, seqs = (budget if values["enable_chunked_prefill"] else max(window, 2048)), 256
        origin = f"preset {filler.preset}, by max_model_len"
        filler.take("performance_mode")
    else:
        devices = values["tensor_parallel_size"] * values["pipeline_parallel_size"]
        tokens, seqs = batch_defaults(device, devices, version=version)
        if filler.take("performance_mode") == "throughput":
            tokens, seqs = 2 * tokens, 2 * seqs
        most_seqs = filler.given.get("max_num_seqs", seqs)
        if not values["enable_chunked_prefill"] and tokens < window:
            tokens, origin = window, "max_model_len, as chunked prefill is off"
        tokens = min(tokens, most_seqs * window)
    tokens = filler.take("max_num_batched_tokens", tokens, origin)
    seqs = filler.by_device("max_num_seqs", min(seqs, tokens))
    return {
        "max_num_batched_tokens": tokens,
        "max_num_seqs": seqs,
        "max_num_scheduled_tokens": filler.take("max_num_scheduled_tokens", tokens, "max_num_batched_tokens"),
        "max_num_active_seqs": filler.take("max_num_active_seqs", seqs, "max_num_seqs"),
    }


def _graphs(filler: Filler, values: dict[str, Any], device: Device, version: Version) -> tuple[int, ...]:
    """Return the captured batch sizes; since 0.21 none is above 2 x sequences, 512 (1024 on B200), and the budget."""
    if values["enforce_eager"] or device.kind == "cpu":
        filler.origins["cudagraph_capture_sizes"] = "enforce_eager" if values["enforce_eager"] else "device"
        return ()
    seqs, tokens = values["max_num_seqs"], values["max_num_batched_tokens"]
    blackwell = version >= (0, 21) and re.match(r"g?b[123]00", device.name)
    if version < (0, 8):
        rule = -(-seqs // 8) * 8  # the smallest size that holds all sequences
    elif version < (0, 10):
        rule = min(512, tokens)
    else:
        rule = min(2 * seqs, 1024 if blackwell else 512, tokens)
    largest = filler.by_device("max_cudagraph_capture_size", rule)
    every_8 = tuple(size for size in (1, 2, 4, *range(8, largest + 1, 8)) if size <= largest)
    plain = every_8 if version < (0, 12) else cudagraph_sizes(largest)
    sizes = filler.take("cudagraph_capture_sizes", plain, f"preset {filler.preset}")
    limited = "max_cudagraph_capture_size" in filler.given
    return tuple(sorted({size for size in sizes if size <= largest or not limited}))
