"""Every engine flag of vLLM 0.33: its type, its default in the preset, and whether the simulation models it.

One table makes the command line's options, the keys of ``engine:`` in a scenario file, the JSON schema and the
warnings.  Names and defaults are those of ``vllm serve`` (vllm/config/*.py, vllm/engine/arg_utils.py, 0.33.0).
"""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["int", "float", "bool", "text", "json", "sizes"]
Status = Literal["modelled", "not modelled", "no effect", "removed"]

SAME_AS_DEFAULT = object()


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag.  ``default`` None: it depends on the device or the model, see `llmsim.schema.engine`.

    ``neutral`` is the value at which a flag that is not modelled changes nothing; any other value warns.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    short: str = ""
    aliases: tuple[str, ...] = ()
    status: Status = "modelled"
    neutral: Any = SAME_AS_DEFAULT
    title: str = ""

    @property
    def option(self) -> str:
        """The spelling on the command line: ``--max-num-seqs``."""
        return "--" + self.name.replace("_", "-")

    def warning(self, value: Any) -> str | None:
        """Return what to say about ``value`` when the simulation does not do what the flag asks; else None."""
        neutral = self.default if self.neutral is SAME_AS_DEFAULT else self.neutral
        if self.status == "modelled" or value == neutral:
            return None
        said = f"engine.{self.name}"
        if self.status == "removed":
            return f"{said}: ignored, vLLM V1 has no such flag any more"
        if self.status == "no effect":
            return f"{said}: ignored, it does not change simulated times"
        return f"{self.title or said} is not modelled yet: {self.help}"


_CACHE_DTYPES = (
    "auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla", "nvfp4", "nvfp4_ds_mla",
    "nvfp4_4over6", "int8_per_token_head", "int4_per_token_head", "fp8_per_token_head",
)  # fmt: skip
_DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")

_MODELLED = (
    Flag("tensor_parallel_size", "int", 1, "devices that share each layer", 1, short="-tp"),
    Flag("pipeline_parallel_size", "int", 1, "stages that share the layers", 1, short="-pp"),
    Flag("max_model_len", "int", None, "context window, tokens; default: the model's config", 1),
    Flag("dtype", "text", "auto", "format of weights and activations", choices=_DTYPES),
    Flag("quantization", "text", None, "weight format, such as fp8, nvfp4, awq; default: the model's config"),
    Flag("kv_cache_dtype", "text", "auto", "format of the KV cache", choices=_CACHE_DTYPES),
    Flag("block_size", "int", 16, "tokens in a block of the KV cache", 1),
    Flag("gpu_memory_utilization", "float", 0.92, "share of device memory to use", 0.0, 1.0,
         aliases=("device_memory_utilization",)),
    Flag("kv_cache_memory_bytes", "int", None, "size of the KV cache a device; overrides the share", 1),
    Flag("num_gpu_blocks_override", "int", None, "KV blocks, as the real server's log says", 2),
    Flag("enable_chunked_prefill", "bool", True, "cut prompts into chunks that fit the token budget"),
    Flag("max_num_batched_tokens", "int", None, "token budget of a step; default: by device", 1),
    Flag("max_num_seqs", "int", None, "most sequences in a step; default: by device", 1),
    Flag("max_num_active_seqs", "int", None, "admission limit, at most max_num_seqs", 1),
    Flag("max_num_scheduled_tokens", "int", None, "token budget of the scheduler; default: max_num_batched_tokens", 1),
    Flag("long_prefill_token_threshold", "int", 0, "most prompt tokens of a request in a step; 0: no cap", 0),
    Flag("long_prefill_token_threshold_adaptive", "bool", False, "raise that cap when few requests wait"),
    Flag("scheduling_policy", "text", "fcfs", "order of the waiting queue", choices=("fcfs", "priority")),
    Flag("scheduler_reserve_full_isl", "bool", True, "admit only when the whole input fits the cache"),
    Flag("watermark", "float", 0.0, "share of blocks kept free when admitting", 0.0, 1.0),
    Flag("enable_prefix_caching", "bool", True, "find the beginnings of prompts in the cache (layers without windows)"),
    Flag("prefill_schedule_interval", "int", 1, "steps from one that computes prompts to the next", 1),
    Flag("async_scheduling", "bool", None, "schedule step n+1 while n runs; default: on"),
    Flag("stream_interval", "int", 1, "tokens that clients get at a time, after the first one", 1),
    Flag("max_num_queued_reqs", "int", None, "requests that wait at most, more are rejected; default: no limit", 1),
    Flag("max_num_queued_tokens", "int", None, "tokens that wait at most, more are rejected; default: no limit", 1),
    Flag("performance_mode", "text", "balanced", "throughput doubles both batch defaults",
         choices=("balanced", "interactivity", "throughput")),
    Flag("enforce_eager", "bool", False, "no CUDA graphs: batches are not padded, launches cost host time"),
    Flag("cudagraph_capture_sizes", "sizes", None, "batch sizes with a CUDA graph; default: vLLM's rule"),
    Flag("max_cudagraph_capture_size", "int", None, "largest batch with a CUDA graph; default: vLLM's rule", 0),
    Flag("speculative_config", "json", None, "speculative decoding: method, model, num_speculative_tokens, ..."),
    Flag("spec_method", "text", None, "its method: ngram, draft_model, eagle, eagle3, mtp"),
    Flag("spec_model", "text", None, "its draft model"),
    Flag("spec_tokens", "int", None, "its drafts of a sequence and step", 1),
    Flag("data_parallel_size", "int", 1, "ranks of attention over shared experts, of mixtures", 1, short="-dp"),
    Flag("enable_expert_parallel", "bool", False, "deal experts whole over all devices of a stage", short="-ep"),
    Flag("all2all_backend", "text", "allgather_reducescatter",
         "how tokens reach the experts of other ranks: also deepep_low_latency, deepep_high_throughput"),
)  # fmt: skip


def _later(name: str, kind: Kind, default: Any, help: str, **more: Any) -> Flag:
    return Flag(name, kind, default, help, status="not modelled", **more)


_NOT_MODELLED = (
    _later("prefix_match_unit", "text", None, "prefixes are matched block by block"),
    _later("data_parallel_size_local", "int", 1, "all ranks are one engine here", minimum=0),
    _later("data_parallel_backend", "text", "mp", "all ranks are one engine here"),
    _later("data_parallel_external_lb", "bool", False, "all ranks are one engine here"),
    _later("data_parallel_hybrid_lb", "bool", False, "all ranks are one engine here"),
    _later("dp_sync_interval", "int", 16, "all ranks are one engine here", minimum=1),
    _later("enable_eplb", "bool", False, "every expert gets the same load"),
    _later("eplb_config", "json", None, "every expert gets the same load"),
    _later("decode_context_parallel_size", "int", 1, "contexts are not split", minimum=1),
    _later("prefill_context_parallel_size", "int", 1, "contexts are not split", minimum=1),
    _later("enable_dbo", "bool", False, "batches do not overlap"),
    _later("dbo_decode_token_threshold", "int", 32, "batches do not overlap"),
    _later("dbo_prefill_token_threshold", "int", 512, "batches do not overlap"),
    _later("kv_transfer_config", "json", None, "caches are not handed over"),
    _later("kv_offloading_size", "float", None, "caches stay on the device"),
    _later("kv_offloading_backend", "text", "native", "caches stay on the device"),
    _later("cpu_offload_gb", "float", 0.0, "weights stay on the device"),
    _later("compilation_config", "json", None, "use cudagraph_capture_sizes and max_cudagraph_capture_size"),
    _later("hf_overrides", "json", None, "give the model as a path to an edited config.json"),
    _later("enable_lora", "bool", False, "there are no adapters"),
    _later("disable_custom_all_reduce", "bool", False, "the stack's own all-reduce is priced"),
    _later("limit_mm_per_prompt", "json", None, "only text tokens are simulated"),
)  # fmt: skip

_NO_EFFECT_TEXT = (
    "host", "served_model_name", "tokenizer", "tokenizer_mode", "tokenizer_revision", "revision", "code_revision",
    "download_dir", "load_format", "config_format", "hf_token", "api_key", "chat_template", "tool_call_parser",
    "reasoning_parser", "uvicorn_log_level", "generation_config", "distributed_executor_backend",
    "prefix_caching_hash_algo", "ssl_keyfile", "ssl_certfile", "root_path",
)  # fmt: skip
_NO_EFFECT_SWITCHES = (
    "trust_remote_code", "enable_auto_tool_choice", "disable_log_stats", "disable_log_requests",
    "enable_log_requests", "disable_uvicorn_access_log", "enable_server_load_tracking",
)  # fmt: skip
_NO_EFFECT_DEFAULTS = {"prefix_caching_hash_algo": "sha256"}
_NO_EFFECT = (
    *(Flag(name, "text", _NO_EFFECT_DEFAULTS.get(name), "", status="no effect") for name in _NO_EFFECT_TEXT),
    *(Flag(name, "bool", False, "", status="no effect") for name in _NO_EFFECT_SWITCHES),
    Flag("port", "int", 8000, "", status="no effect"),
    Flag("api_server_count", "int", 1, "", status="no effect"),
    Flag("max_logprobs", "int", 20, "", status="no effect"),
)

_REMOVED = (
    Flag("swap_space", "float", None, "", status="removed"),
    Flag("num_scheduler_steps", "int", None, "", status="removed"),
    Flag("preemption_mode", "text", None, "", status="removed"),
    Flag("max_num_partial_prefills", "int", None, "", status="removed"),
)

FLAGS: dict[str, Flag] = {flag.name: flag for flag in (*_MODELLED, *_NOT_MODELLED, *_NO_EFFECT, *_REMOVED)}
ALIASES: dict[str, str] = {alias: flag.name for flag in FLAGS.values() for alias in flag.aliases}

DEFAULT_PRESET = "vllm@0.33"
