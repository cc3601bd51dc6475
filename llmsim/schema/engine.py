"""From the engine flags that a user gave to `EngineOptions`: the preset's defaults by device, model and entry point.

The rules are those of vLLM 0.33.0: ``EngineArgs.get_batch_defaults`` and
``_set_default_max_num_seqs_and_batched_tokens_args`` (vllm/engine/arg_utils.py), ``VllmConfig`` (vllm/config/vllm.py).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmsim.engine_options import EngineOptions, cudagraph_sizes
from llmsim.hardware import Device
from llmsim.model.shape import ModelShape
from llmsim.model.weights import cache_format, in_format
from llmsim.schema.flags import PRESETS

GIB = 2**30

_DTYPE_FORMATS = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "float": "fp32", "float32": "fp32"}
_QUANTIZATION = {
    "fp8": "fp8", "ptpc_fp8": "fp8", "fbgemm_fp8": "fp8", "modelopt": "fp8", "fp8_block": "fp8_block",
    "modelopt_fp4": "nvfp4", "nvfp4": "nvfp4", "mxfp4": "mxfp4", "int8": "int8", "awq": "int4", "gptq": "int4",
    "awq_marlin": "int4", "gptq_marlin": "int4", "int4": "int4", "bitsandbytes": "nf4",
}  # fmt: skip
# Caches with a scale a head and token, priced as the plain format of the same width: about 3 % too small.
_SCALED_CACHES = {
    "fp8_per_token_head": "fp8", "int8_per_token_head": "int8", "int4_per_token_head": "int4",
    "nvfp4_ds_mla": "nvfp4", "nvfp4_4over6": "nvfp4",
}  # fmt: skip


@dataclass(slots=True)
class EngineChoice:
    """The options of an engine, with the origin of each; ``problems`` are (flag, what is wrong).

    ``model`` is the model in the formats that the options ask for.
    """

    options: EngineOptions
    model: ModelShape
    origins: dict[str, str]
    warnings: list[str]
    problems: list[tuple[str, str]]


def batch_defaults(device: Device, devices: int, *, offline: bool = False) -> tuple[int, int]:
    """Return vLLM's default (max_num_batched_tokens, max_num_seqs) of ``vllm serve``, or of ``LLM()`` when ``offline``.

    ``devices`` is the number of devices of an engine; only a CPU's defaults depend on it.
    """
    if device.kind == "cpu":
        return (4096 * devices, 256 * devices) if offline else (2048 * devices, 128 * devices)
    if device.memory_bytes >= 160 * GIB:
        return 16384, 1024
    names = f"{device.name} {device.title}".lower()
    if device.memory_bytes >= 70 * GIB and "a100" not in names and "gb10" not in names:
        return (16384, 1024) if offline else (8192, 1024)
    return (8192, 256) if offline else (2048, 256)


class _Filler:
    """Takes each flag from the user, else from the preset, else from a rule; notes the origin."""

    def __init__(self, given: Mapping[str, Any], preset: str) -> None:
        self.given = {name: value for name, value in given.items() if value is not None}
        self.flags = PRESETS[preset]
        self.preset = preset
        self.origins: dict[str, str] = {}

    def take(self, name: str, rule: Any = None, origin: str | None = None) -> Any:
        if name in self.given:
            self.origins[name] = "user"
            return self.given[name]
        if rule is None:
            rule, origin = self.flags[name].default, None
        self.origins[name] = origin or f"preset {self.preset}"
        return rule


def choose(given: Mapping[str, Any], preset: str, model: ModelShape, device: Device) -> EngineChoice:
    """Return the options of an engine of ``model`` on ``device``.

    Args:
        given: what the user said, by flag; None means nothing.
        preset: a key of `PRESETS`.
        model: for the context window and the formats.
        device: for the batch defaults.
    """
    filler = _Filler(given, preset)
    model, problems = _in_formats(filler, model)
    values: dict[str, Any] = {
        "max_model_len": filler.take("max_model_len", model.max_model_len, "model config"),
        "async_scheduling": filler.take("async_scheduling", True),
        "weight_format": model.weight_format,
        "cache_format": _cache_format(filler, model),
    }
    for name in _PLAIN:
        values[name] = filler.take(name)
    values |= _batch_limits(filler, values, device)
    values["cudagraph_sizes"] = _graphs(filler, values, device)
    options = EngineOptions(**values)
    problems += _checks(options, model, filler.given)
    return EngineChoice(options, model, filler.origins, _warnings(filler, options), problems)


_PLAIN = (
    "block_size", "gpu_memory_utilization", "num_gpu_blocks_override", "kv_cache_memory_bytes",
    "enable_chunked_prefill", "enable_prefix_caching", "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive", "scheduling_policy", "scheduler_reserve_full_isl", "watermark",
    "prefill_schedule_interval", "stream_interval", "max_num_queued_reqs", "max_num_queued_tokens", "enforce_eager",
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel",
)  # fmt: skip


def _batch_limits(filler: _Filler, values: Mapping[str, Any], device: Device) -> dict[str, int]:
    tokens, seqs = batch_defaults(device, values["tensor_parallel_size"] * values["pipeline_parallel_size"])
    if filler.take("performance_mode") == "throughput":
        tokens, seqs = 2 * tokens, 2 * seqs
    origin = f"preset {filler.preset}, by device"
    window = values["max_model_len"]
    most_seqs = filler.given.get("max_num_seqs", seqs)
    if not values["enable_chunked_prefill"] and tokens < window:
        tokens, origin = window, "max_model_len, as chunked prefill is off"
    tokens = filler.take("max_num_batched_tokens", min(tokens, most_seqs * window), origin)
    seqs = filler.take("max_num_seqs", min(seqs, tokens), f"preset {filler.preset}, by device")
    scheduled = filler.take("max_num_scheduled_tokens", tokens, "max_num_batched_tokens")
    active = filler.take("max_num_active_seqs", seqs, "max_num_seqs")
    return {
        "max_num_batched_tokens": tokens,
        "max_num_seqs": seqs,
        "max_num_scheduled_tokens": scheduled,
        "max_num_active_seqs": active,
    }


def _graphs(filler: _Filler, values: Mapping[str, Any], device: Device) -> tuple[int, ...]:
    """Return the captured batch sizes: at most 2 x sequences, 512 (1024 on B200 and its family), and the budget."""
    if values["enforce_eager"] or device.kind == "cpu":
        filler.origins["cudagraph_capture_sizes"] = "enforce_eager" if values["enforce_eager"] else "device"
        return ()
    cap = 1024 if re.match(r"g?b[123]00", device.name) else 512
    rule = min(2 * values["max_num_seqs"], cap, values["max_num_batched_tokens"])
    largest = filler.take("max_cudagraph_capture_size", rule, f"preset {filler.preset}, by device")
    sizes = filler.take("cudagraph_capture_sizes", cudagraph_sizes(largest), f"preset {filler.preset}")
    limited = "max_cudagraph_capture_size" in filler.given
    return tuple(sorted({size for size in sizes if size <= largest or not limited}))


def _in_formats(filler: _Filler, model: ModelShape) -> tuple[ModelShape, list[tuple[str, str]]]:
    """Return ``model`` with the weights that ``quantization`` or ``dtype`` ask for, and what is wrong with them."""
    quantization, dtype = filler.take("quantization"), filler.take("dtype")
    if dtype == "auto":
        filler.origins["dtype"] = "model config"
    else:
        plain = model.weight_format == model.dtype
        wanted = _DTYPE_FORMATS[dtype]
        model = replace(model, dtype=wanted, weight_format=wanted if plain else model.weight_format)
    if quantization is None:
        filler.origins["quantization"] = "model config"
        return model, []
    if quantization not in _QUANTIZATION:
        known = ", ".join(_QUANTIZATION)
        return model, [("quantization", f"unknown method (got {quantization!r})\nhint: known are {known}")]
    return in_format(model, _QUANTIZATION[quantization]), []


def _cache_format(filler: _Filler, model: ModelShape) -> str:
    said = str(filler.take("kv_cache_dtype"))
    if said == "auto":
        filler.origins["kv_cache_dtype"] = "model config"
    return cache_format(model, _SCALED_CACHES.get(said, said))


def _checks(options: EngineOptions, model: ModelShape, given: Mapping[str, Any]) -> list[tuple[str, str]]:
    problems = []
    tokens, seqs, window = options.max_num_batched_tokens, options.max_num_seqs, options.max_model_len
    if window > model.max_model_len:
        problems.append(("max_model_len", f"{window} exceeds the context window {model.max_model_len} of {model.name}"))
    if tokens < seqs:
        name = "max_num_batched_tokens" if "max_num_batched_tokens" in given else "max_num_seqs"
        problems.append((name, f"a step takes {tokens} tokens, fewer than max_num_seqs {seqs}\n"
                               f"hint: give max_num_batched_tokens of at least max_num_seqs"))  # fmt: skip
    if not options.enable_chunked_prefill and tokens < window:
        problems.append(("max_num_batched_tokens", f"{tokens} is below max_model_len {window}, and chunked prefill is "
                         "off\nhint: a prompt of full length would never fit a step"))  # fmt: skip
    if options.max_num_active_seqs > seqs:
        problems.append(("max_num_active_seqs", f"{options.max_num_active_seqs} is above max_num_seqs {seqs}"))
    if options.max_num_scheduled_tokens > tokens:
        problems.append(("max_num_scheduled_tokens",
                         f"{options.max_num_scheduled_tokens} is above max_num_batched_tokens {tokens}"))  # fmt: skip
    return problems


def _warnings(filler: _Filler, options: EngineOptions) -> list[str]:
    warnings = []
    for name, flag in filler.flags.items():
        value = filler.given.get(name, flag.default)
        warning = flag.warning(value)
        if warning is not None:
            warnings.append(warning)
    if filler.given.get("performance_mode") == "interactivity":
        warnings.append("engine.performance_mode: the finer CUDA graphs of interactivity are not modelled yet")
    cache = filler.given.get("kv_cache_dtype")
    if cache in _SCALED_CACHES:
        warnings.append(f"engine.kv_cache_dtype: {cache} is priced as {_SCALED_CACHES[cache]}, without its scales")
    most = options.max_num_seqs * options.max_model_len
    if "max_num_batched_tokens" in filler.given and options.max_num_batched_tokens > most:
        warnings.append(
            f"engine.max_num_batched_tokens: {options.max_num_batched_tokens} is more than "
            f"max_num_seqs x max_model_len = {most} can ever use"
        )
    return warnings
