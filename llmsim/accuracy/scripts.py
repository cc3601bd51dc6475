"""Engine flags of public benchmarks that their start scripts give and their tables leave out.

InferenceX (github.com/SemiAnalysisAI/InferenceX, ``benchmarks/*.sh``), from memory of its scripts of late 2025:

- SGLang with DeepSeek: no radix cache, chunks of 32,768 tokens and a static fraction of 0.82 (16,384 and 0.85 with fp4
  weights); on Blackwell
  ``--scheduler-recv-interval`` 30 from 16 requests in flight on and 10 below, "relax ... between scheduler recv polls";
- TensorRT-LLM with gpt-oss: ``--max_num_tokens 20000``.
"""

import re
from typing import Any

from llmsim.accuracy.measured import Row
from llmsim.accuracy.software import Software

_BLACKWELL = re.compile(r"b[23]00", re.IGNORECASE)
_MANY = 16  # requests in flight from which new ones are looked for more rarely


def script_flags(row: Row, software: Software) -> dict[str, Any]:
    """Return the flags that a row's benchmark gave its engine; empty for benchmarks that are not known."""
    if "public InferenceX" not in row.notes:
        return {}
    model = row.model_norm.lower()
    if software.preset.startswith("sglang") and "deepseek" in model:
        chunk, share = (16384, 0.85) if "4" in row.precision else (32768, 0.82)
        flags: dict[str, Any] = {"chunked_prefill_size": chunk, "max_prefill_tokens": chunk,
                                 "mem_fraction_static": share, "enable_prefix_caching": False}  # fmt: skip
        if _BLACKWELL.search(f"{row.device} {row.device_norm}"):
            flags["scheduler_recv_interval"] = 30 if (row.concurrency or 0) >= _MANY else 10
        return flags
    if software.preset.startswith("trtllm") and "gpt-oss" in model:
        return {"max_num_batched_tokens": 20000}
    return {}
