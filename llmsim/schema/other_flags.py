"""Flags of SGLang and TensorRT-LLM under their own names, beside those that mean what a flag of vLLM means.

Names and defaults: SGLang 0.5 ``server_args.py`` (the table of 0.5.23 was read; where a rule is from memory,
`llmsim.schema.sglang` says so), TensorRT-LLM 1.x ``llmapi/llm_args.py`` (documentation, and memory of 1.0).

A flag that means what one of vLLM's means is kept under vLLM's name, so that the rest of the program knows one
name for one thing: `SPELLINGS`, `NEGATED` and `NESTED` say which.
"""

from dataclasses import replace
from typing import Any

from llmsim.schema.flags import ALIASES, FLAGS, Flag, Kind


def _later(name: str, kind: Kind, default: Any, help: str, **more: Any) -> Flag:
    return Flag(name, kind, default, help, status="not modelled", **more)


def _shared(names: str, **defaults: Any) -> list[Flag]:
    """Return flags of vLLM that another engine has too, some with its own default."""
    return [replace(FLAGS[name], default=defaults.get(name, FLAGS[name].default)) for name in names.split()]


_ALL_ENGINES = (
    "tensor_parallel_size pipeline_parallel_size max_model_len dtype quantization kv_cache_dtype block_size "
    "kv_cache_memory_bytes num_gpu_blocks_override max_num_seqs enable_prefix_caching async_scheduling enforce_eager "
    "cudagraph_capture_sizes max_cudagraph_capture_size stream_interval data_parallel_size enable_lora"
)
_NO_EFFECT = [flag for flag in FLAGS.values() if flag.status == "no effect"]
_WITHOUT_EFFECT = ("random_seed", "log_level", "watchdog_timeout", "enable_metrics")

SGLANG_POLICIES = (
    "fcfs", "lpm", "random", "dfs-weight", "lof", "priority", "routing-key", "hrrn", "shortest-prefill-first"
)  # fmt: skip
_SGLANG = (
    *_shared(f"{_ALL_ENGINES} max_num_queued_reqs cpu_offload_gb", block_size=1),
    Flag("mem_fraction_static", "float", None, "share of the free memory for weights and cache; default: by device",
         0.0, 1.0),
    Flag("chunked_prefill_size", "int", None, "most prompt tokens of a step; -1: no chunks; default: by device", -1),
    Flag("max_prefill_tokens", "int", 16384, "prompt tokens after which a step takes no further request", 1),
    Flag("max_total_tokens", "int", None, "tokens of the cache, at most; default: by memory", 1),
    Flag("schedule_policy", "text", "fcfs", "order of the waiting queue", choices=SGLANG_POLICIES),
    Flag("schedule_conservativeness", "float", 1.0, "factor on the output expected of those that run", 0.0),
    Flag("enable_mixed_chunk", "bool", False, "decode in the steps that compute prompts"),
    Flag("enable_priority_scheduling", "bool", False, "order the queue by priority, higher values first"),
    Flag("schedule_low_priority_values_first", "bool", False, "lower values are the more important ones"),
    Flag("scheduler_recv_interval", "int", 1, "steps that decode from one look for new requests to the next", 1),
    Flag("ep_size", "int", 1, "devices over which experts are dealt whole", 1),
    Flag("enable_dp_attention", "bool", False, "attention in data_parallel_size ranks over shared experts"),
    Flag("moe_a2a_backend", "text", "none", "how tokens reach the experts of other ranks: also deepep"),
    _later("radix_eviction_policy", "text", "lru", "what was used longest ago goes first"),
    _later("enable_hierarchical_cache", "bool", False, "caches stay on the device"),
    _later("hicache_ratio", "float", 2.0, "caches stay on the device"),
    _later("disaggregation_mode", "text", "null", "one engine computes prompts and answers"),
    _later("speculative_algorithm", "text", None, "one token a sequence and step"),
    _later("speculative_num_steps", "int", None, "one token a sequence and step"),
    _later("speculative_eagle_topk", "int", None, "one token a sequence and step"),
    _later("speculative_num_draft_tokens", "int", None, "one token a sequence and step"),
    _later("num_continuous_decode_steps", "int", 1, "prompts are looked for before every step"),
    _later("enable_two_batch_overlap", "bool", False, "batches do not overlap"),
    _later("enable_torch_compile", "bool", False, "the fitted kernels are priced"),
    _later("attention_backend", "text", None, "the fitted kernels are priced"),
    _later("disable_cuda_graph_padding", "bool", False, "batches are padded to the captured sizes"),
    _later("swa_full_tokens_ratio", "float", 0.8, "all kinds of layers share one pool"),
)  # fmt: skip

_TRTLLM = (
    *_shared(f"{_ALL_ENGINES} max_num_batched_tokens enable_chunked_prefill", block_size=32,
             enable_chunked_prefill=False, max_num_batched_tokens=8192, max_num_seqs=2048),
    Flag("free_gpu_memory_fraction", "float", 0.9, "share for the cache of the memory that is left", 0.0, 1.0),
    Flag("max_cache_tokens", "int", None, "tokens of the cache, at most; default: by memory", 1),
    Flag("capacity_scheduler_policy", "text", "GUARANTEED_NO_EVICT", "when a request may start",
         choices=("GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH")),
    Flag("context_chunking_policy", "text", None, "how a step's tokens are dealt to prompts; default: in order",
         choices=("FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS")),
    Flag("cuda_graph_padding", "bool", False, "pad batches to the captured sizes"),
    Flag("moe_expert_parallel_size", "int", None, "devices over which experts are dealt whole; default: 1", 1),
    Flag("enable_attention_dp", "bool", False, "attention in a rank on each device, over shared experts"),
    _later("kv_cache_config", "json", None, "of its keys only fraction, reuse, dtype, block and most tokens are read"),
    _later("scheduler_config", "json", None, "of its keys only the two policies are read"),
    _later("cuda_graph_config", "json", None, "of its keys only the sizes and enable_padding are read"),
    _later("max_beam_width", "int", 1, "answers are sampled, not searched for", minimum=1),
    _later("max_input_len", "int", None, "prompts are limited by max_num_tokens and max_seq_len"),
    _later("speculative_config", "json", None, "one token a sequence and step"),
    _later("batch_wait_timeout_ms", "float", 0.0, "a step does not wait for further requests"),
    _later("cache_transceiver_config", "json", None, "caches are not handed over"),
    _later("attn_backend", "text", "TRTLLM", "the fitted kernels are priced"),
    _later("enable_autotuner", "bool", True, "the fitted kernels are priced"),
)  # fmt: skip


def _table(flags: tuple[Flag, ...]) -> dict[str, Flag]:
    rest = [Flag(name, "text", None, "", status="no effect") for name in _WITHOUT_EFFECT]
    return {flag.name: flag for flag in (*flags, *_NO_EFFECT, *rest)}


SGLANG_FLAGS = _table(_SGLANG)
TRTLLM_FLAGS = _table(_TRTLLM)

# Other spellings of a flag, by engine.
SPELLINGS: dict[str, dict[str, str]] = {
    "vllm": ALIASES,
    "sglang": {
        "tp": "tensor_parallel_size", "tp_size": "tensor_parallel_size", "pp_size": "pipeline_parallel_size",
        "dp": "data_parallel_size", "dp_size": "data_parallel_size", "context_length": "max_model_len",
        "page_size": "block_size", "max_running_requests": "max_num_seqs",
        "max_queued_requests": "max_num_queued_reqs", "disable_cuda_graph": "enforce_eager",
        "cuda_graph_bs": "cudagraph_capture_sizes", "cuda_graph_max_bs": "max_cudagraph_capture_size",
        "expert_parallel_size": "ep_size",
    },
    "trtllm": {
        "tp_size": "tensor_parallel_size", "pp_size": "pipeline_parallel_size", "max_batch_size": "max_num_seqs",
        "max_num_tokens": "max_num_batched_tokens", "max_seq_len": "max_model_len",
        "kv_cache_free_gpu_memory_fraction": "free_gpu_memory_fraction", "ep_size": "moe_expert_parallel_size",
    },
}  # fmt: skip
# Switches that say the opposite of one of vLLM's.
NEGATED: dict[str, dict[str, str]] = {
    "vllm": {},
    "sglang": {"disable_radix_cache": "enable_prefix_caching", "disable_overlap_schedule": "async_scheduling"},
    "trtllm": {"disable_overlap_scheduler": "async_scheduling"},
}
# Keys within a key.
NESTED: dict[str, dict[str, dict[str, str]]] = {
    "vllm": {},
    "sglang": {},
    "trtllm": {
        "kv_cache_config": {
            "free_gpu_memory_fraction": "free_gpu_memory_fraction", "enable_block_reuse": "enable_prefix_caching",
            "dtype": "kv_cache_dtype", "tokens_per_block": "block_size", "max_tokens": "max_cache_tokens",
        },
        "scheduler_config": {
            "capacity_scheduler_policy": "capacity_scheduler_policy",
            "context_chunking_policy": "context_chunking_policy",
        },
        "cuda_graph_config": {
            "max_batch_size": "max_cudagraph_capture_size", "batch_sizes": "cudagraph_capture_sizes",
            "enable_padding": "cuda_graph_padding",
        },
    },
}  # fmt: skip
# Keys within these keys that TensorRT-LLM knows and that change nothing here.
NOT_MODELLED_WITHIN = {
    "kv_cache_config": (
        "host_cache_size", "enable_partial_reuse", "copy_on_partial_reuse", "onboard_blocks", "max_attention_window",
        "sink_token_length", "event_buffer_max_size", "secondary_offload_min_priority", "max_gpu_total_bytes",
        "cross_kv_cache_fraction", "use_uvm",
    ),
    "scheduler_config": ("dynamic_batch_config",),
    "cuda_graph_config": (),
}  # fmt: skip

TABLES: dict[str, dict[str, Flag]] = {"vllm": FLAGS, "sglang": SGLANG_FLAGS, "trtllm": TRTLLM_FLAGS}
# Every key that `engine:` may have under some preset, vLLM's first; the kinds of a name are the same in all tables.
ALL_FLAGS: dict[str, Flag] = {**FLAGS, **SGLANG_FLAGS, **TRTLLM_FLAGS, **FLAGS}
# Spellings beyond the flags' own names, with the switches among them.
OTHER_SPELLINGS: dict[str, bool] = {
    spelling: spelling in NEGATED[engine] or ALL_FLAGS[SPELLINGS[engine][spelling]].kind == "bool"
    for engine in ("sglang", "trtllm")
    for spelling in (*SPELLINGS[engine], *NEGATED[engine])
    if spelling not in ALL_FLAGS and spelling not in ALIASES
}


def engine_of(preset: Any) -> str:
    """Return the engine of a preset's name; vllm when it is none that is known."""
    name = str(preset).split("@")[0]
    return name if name in TABLES else "vllm"
