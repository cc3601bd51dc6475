"""From the engine flags that a user gave to `EngineOptions`: the preset's defaults by device, model and version.

What the engines' own rules are is told in `llmsim.schema.vllm`, `llmsim.schema.sglang` and `llmsim.schema.trtllm`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmsim.engine_options import EngineOptions
from llmsim.hardware import Device
from llmsim.model.shape import ModelShape
from llmsim.model.weights import cache_format, in_format
from llmsim.schema.filler import Filler
from llmsim.schema.other_flags import TABLES
from llmsim.schema.presets import Preset, preset_of
from llmsim.schema.speculation import read_speculation, with_speculation

_DTYPE_FORMATS = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "float": "fp32", "float32": "fp32"}
_QUANTIZATION = {
    "fp8": "fp8", "ptpc_fp8": "fp8", "fbgemm_fp8": "fp8", "modelopt": "fp8", "fp8_block": "fp8_block",
    "modelopt_fp4": "nvfp4", "nvfp4": "nvfp4", "mxfp4": "mxfp4", "int8": "int8", "w8a8": "w8a8",
    "gguf": "q4_k_m", "awq": "int4", "gptq": "int4", "awq_marlin": "int4", "gptq_marlin": "int4", "int4": "int4",
    "bitsandbytes": "nf4", "tf32": "tf32",
}  # fmt: skip
# Caches with a scale a head and token, priced as the plain format of the same width: about 3 % too small.
_SCALED_CACHES = {
    "fp8_per_token_head": "fp8", "int8_per_token_head": "int8", "int4_per_token_head": "int4",
    "nvfp4_ds_mla": "nvfp4", "nvfp4_4over6": "nvfp4",
}  # fmt: skip


@dataclass(slots=True)
class EngineChoice:
    """The options of an engine, with the origin of each; ``problems`` are (flag, what is wrong).

    ``model`` is the model in the formats that the options ask for; ``scheduler`` holds where no other is named, with
    ``scheduler_settings`` and their origins; ``shown`` are the values of flags that `EngineOptions` does not have.
    """

    options: EngineOptions
    model: ModelShape
    origins: dict[str, str]
    warnings: list[str]
    problems: list[tuple[str, str]]
    scheduler: str
    scheduler_settings: dict[str, tuple[Any, str]]
    shown: dict[str, Any]


def choose(given: Mapping[str, Any], preset: str, model: ModelShape, device: Device) -> EngineChoice:
    """Return the options of an engine of ``model`` on ``device``.

    Args:
        given: what the user said, by flag; None means nothing.
        preset: engine and version, see `llmsim.schema.presets`.
        model: for the context window and the formats.
        device: for the batch defaults.

    Raises:
        ScenarioError: there is no such preset.
    """
    rules = preset_of(preset)
    filler = Filler(given, preset, rules.flags)
    foreign = [(name, _foreign(name, rules)) for name in filler.given if name not in rules.flags]
    model, problems = _in_formats(filler, model)
    filled = rules.fill(filler, model, device)
    filled.values |= {"weight_format": model.weight_format, "cache_format": _cache_format(filler, model)}
    for name in ("speculative_config", "spec_method", "spec_model", "spec_tokens"):
        if name in rules.flags:
            filler.take(name)
    options = EngineOptions(**filled.values)
    problems += foreign + filled.problems + _checks(options, model, filler.given)
    warnings = _warnings(filler, options) + filled.warnings
    return EngineChoice(
        options, model, filler.origins, warnings, problems, filled.scheduler, filled.settings, filled.shown
    )


def drafting(choice: EngineChoice, given: Mapping[str, Any], device: Device) -> EngineChoice:
    """Return ``choice`` with the speculative decoding that ``given`` asks for, if it does."""
    found = read_speculation(given, choice.model, choice.options)
    problems, warnings = choice.problems + found.problems, choice.warnings + found.warnings
    if found.speculation is None:
        return replace(choice, problems=problems, warnings=warnings)
    options = with_speculation(choice.options, found.speculation, given, device)
    origins = dict(choice.origins)
    if options.async_scheduling != choice.options.async_scheduling:
        if given.get("async_scheduling"):
            problems.append(("async_scheduling", "method ngram proposes on the host, between two steps\n"
                             "hint: leave async_scheduling out, or off"))  # fmt: skip
        origins["async_scheduling"] = "speculative_config: ngram"
    if options.cudagraph_sizes != choice.options.cudagraph_sizes:
        origins["cudagraph_capture_sizes"] = "speculative_config"
    return replace(choice, options=options, origins=origins, problems=problems, warnings=warnings)


def _foreign(name: str, preset: Preset) -> str:
    close = difflib.get_close_matches(name, preset.flags, n=1, cutoff=0.7)
    others = [engine for engine, table in TABLES.items() if name in table]
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{preset.name} has no such flag\nhint: {hint}it is one of {' and '.join(others)}"


def _in_formats(filler: Filler, model: ModelShape) -> tuple[ModelShape, list[tuple[str, str]]]:
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


def _cache_format(filler: Filler, model: ModelShape) -> str:
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
    if not options.enable_chunked_prefill and tokens < window and options.max_prompt_tokens is None:
        problems.append(("max_num_batched_tokens", f"{tokens} is below max_model_len {window}, and chunked prefill is "
                         "off\nhint: a prompt of full length would never fit a step"))  # fmt: skip
    if options.max_num_active_seqs > seqs:
        problems.append(("max_num_active_seqs", f"{options.max_num_active_seqs} is above max_num_seqs {seqs}"))
    if options.max_num_scheduled_tokens > tokens:
        problems.append(("max_num_scheduled_tokens",
                         f"{options.max_num_scheduled_tokens} is above max_num_batched_tokens {tokens}"))  # fmt: skip
    return problems


def _warnings(filler: Filler, options: EngineOptions) -> list[str]:
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
