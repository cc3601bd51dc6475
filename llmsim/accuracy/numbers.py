"""Number formats by the words of a measured row: what weights, cache and activations were in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmsim.accuracy.lengths import NotRunError
from llmsim.accuracy.software import Software
from llmsim.hardware import Device
from llmsim.model.shape import ModelShape
from llmsim.model.weights import FORMAT_BYTES
from llmsim.performance.correction import stack_of


@dataclass(frozen=True, slots=True)
class Formats:
    """Engine flags for the formats, bytes a weight, and what had to be assumed."""

    model: str
    bytes_per_weight: float
    flags: Mapping[str, Any] = field(default_factory=dict)
    assumption: str = ""


# Pattern in the words -> (quantization, dtype, bytes a weight); the first that matches.
_PATTERNS: tuple[tuple[str, str | None, str | None, float], ...] = (
    (r"nvfp4|\bfp4", "modelopt_fp4", None, 0.56),
    (r"mxfp4", "mxfp4", None, 0.53),
    (r"fp8[_-]block", "fp8_block", None, 1.0),
    (r"fp8", "fp8", None, 1.0),
    (r"int8-v\d|w8a8|smooth ?quant", "w8a8", None, 1.0),  # FasterTransformer's int8 modes: activations too
    (r"gptq-?int8|w8a16|int8|q8|\b8[- ]?bit", "int8", None, 1.0),
    (r"int4|w4a|awq|gptq|q4|nf4|\bu4\b|\b4[- ]?bit|\b4(\.\d+)? ?bpw", "int4", None, 0.52),
    (r"tf32", "tf32", "float32", 4.0),
    (r"fp32|float32", None, "float32", 4.0),
    (r"bf16|bfloat16", None, "bfloat16", 2.0),
    (r"fp16|\bf16|float16|half", None, "float16", 2.0),
)


# What is said of the cache alone, and formats that no pattern and no engine's kernels know.
_EIGHT = r"(?:fp8|int8|e4m3|e5m2)"
_CACHE = re.compile(rf"(?:{_EIGHT}[- ]?kv|kv[- ]?(?:cache)?[ :=-]*(?:in )?{_EIGHT})(?:[- ]?cache)?")
_ODD = re.compile(r"\b[2356](?:\.\d+)?[- ]?(?:bit|bpw)|\b(?:i?q|int|w)[2356](?![\d.])")


def gguf_format(words: str) -> str | None:
    """Return the catalogue's format for llama.cpp's name of one, such as ``Q4_K_M``; None for 16 and 32 bit.

    Mixtures that the catalogue does not have are those of the nearest size: small and large ones their plain format, iq
    formats of n bits the legacy or k format of as many.
    """
    found = re.search(r"\bi?q(\d)(?:_(k)(?:(?:_| - )([sml]))?|_([01]))?", words)
    if found is None:
        told = re.search(r"\bint([48])|\b([48])[- ]?bit", words)
        return f"q{told[1] or told[2]}_0" if told else None
    bits = found[1]
    mixed = f"q{bits}_k_m"
    if found[3] == "m" and mixed in FORMAT_BYTES:
        return mixed
    name = f"q{bits}_{found[2] or found[4] or ('0' if bits in '458' else 'k')}"
    return name if name in FORMAT_BYTES else None


def formats_of(words: str, model: ModelShape, device: Device, software: Software) -> Formats:
    """Return the formats that ``words`` name, for a model whose checkpoint has formats of its own.

    Without words a submission to a benchmark is taken to run in fp8 or int8 where the device has one (recurrent
    models: in 16 bit), anything else in 16 bit.

    Raises:
        NotRunError: the words name a format that is not known.
    """
    assumption = ""
    said = words.lower()
    packed = gguf_format(said) if stack_of(software.stack).kernels.startswith("ggml") else None
    if packed is not None:
        return Formats(f"{model.name}-{packed}", FORMAT_BYTES[packed])
    if software.tensor_float and "tf32" in device.peak_flops and "fp32" in said:
        said = "tf32"
    small_cache = _CACHE.search(said) is not None
    said = _CACHE.sub(" ", said)
    if not any(re.search(pattern, said) for pattern, *_ in _PATTERNS):
        if _ODD.search(said):
            raise NotRunError(f"unknown number format (got {words!r})")
        recurrent = any(layer.recurrent is not None for layer in model.layers)
        short = next((name for name in ("fp8", "int8") if name in device.peak_flops), "fp16")
        said = short if "mlperf" in software.family.lower() and not recurrent else "fp16"
        # Answers are decoded from short weights; encoders, and the tiles of CPUs, multiply short activations too.
        said = "w8a8" if said == "int8" and (model.encoder_only or device.kind == "cpu") else said
        assumption = f"the number format is not stated: {said}"
        if model.weight_format != model.dtype:
            own_cache: dict[str, Any] = {"kv_cache_dtype": "fp8"} if small_cache else {}
            return Formats(model.name, 1.0, own_cache, "the number format is not stated: the checkpoint's own")
    quantization, dtype, size = next(
        ((quantization, dtype, size) for pattern, quantization, dtype, size in _PATTERNS if re.search(pattern, said)),
        (None, None, 2.0),
    )
    flags: dict[str, Any] = {}
    own = model.weight_format
    if quantization == "tf32":
        flags = {"quantization": quantization, "dtype": dtype}
    elif quantization is not None:
        # A checkpoint that comes in 4 or 8 bits keeps its own kind of them.
        kept = (quantization == "fp8" and own.startswith("fp8")) or (own == "mxfp4")
        if quantization == "fp8_block" and own == "fp8":
            kept = False
        if not kept:
            flags["quantization"] = quantization
        if software.low_precision_cache and size <= 1.0 and quantization not in ("int4", "int8"):
            flags["kv_cache_dtype"] = "fp8"
    elif dtype is not None:
        flags["dtype"] = dtype
    if model.weight_format == "mxfp4" and quantization is None and dtype is not None:
        flags.pop("dtype", None)
    if small_cache:
        flags["kv_cache_dtype"] = "fp8"
    return Formats(model.name, size, flags, assumption)
