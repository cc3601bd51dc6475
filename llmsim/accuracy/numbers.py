"""Number formats by the words of a measured row: what weights, cache and activations were in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmsim.accuracy.software import Software
from llmsim.hardware import Device
from llmsim.model.shape import ModelShape


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
    (r"int8|w8a8", "int8", None, 1.0),
    (r"int4|w4a16|awq|gptq|q4|4[- ]bit", "int4", None, 0.52),
    (r"tf32|fp32|float32", None, "float32", 4.0),
    (r"bf16|bfloat16", None, "bfloat16", 2.0),
    (r"fp16|\bf16|float16|half", None, "float16", 2.0),
)


def formats_of(words: str, model: ModelShape, device: Device, software: Software) -> Formats:
    """Return the formats that ``words`` name, for a model whose checkpoint has formats of its own.

    Without words a submission to a benchmark is taken to run in fp8 where the device has it, anything else in 16 bit.
    """
    assumption = ""
    said = words.lower()
    if not re.search(r"\d", said):
        fast = "fp8" in device.peak_flops and "mlperf" in software.stack
        said = "fp8" if fast else "fp16"
        assumption = f"the number format is not stated: {said}"
        if model.weight_format != model.dtype:
            return Formats(model.name, 1.0, {}, "the number format is not stated: the checkpoint's own")
    quantization, dtype, size = next(
        ((quantization, dtype, size) for pattern, quantization, dtype, size in _PATTERNS if re.search(pattern, said)),
        (None, None, 2.0),
    )
    flags: dict[str, Any] = {}
    own = model.weight_format
    if quantization is not None:
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
    return Formats(model.name, size, flags, assumption)
