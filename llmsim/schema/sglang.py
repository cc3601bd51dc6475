"""SGLang's defaults, version 0.5: memory by the static fraction, batch limits and CUDA graphs by device.

Source: ``ServerArgs.__post_init__`` with its handling of GPU memory (python/sglang/srt/server_args.py), and
``ModelRunner.profile_max_num_token`` (model_executor/model_runner.py).  Names and the sizes of chunks are those of
0.5.23, which were read; the reserve behind ``mem_fraction_static``, the largest CUDA graph by device and the default
of ``max_running_requests`` are from memory of 0.5.3 and may differ in later releases: give the values that your
server prints at its start.
"""

from typing import Any

from llmsim.hardware import Device
from llmsim.model.shape import ModelShape
from llmsim.schema.filler import Filled, Filler
from llmsim.schema.vllm import GIB

MIB = 2**20
# The default of max_running_requests is cache tokens / context x 512, at least this and at most 4096.
RUNNING_REQUESTS = 2048


def chunk_size(device: Device) -> int:
    """Return the default ``chunked_prefill_size`` by device memory."""
    for limit, size in ((20, 2048), (60, 4096), (160, 8192)):
        if device.memory_bytes < limit * GIB:
            return size
    return 16384


def largest_graph(device: Device, tensor: int) -> int:
    """Return the default ``cuda_graph_max_bs``, by device memory and tensor parallelism."""
    for limit, narrow, wide in ((20, 8, 8), (35, 24, 80), (60, 32, 160), (160, 256, 512)):
        if device.memory_bytes < limit * GIB:
            return narrow if tensor < 4 else wide
    return 512


def graph_sizes(largest: int) -> tuple[int, ...]:
    """Return the decode batches for which a CUDA graph is captured."""
    sizes = [1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 512, 16), *range(512, largest + 1, 32)]
    return tuple(size for size in sizes if size <= largest)


def static_fraction(device: Device, *, chunk: int, prefill: int, largest: int, devices: int) -> float:
    """Return the default ``mem_fraction_static``: what is left of 1 after a reserve for activations and graphs.

    The reserve, in MiB: 512, plus 1.5 a token of a chunk (at least 2048 tokens; ``prefill`` tokens where chunks are
    off), plus 2 a sequence of the largest graph, plus 128 a device; on cards above 60 GiB at least 10 GiB.
    """
    total = device.memory_bytes / MIB
    reserve = 512 + 1.5 * max(chunk if chunk > 0 else prefill, 2048) + 2 * largest + devices / 8 * 1024
    if total > 60 * 1024:
        reserve = max(reserve, 10 * 1024)
    return round((total - reserve) / total, 3)


_PLAIN = (
    "block_size", "num_gpu_blocks_override", "kv_cache_memory_bytes", "enable_prefix_caching", "stream_interval",
    "max_num_queued_reqs", "enforce_eager", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size",
)  # fmt: skip


def fill(filler: Filler, model: ModelShape, device: Device) -> Filled:
    """Return the options that SGLang gives an engine of ``model`` on ``device``."""
    window = filler.take("max_model_len", model.max_model_len, "model config")
    values: dict[str, Any] = {
        "max_model_len": window, "async_scheduling": filler.take("async_scheduling", True),
        "max_num_seqs": filler.take("max_num_seqs", RUNNING_REQUESTS),
        **{name: filler.take(name) for name in _PLAIN},
    }  # fmt: skip
    filled = Filled(values, "sglang")
    shown = filled.shown
    chunk = shown["chunked_prefill_size"] = filler.by_device("chunked_prefill_size", chunk_size(device))
    prefill = shown["max_prefill_tokens"] = filler.take("max_prefill_tokens")
    if chunk == 0:
        filled.problems.append(("chunked_prefill_size", "must be at least 1, or -1 for no chunks (got 0)"))
    largest = filler.by_device("max_cudagraph_capture_size", largest_graph(device, values["tensor_parallel_size"]))
    sizes = filler.take("cudagraph_capture_sizes", graph_sizes(largest), f"preset {filler.preset}")
    devices = values["tensor_parallel_size"] * values["pipeline_parallel_size"]
    share = static_fraction(device, chunk=chunk, prefill=prefill, largest=largest, devices=devices)
    share = shown["mem_fraction_static"] = filler.by_device("mem_fraction_static", share)
    most = shown["max_total_tokens"] = filler.take("max_total_tokens")
    # Where chunks are off, the first prompt of a step may be of any length.
    tokens = max(chunk if chunk > 0 else max(prefill, window), 1)
    seqs = values["max_num_seqs"]
    values |= {
        "max_num_batched_tokens": max(tokens, seqs), "max_num_scheduled_tokens": max(tokens, seqs),
        "max_num_active_seqs": seqs, "enable_chunked_prefill": chunk > 0, "scheduler_reserve_full_isl": False,
        "memory_rule": "static", "gpu_memory_utilization": share, "graphs_in_budget": False, "null_block": False,
        "max_cache_tokens": most,
        "cudagraph_sizes": () if values["enforce_eager"] or device.kind == "cpu" else tuple(sorted(set(sizes))),
    }  # fmt: skip
    filled.shown |= {name: filler.take(name) for name in ("ep_size", "enable_dp_attention", "moe_a2a_backend")}
    filled.set(
        filler, "schedule_policy", "schedule_conservativeness", "chunked_prefill_size", "max_prefill_tokens",
        "enable_mixed_chunk", "enable_priority_scheduling", "schedule_low_priority_values_first",
        "scheduler_recv_interval",
    )  # fmt: skip
    return filled
