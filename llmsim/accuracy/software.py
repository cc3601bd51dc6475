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
    only the real half is computed.  ``tensor_float``: products of 32 bit run in TF32 where the device has it.
    ``pads_heads``: heads are added until they divide.
    ``micro_tokens``: a pipeline's batch is cut into smaller ones of at most so many tokens; 0: it stays whole.
    ``sized``: trtllm-bench built the engine for the workload, by the memory of one "device" or of "all"; else empty.
    """

    family: str
    stack: str
    preset: str = "vllm@0.33"
    scheduler: str | None = None
    batches: str | None = None
    eager: bool = False
    low_precision_cache: bool = False
    no_padding: bool = False
    tensor_float: bool = False
    pads_heads: bool = False
    micro_tokens: int = 0
    sized: str = ""
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
        submitted = _submission(name, f"{source} {notes}".lower())
        if submitted is not None:
            return submitted
    for pattern, make in _ENGINES:
        if re.search(pattern, name):
            found: Software = make(name, version, dated)
            return _as_told(found, notes.lower())
    return None


def _as_told(software: Software, notes: str) -> Software:
    """Return ``software`` as notes say it was run.

    FasterTransformer's Longformer is an operator of PyTorch (its docs/longformer_guide.md), and PyTorch 1.7 to 1.11
    runs products of 32 bit in TF32 unless told otherwise; its BERT guide tells the two apart.  Its example of BERT on
    several devices (bert_triton_example.cc) draws lengths evenly up to the stated one and removes the padding: without
    that, the published times would need more than the peak of the device.
    """
    if "longformer" in notes:
        software = replace(software, tensor_float=True)
    if "bert_triton_example" in notes:
        software = replace(software, no_padding=True)
    return software


# Who makes the devices of a build of its own, with kernels of its own: ROCm, oneAPI, Metal; none: a CPU.
PLATFORMS = {"AMD": "rocm", "Intel": "xpu", "Apple": "metal", "": "cpu"}


def of_engine(software: Software, *, answers: bool) -> Software:
    """Return ``software`` for a model that writes ``answers`` or none: encoders of a submission run on TensorRT itself.

    So do encoders with a decoder, which TensorRT-LLM's engines of then did not know.
    """
    engine, _, version = software.stack.partition("@")
    if engine != "trtllm-mlperf" or answers:
        return software
    return replace(software, stack=f"tensorrt-mlperf@{version}")


def on_platform(software: Software, maker: str) -> Software:
    """Return ``software`` as built for the GPUs of ``maker``, where ``stacks.yaml`` tells such a build apart."""
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
        assumption = f"vLLM's version is {'taken from the date' if dated else 'not stated'}: {found}"
    if version < (0, 7):
        return Software("vLLM 2024 (V0)", "vllm@2024", "vllm@0.6", assumption=assumption)
    stack = "vllm@2024" if version < (0, 8) else "vllm@0.8" if version < (0, 14) else "vllm@0.14"
    family = {"vllm@2024": "vLLM 2024 (V0)", "vllm@0.8": "vLLM V1 2025", "vllm@0.14": "vLLM V1 2026"}[stack]
    number = ".".join(str(part) for part in min(version[:2], (0, 33)))
    return Software(family, stack, f"vllm@{number}", assumption=assumption)


# The C++ runtime keeps blocks of 64 tokens, reuses none unless told to, and cuts prompts where engines are built for
# paged contexts (trtllm-bench does); from memory of TensorRT-LLM's executor API and its build options, 0.5 to 0.20.
_TRTLLM_CPP = {"block_size": 64, "enable_prefix_caching": False, "enable_chunked_prefill": True}


def _trtllm(name: str, version: Version, dated: str | None) -> Software:
    if version is None and dated is not None and dated[:4] == "2024":
        # No batch in lockstep: those that outgrow the memory took longer, where they would not have run at all.
        return Software("TensorRT-LLM 2024", "trtllm@2024", "trtllm@1", low_precision_cache=True, flags=_TRTLLM_CPP,
                        assumption="TensorRT-LLM's version is taken from the year: 0.10 to 0.13")  # fmt: skip
    if version is None and dated is not None and dated < "2024":
        version = (0, 6)
    if version is None or version >= (1,):
        return Software("TensorRT-LLM 1.x", "trtllm@1", "trtllm@1", low_precision_cache=True,
                        flags={"cuda_graph_padding": True, "max_cudagraph_capture_size": 512})  # fmt: skip
    old = version < (0, 10)
    stack = "trtllm@0.5" if version < (0, 8) else "trtllm@0.8" if old else "trtllm@0.14"
    family = f"TensorRT-LLM {'0.5-0.9' if old else '0.10-0.20'}"
    sized = "" if version < (0, 14) else "device" if version == (0, 14) else "all"
    return Software(family, stack, "trtllm@1", batches="static", low_precision_cache=True, flags=_TRTLLM_CPP,
                    sized=sized)  # fmt: skip


def _sglang(name: str, version: Version, dated: str | None) -> Software:
    return Software("SGLang", "sglang@0.5", "sglang@0.5")


# What NVIDIA's and AMD's submissions set (closed/NVIDIA/configs, closed/AMD, rounds 4.1 to 5.1; from memory).  The C++
# runtime of TensorRT-LLM decides a batch when the one before it is done, and starts whom the next step has room for.
_MLPERF_TRTLLM = {
    "async_scheduling": False, "capacity_scheduler_policy": "MAX_UTILIZATION", "enable_chunked_prefill": True,
    "free_gpu_memory_fraction": 0.95,
}  # fmt: skip
_MLPERF_VLLM = {"max_num_seqs": 768, "max_num_batched_tokens": 16384, "gpu_memory_utilization": 0.95}


def _submission(name: str, where: str) -> Software | None:
    """Return the stack of a submission to MLPerf: the vendor's library, tuned, in the year of its round."""
    rounds = re.search(r"mlperf[- ](?:inference )?v?(\d+)\.", where)
    recent = rounds is not None and int(rounds[1]) >= 5
    year = "2025" if recent else "2024" if rounds is None or int(rounds[1]) else "2019"
    if "vllm" in name or "rocm" in name or "mango" in name:
        return Software(
            f"MLPerf vLLM {year}", f"vllm-mlperf@{year}", "vllm@0.9" if recent else "vllm@0.6",
            low_precision_cache=True, flags=_MLPERF_VLLM,
        )  # fmt: skip
    if "tensorrt" in name or "jetpack" in name:
        return Software(
            f"MLPerf TensorRT {year}", f"trtllm-mlperf@{max(year, '2024')}", "trtllm@1",
            low_precision_cache=True, flags=_MLPERF_TRTLLM,
        )  # fmt: skip
    if "pytorch" in name:
        return Software("MLPerf PyTorch", "pytorch-mlperf@2024")
    if "tensorflow" in name:
        return Software("MLPerf TensorFlow", "tensorflow@2020")
    return None


def _plain(family: str, stack: str, **more: Any) -> Any:
    return lambda name, version, dated: Software(family, stack, batches="static", **more)


def _serving(family: str, stack: str) -> Any:
    """Return the maker of a server with continuous batching that prefers prompts, as vLLM's first engine does."""
    return lambda name, version, dated: Software(
        family, stack, "vllm@0.6", assumption=f"{family} is scheduled as vLLM 0.6 and priced as {stack}"
    )


# FasterTransformer's getLocalBatchSize halves a batch until it holds so many tokens; from memory of its source (5.x).
_MICRO_TOKENS = 1024


def _fastertransformer(name: str, version: Version, dated: str | None) -> Software:
    effective = "effective" in name
    return Software("FasterTransformer", "fastertransformer@5", batches="static", no_padding=effective,
                    micro_tokens=_MICRO_TOKENS)  # fmt: skip


# From this month on, and from this build, llama.cpp's CUDA kernels multiply quantised weights as they are.
_LLAMACPP_QUANTISED, _LLAMACPP_QUANTISED_BUILD = "2024-07", 3260


def _llamacpp(name: str, version: Version, dated: str | None) -> Software:
    build = re.search(r"\bb(\d{4,5})\b", name)
    later = int(build[1]) >= _LLAMACPP_QUANTISED_BUILD if build else (dated or "") >= _LLAMACPP_QUANTISED
    early = not later and dated is not None and dated < "2024"
    return Software("llama.cpp", f"llamacpp@{'2025' if later else '2023' if early else '2024'}", batches="static")


# Pattern in the engine's name -> what it stands for; the first that matches.
_ENGINES: tuple[tuple[str, Any], ...] = (
    (r"fastertransformer", _fastertransformer),
    (r"tensorrt-llm|trtllm|trt-llm", _trtllm),
    (r"vllm", _vllm),
    (r"sglang", _sglang),
    (r"deepspeed-mii|deepspeed-fastgen", _plain("DeepSpeed-MII", "deepspeed-mii@2024", preset="vllm@0.6")),
    (r"sambaflow", _plain("SambaFlow", "sambaflow@2024")),
    # Engines without measured rows of their own: each takes the kernels and numbers of its nearest relative.
    (r"text-generation-inference|\btgi\b", _serving("TGI", "tgi@2024")),
    (r"lmdeploy|turbomind", _serving("LMDeploy", "lmdeploy@2024")),
    (r"lightllm|aphrodite|sarathi", _serving("vLLM's kin", "vllm@2024")),
    (r"\bmlc\b|mlc-?llm|web-?llm", _plain("MLC-LLM", "mlc@2024")),
    (r"exllama|exl[23]\b|tabbyapi", _plain("ExLlama", "exllama@2024")),
    (r"\bmlx\b|mlx-?lm", _plain("MLX", "mlx@2024")),
    (r"openvino", _plain("OpenVINO", "openvino@2024")),
    (r"ctranslate2|faster-whisper", _plain("CTranslate2", "ctranslate2@2023")),
    (r"\bipex|bigdl-?llm", _plain("IPEX-LLM", "ipexllm@2024")),
    (r"neuron", _plain("Neuron", "neuron@2024")),
    (r"habana|synapse", _plain("Optimum Habana", "habana@2024")),
    (r"mindie|mindspore", _serving("MindIE", "mindie@2024")),
    (r"torch.?xla", _plain("PyTorch/XLA", "jax@2023")),
    (r"gpt-?fast|torch\.?compile", _plain("gpt-fast", "gptfast@2024")),
    (r"deepspeed(?!.*zero)", _plain("DeepSpeed Inference", "deepspeed-inference@2023")),
    (r"llama[._-]?cpp|ggml|llama-bench|ollama|llamafile|koboldcpp|lm ?studio", _llamacpp),
    (r"jax|jetstream|maxtext", _plain("JAX", "jax@2023", pads_heads=True)),
    (r"accelerator tensorrt", _plain("TensorRT", "tensorrt")),  # ONNX Runtime hands the whole model to TensorRT
    (r"onnx", _plain("ONNX Runtime", "onnxruntime@2023", eager=True)),
    (r"tensorrt", _plain("TensorRT", "tensorrt")),
    # Models that a server runs are exported as TorchScript.
    (r"torchscript|triton.*pytorch", _plain("TorchScript", "torchscript@2020", eager=True)),
    (r"(?<![a-z])transformers|\bhf\b", _plain("HF Transformers", "transformers@2024", eager=True)),
    (r"megatron|hugging ?face|pytorch", _plain("PyTorch", "pytorch@2020", eager=True)),
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
