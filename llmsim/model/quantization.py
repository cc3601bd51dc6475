"""What ``quantization_config`` says of a checkpoint: how many bytes its weights and its cache take."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmsim.errors import ModelError


@dataclass(frozen=True, slots=True)
class Quantization:
    """Formats by name (see `llmsim.model.weights.FORMAT_BYTES`); None means not quantised.

    ``static_scales``: activations are quantised with scales of the checkpoint.
    """

    weights: str | None = None
    attention: str | None = None
    cache: str | None = None
    static_scales: bool = False


def read(where: str, content: Mapping[str, Any] | None, dtype: str) -> Quantization:
    """Return what a ``quantization_config`` means.

    Raises:
        ModelError: the method is unknown; guessing would make the weights two or four times too heavy.
    """
    if not content:
        return Quantization()
    method = str(content.get("quant_method", content.get("quant_algo", ""))).lower()
    weights = _weights(where, method, content)
    return Quantization(weights, _attention(weights, content, dtype), _cache(content), _static(method, content))


def _static(method: str, content: Mapping[str, Any]) -> bool:
    """Return whether the checkpoint brings scales for activations; else they are found anew for each token."""
    if content.get("activation_scheme") is not None:
        return bool(content["activation_scheme"] == "static")
    activations = _group(content).get("input_activations")
    if isinstance(activations, Mapping):
        return activations.get("dynamic") is False
    # ModelOpt calibrates the scales of fp8 and nvfp4 and writes them down.
    return method == "modelopt" and "fp8" in str(content.get("quant_algo", "")).lower()


def _group(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return compressed-tensors' first group of layers, empty where there is none."""
    groups = content.get("config_groups")
    group: object = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    return group if isinstance(group, Mapping) else {}


def _weights(where: str, method: str, content: Mapping[str, Any]) -> str:
    if method in ("fp8", "fbgemm_fp8", "ptpc_fp8"):
        return "fp8_block" if content.get("weight_block_size") else "fp8"
    if method in ("mxfp4", "nvfp4"):
        return method
    if method == "bitsandbytes":
        return "nf4" if content.get("load_in_4bit") else "int8"
    if method in ("gptq", "awq", "auto-round", "autoround", "gptq_marlin", "awq_marlin"):
        return _integer(where, content.get("bits", content.get("w_bit", 4)))
    if method in ("compressed-tensors", "compressed_tensors"):
        return _compressed(where, content)
    if method in ("modelopt", "modelopt_fp4", "modelopt_mixed", "quark", "torchao", "nvfp4_awq", "w4a16_awq"):
        said = json.dumps(content).lower()
        for sign, weight_format in (("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("fp4", "nvfp4"), ("fp8", "fp8")):
            if sign in said:
                return weight_format
        return "int4" if "int4" in said or "w4a16" in said else "int8"
    raise ModelError(
        f"{where}: quantization_config: quant_method: unknown (got {method!r})\n"
        "hint: known are fp8, compressed-tensors, gptq, awq, mxfp4, nvfp4, modelopt, bitsandbytes, quark, torchao"
    )


def _integer(where: str, bits: object) -> str:
    if bits in (4, 8):
        return f"int{bits}"
    raise ModelError(f"{where}: quantization_config: bits: neither 4 nor 8 (got {bits!r})")


def _compressed(where: str, content: Mapping[str, Any]) -> str:
    """Return the format of compressed-tensors' first group of layers."""
    weights, activations = (_group(content).get(name) for name in ("weights", "input_activations"))
    if not isinstance(weights, Mapping):
        raise ModelError(f"{where}: quantization_config: config_groups: says nothing of weights")
    bits, kind = weights.get("num_bits"), str(weights.get("type", "int"))
    if kind == "float" and bits == 8:
        return "fp8_block" if weights.get("strategy") == "block" else "fp8"
    if kind == "float" and bits == 4:
        return "mxfp4" if weights.get("group_size") == 32 else "nvfp4"
    if bits == 8 and isinstance(activations, Mapping) and activations.get("num_bits") == 8:
        return "w8a8"
    return _integer(where, bits)


def _attention(weights: str, content: Mapping[str, Any], dtype: str) -> str | None:
    """Return the attention's own format where the checkpoint leaves it out of quantisation."""
    left_out = content.get("modules_to_not_convert") or content.get("ignore") or content.get("exclude_modules") or ()
    if any("attn" in str(module) and "indexer" not in str(module) for module in left_out):
        return dtype
    return dtype if weights == "mxfp4" and content.get("quant_method") == "mxfp4" else None


def _cache(content: Mapping[str, Any]) -> str | None:
    scheme = content.get("kv_cache_scheme")
    algorithm = str(content.get("kv_cache_quant_algo") or "").lower()
    if isinstance(scheme, Mapping) and scheme.get("num_bits") == 8:
        return "fp8" if scheme.get("type") == "float" else "int8"
    return algorithm if algorithm in ("fp8", "nvfp4", "int8") else None
