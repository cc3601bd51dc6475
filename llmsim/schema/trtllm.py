"""TensorRT-LLM's defaults, version 1: memory by the fraction of what is left, batch limits, CUDA graphs.

Source: ``LlmArgs`` (tensorrt_llm/llmapi/llm_args.py), ``KvCacheCreator`` (tensorrt_llm/_torch/pyexecutor/_util.py) and
NVIDIA's documentation of its flags.  From memory of 1.0: the default of ``max_batch_size`` (2048; a mirror of the
documentation says 256), 32 tokens a block, and the sizes of CUDA graphs.
"""

from typing import Any

from llmsim.hardware import Device
from llmsim.model.shape import ModelShape
from llmsim.schema.filler import Filled, Filler
from llmsim.schema.other_flags import NESTED, NOT_MODELLED_WITHIN

LARGEST_GRAPH = 128


def graph_sizes(largest: int) -> tuple[int, ...]:
    """Return the batches for which a CUDA graph is captured when batches are padded: every 8 to 128, then doubling."""
    sizes = {1, 2, 4, *range(8, 129, 8), largest}
    power = 256
    while power < largest:
        sizes.add(power)
        power *= 2
    return tuple(sorted(size for size in sizes if size <= largest))


_PLAIN = (
    "block_size", "num_gpu_blocks_override", "kv_cache_memory_bytes", "enable_prefix_caching", "stream_interval",
    "enforce_eager", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_chunked_prefill",
    "max_num_batched_tokens", "max_num_seqs",
)  # fmt: skip


def fill(filler: Filler, model: ModelShape, device: Device) -> Filled:
    """Return the options that TensorRT-LLM gives an engine of ``model`` on ``device``."""
    window = filler.take("max_model_len", model.max_model_len, "model config")
    values: dict[str, Any] = {
        "max_model_len": window, "async_scheduling": filler.take("async_scheduling", True),
        **{name: filler.take(name) for name in _PLAIN},
    }  # fmt: skip
    filled = Filled(values, "tensorrt_llm")
    tokens, seqs = values["max_num_batched_tokens"], values["max_num_seqs"]
    share = filled.shown["free_gpu_memory_fraction"] = filler.take("free_gpu_memory_fraction")
    most = filled.shown["max_cache_tokens"] = filler.take("max_cache_tokens")
    values |= {
        "max_num_scheduled_tokens": tokens, "max_num_active_seqs": seqs, "scheduler_reserve_full_isl": False,
        "memory_rule": "free", "gpu_memory_utilization": share, "graphs_in_budget": False, "null_block": False,
        "max_cache_tokens": most, "max_prompt_tokens": None if values["enable_chunked_prefill"] else tokens,
        "cudagraph_sizes": _graphs(filler, filled, device),
    }  # fmt: skip
    for name, known in NOT_MODELLED_WITHIN.items():
        unknown = [key for key in filler.given.get(name, ()) if key not in known]
        if unknown:
            every = ", ".join((*NESTED["trtllm"][name], *known))
            filled.problems.append((name, f"unknown key {unknown[0]!r} (known: {every})"))
    filled.shown |= {name: filler.take(name) for name in ("enable_attention_dp", "moe_expert_parallel_size")}
    filled.set(filler, "capacity_scheduler_policy", "context_chunking_policy")
    return filled


def _graphs(filler: Filler, filled: Filled, device: Device) -> tuple[int, ...]:
    """Return the sizes to which batches are padded: none unless ``cuda_graph_config.enable_padding`` is on."""
    padding = filled.shown["cuda_graph_padding"] = filler.take("cuda_graph_padding")
    largest = filler.take("max_cudagraph_capture_size", LARGEST_GRAPH, f"preset {filler.preset}")
    sizes = filler.take("cudagraph_capture_sizes", graph_sizes(largest) if padding else (), f"preset {filler.preset}")
    if filled.values["enforce_eager"] or device.kind == "cpu" or not padding:
        return ()
    return tuple(sorted(set(sizes)))
