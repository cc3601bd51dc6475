"""How trtllm-bench sizes an engine for a workload: the most requests and the most tokens of a step.

``trtllm-bench build --dataset`` estimates how many requests of the data set's mean lengths the cache can hold, rounds
that up to a batch size, and takes as many tokens as so many requests compute in a step on average, prompts included.

Source: TensorRT-LLM, ``tensorrt_llm/bench/build/tuning.py`` (``calc_engine_setting``, ``finetune_setting``), from
memory of 0.15 and later: all devices' memory less the weights, batches of at least 64, 2,048 to 8,192 tokens.  Of 0.14
it is *inferred* that the estimate took the memory of one device and the cache of the whole model.  In its table of
throughputs (docs/source/performance/perf-overview.md) tensor parallelism over 4 and 8 devices gains little where
answers are long.  The batch that explains each figure is the same on A100 and H100 and about the same with 4 and 8
devices, and agrees with this estimate for Llama 3 70B and Mixtral 8x7B; the cache itself has room for up to four times
as many.
"""

from dataclasses import dataclass
from math import ceil

from llmsim.accuracy.numbers import Formats
from llmsim.hardware import Device
from llmsim.model import weights
from llmsim.model.shape import ModelShape

LEAST_BATCH, LEAST_TOKENS, MOST_TOKENS = 64, 2048, 8192


@dataclass(frozen=True, slots=True)
class Limits:
    """The two limits with which an engine is built."""

    batch: int
    tokens: int


def engine_limits(
    model: ModelShape, device: Device, formats: Formats, devices: int, prompt: int, output: int, *, whole: bool
) -> Limits:
    """Return the limits for requests of ``prompt`` and ``output`` tokens on ``devices`` devices.

    ``whole``: the memory of all devices counts; else that of one beside its part of the weights.
    """
    form = "fp8" if formats.flags.get("kv_cache_dtype") == "fp8" else "bf16"
    kept = sum(weights.cache_bytes_per_token(group, form, 1) for group in weights.cache_groups(model))
    engine = weights.parameters(model) * formats.bytes_per_weight
    room = devices * device.memory_bytes - engine if whole else device.memory_bytes - engine / devices
    return rounded(max(room, 0.0) / (kept * (prompt + output)), prompt, output)


def rounded(requests: float, prompt: int, output: int) -> Limits:
    """Return the limits for so many requests in the cache."""
    a_request = 1 + prompt / output  # tokens of a step for each that decodes, when as many begin as end
    requests = min(requests, MOST_TOKENS / a_request)
    step = 32 if requests < 256 else 128 if requests < 1024 else 256
    batch = max(LEAST_BATCH, ceil(requests / step) * step)
    tokens = requests * a_request
    unit = 256 if tokens < 4096 else 512
    return Limits(batch, max(LEAST_TOKENS, ceil(tokens / unit) * unit))
