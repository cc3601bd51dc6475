"""What the words for an engine stand for: the stack that prices it, the preset that schedules it, and its habits."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmsim.performance.correction import stack_names

# First day of a month -> the version of vLLM that was current then (its release notes), for rows that give a date only.
_VLLM_BY_MONTH = (
    ("2024-09", "0.6"), ("2025-01", "0.7"), ("2025-03", "0.8"), ("2025-05", "0.9"), ("2025-07", "0.10"),
    ("2025-10", "0.11"), ("2025-12", "0.12"), ("2026-01", "0.14"), ("2026-02", "0.15"), ("2026-03", "0.18"),
    ("2026-04", "0.19"), ("2026-05", "0.21"),
)  # fmt: skip
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, slots=True)
class Software:
    """An engine as it was run.

    ``stack`` is a name in ``stacks.yaml``, ``preset`` gives flags and memory rule, ``scheduler`` is None for the
    preset's own, ``batches`` the one for batches that run in lockstep.  ``eager``: the host launches every kernel.
    ``low_precision_cache``: weights of 8 bits and less come with a cache in fp8.  ``no_padding``: of padded inputs
    only the real half is computed.
    """

    family: str
    stack: str
    preset: str = "vllm@0.33"
    scheduler: str | None = None
    batches: str | None = None
    eager: bool = False
    low_precision_cache: bool = False
    no_padding: bool = False
    flags: Mapping[str, Any] = field(default_factory=dict)
    assumption: str = ""


def software_of(engine: str, notes: str = "", source: str = "") -> Software | None:
    """Return what an engine's name and version stand for; None when nothing is known of it.

    ``notes`` may hold the day of measurement (``measured=2025-10-29``), which dates an engine without a version.
    ``source`` tells submissions to a benchmark, which are tuned by its rules, from releases.
    """
    name = engine.lower()
    dated = _date(name) or _date_in_notes(notes.lower())
    version = _version(name)
    # A run on TensorRT, PyTorch or a fork of vLLM that MLPerf published is a submission, whatever it says first.
    if "mlperf" in f"{source} {notes}".lower():
        return _submission(name, f"{source} {notes}".lower())
    for pattern, make in _ENGINES:
        if re.search(pattern, name):
            found: Software = make(name, version, dated)
            return found
    return None


# Who makes the devices of a build of its own, with kernels of its own: ROCm, oneAPI.
PLATFORMS = {"AMD": "rocm", "Intel": "xpu"}


def on_platform(software: Software, maker: str) -> Software:
    """Return ``software`` as built for the devices of ``maker``, where ``stacks.yaml`` tells such a build apart."""
    engine, _, version = software.stack.partition("@")
    name = f"{engine}-{PLATFORMS.get(maker)}@{version}"
    return replace(software, stack=name) if name in stack_names() else software


Version = tuple[int, ...] | None


def _vllm(name: str, version: Version, dated: str | None) -> Software:
    if version is None and "nightly" not in name and "blank" not in name and dated and dated < "2024":
        return Software("vLLM 2023", "vllm@2023", "vllm@0.6")
    assumption = ""
    if version is None:
        found = next((number for month, number in reversed(_VLLM_BY_MONTH) if dated and month <= dated), "0.6")
        version = tuple(int(part) for part in found.split("."))
        assumption = f"vLLM's version is taken from the date: {found}"
    if version < (0, 7):
        return Software("vLLM 2024 (V0)", "vllm@2024", "vllm@0.6", assumption=assumption)
    stack = "vllm@2024" if version < (0, 8) else "vllm@0.8" if version < (0, 14) else "vllm@0.14"
    family = {"vllm@2024": "vLLM 2024 (V0)", "vllm@0.8": "vLLM V1 2025", "vllm@0.14": "vLLM V1 2026"}[stack]
    number = ".".join(str(part) for part in min(version[:2], (0, 33)))
    return Software(family, stack, f"vllm@{number}", assumption=assumption)


def _trtllm(name: str, version: Version, dated: str | None) -> Software:
    old = Software(
        "TensorRT-LLM 0.5-0.9", "trtllm@0.5", "trtllm@1", batches="static", low_precision_cache=True,
    )  # fmt: skip
    if (version is not None and version < (0, 10)) or (version is None and dated is not None and dated < "2025"):
        return old
    if version is not None and version < (1,):
        return Software("TensorRT-LLM 0.10-0.20", "trtllm@0.14", "trtllm@1", batches="static", low_precision_cache=True)
    return Software("TensorRT-LLM 1.x", "trtllm@1", "trtllm@1", low_precision_cache=True,
                    flags={"cuda_graph_padding": True, "max_cudagraph_capture_size": 512})  # fmt: skip


def _sglang(name: str, version: Version, dated: str | None) -> Software:
    return Software("SGLang", "sglang@0.5", "sglang@0.5")


def _submission(name: str, where: str) -> Software | None:
    """Return the stack of a submission to MLPerf: the vendor's library, tuned, in the year of its round."""
    rounds = re.search(r"mlperf[- ](?:inference )?v?(\d+)\.", where)
    recent = rounds is not None and int(rounds[1]) >= 5
    year = "2025" if recent else "2024"
    if "vllm" in name or "rocm" in name or "mango" in name:
        return Software(
            f"MLPerf vLLM {year}", f"vllm-mlperf@{year}", "vllm@0.9" if recent else "vllm@0.6", low_precision_cache=True
        )
    if "tensorrt" in name or "jetpack" in name:
        return Software(f"MLPerf TensorRT {year}", f"trtllm-mlperf@{year}", "trtllm@1", low_precision_cache=True)
    if "pytorch" in name:
        return Software("MLPerf PyTorch", "pytorch@2020", eager=True)
    if "tensorflow" in name:
        return Software("MLPerf TensorFlow", "tensorflow@2020")
    return None


def _plain(family: str, stack: str, **more: Any) -> Any:
    return lambda name, version, dated: Software(family, stack, batches="static", **more)


def _fastertransformer(name: str, version: Version, dated: str | None) -> Software:
    effective = "effective" in name
    return Software("FasterTransformer", "fastertransformer@5", batches="static", no_padding=effective)


# Pattern in the engine's name -> what it stands for; the first that matches.
_ENGINES: tuple[tuple[str, Any], ...] = (
    (r"fastertransformer", _fastertransformer),
    (r"tensorrt-llm|trtllm|trt-llm", _trtllm),
    (r"vllm", _vllm),
    (r"sglang", _sglang),
    (r"deepspeed-mii|deepspeed-fastgen", _plain("DeepSpeed-MII", "deepspeed-mii@2024", preset="vllm@0.6")),
    (r"sambaflow", _plain("SambaFlow", "sambaflow@2024")),
    (r"llama\.cpp.*2023|llama\.cpp.*metal", _plain("llama.cpp", "llamacpp@2023")),
    (r"llama\.cpp", _plain("llama.cpp", "llamacpp@2024")),
    (r"jax|jetstream|maxtext", _plain("JAX", "jax@2023")),
    (r"onnx", _plain("ONNX Runtime", "onnxruntime@2023")),
    (r"tensorrt", _plain("TensorRT", "tensorrt")),
    (r"megatron|huggingface|pytorch|torchscript", _plain("PyTorch", "pytorch@2020", eager=True)),
    (r"tensorflow|xla", _plain("TensorFlow", "tensorflow@2020")),
)  # fmt: skip


def _version(name: str) -> Version:
    """Return the first version with a dot in a name, as numbers."""
    match = re.search(r"(?<![\d.])v?(\d+)\.(\d+|x)", name)
    if match is None:
        return None
    return (int(match[1]), int(match[2])) if match[2].isdigit() else (int(match[1]),)


def _date(name: str) -> str | None:
    """Return year, or year and month, that a name holds: ``2024``, ``2026-05``."""
    match = re.search(r"\b(20\d\d)(?:-(\d\d))?\b", name)
    if match is None:
        return None
    month = next((index for index, word in enumerate(_MONTHS, 1) if re.search(rf"\b{word}[a-z]* {match[1]}", name)), 0)
    if match[2] or month:
        return f"{match[1]}-{match[2] or f'{month:02d}'}"
    return match[1]


def _date_in_notes(notes: str) -> str | None:
    match = re.search(r"measured=(20\d\d-\d\d)", notes)
    return match[1] if match else None
