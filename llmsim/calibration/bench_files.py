"""The JSON files of ``vllm bench serve`` and ``vllm bench forward``.

``vllm bench serve`` (vLLM 0.33, ``vllm/benchmarks/serve.py``): one object; with ``--save-detailed`` it has one entry
a request in ``input_lens``, ``output_lens``, ``start_times``, ``ttfts``, ``latencies`` (seconds).  A file may hold one
such object, a list of them, or one a line (``--append-result``).

``vllm bench forward``: a list of ``{case, requests: [...], median_us, ranks: [...]}``.  Which keys a request has there
we have not seen: a pair ``[new tokens, tokens before]`` and the names in `NEW`, `BEFORE` and `WHOLE` are taken.  A case
may instead say ``batch``, ``tokens`` (new ones of each sequence) and ``context`` (before them), and ``seconds``.
"""

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any

import numpy as np

from llmsim.calibration.measured import Floats, Load, Pass, Passes, Totals
from llmsim.errors import InputError

NEW = ("num_new_tokens", "new_tokens", "num_scheduled_tokens", "num_tokens", "query_len", "q_len", "tokens")
BEFORE = ("num_computed_tokens", "computed_tokens", "context_len", "context", "prefix_len", "prefix", "past_len")
WHOLE = ("seq_len", "kv_len", "total_tokens", "sequence_length")
# Name of a duration -> seconds in one of it.
TIMES = {
    "median_us": 1e-6, "mean_us": 1e-6, "us": 1e-6, "time_us": 1e-6, "microseconds": 1e-6,
    "median_ms": 1e-3, "mean_ms": 1e-3, "ms": 1e-3, "time_ms": 1e-3, "milliseconds": 1e-3,
    "seconds": 1.0, "median_s": 1.0, "time_s": 1.0, "s": 1.0,
}  # fmt: skip

# What a run of which nothing else is known is held against.
METRICS = (
    "mean_ttft_ms", "median_ttft_ms", "mean_tpot_ms", "median_tpot_ms", "mean_e2el_ms", "median_e2el_ms",
    "output_throughput",
)  # fmt: skip
_SERVE_KEYS = ("duration", "completed", "total_input_tokens", "total_output_tokens")


def is_serve(content: Any) -> bool:
    """Say whether a JSON object is a result of ``vllm bench serve``."""
    return isinstance(content, dict) and all(key in content for key in _SERVE_KEYS)


def is_forward(content: Any) -> bool:
    """Say whether JSON is a list of timed forward passes."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(case, dict) and ("requests" in case or "batch" in case) for case in content)
    )


def read_serve(name: str, content: Mapping[str, Any]) -> Load | Totals:
    """Return what a result of ``vllm bench serve`` says, request by request where it was saved in detail.

    Raises:
        InputError: numbers are missing, are none, or contradict each other.
    """
    for key in _SERVE_KEYS:
        _number(name, key, content.get(key))
    completed = int(content["completed"])
    if completed < 1:
        raise InputError(f"{name}: completed: no request completed, nothing to calibrate with")
    rate, limit = _rate(name, content.get("request_rate")), content.get("max_concurrency")
    concurrency = None if limit is None else int(_number(name, "max_concurrency", limit, least=1))
    if all(isinstance(content.get(key), list) for key in ("input_lens", "output_lens", "start_times", "ttfts")):
        return _detailed(name, content, rate, concurrency)
    metrics = {key: _number(name, key, content[key]) for key in METRICS if content.get(key)}
    if not any("ttft" in key or "tpot" in key or "e2el" in key for key in metrics):
        raise InputError(f"{name}: no latency: none of {', '.join(METRICS[:-1])}")
    if rate < inf and concurrency is None:
        metrics.pop("output_throughput", None)  # an open loop gives what was asked for
    burstiness = content.get("burstiness")
    return Totals(
        name=name,
        requests=completed,
        prompt=content["total_input_tokens"] / completed,
        output=content["total_output_tokens"] / completed,
        rate=rate,
        burstiness=1.0 if burstiness in (None, "inf") else _number(name, "burstiness", burstiness),
        concurrency=concurrency,
        metrics=metrics,
    )


def _detailed(name: str, content: Mapping[str, Any], rate: float, concurrency: int | None) -> Load:
    columns = {key: content[key] for key in ("input_lens", "output_lens", "start_times", "ttfts")}
    has_ends = isinstance(content.get("latencies"), list)
    if has_ends:
        columns["latencies"] = content["latencies"]
    counts = {key: len(values) for key, values in columns.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{key} {count}" for key, count in counts.items())
        raise InputError(f"{name}: arrays of unequal length: {told}")
    table = {key: _floats(name, key, values) for key, values in columns.items()}
    errors = content.get("errors")
    failed = np.array([bool(text) for text in errors]) if isinstance(errors, list) else np.zeros(counts["ttfts"], bool)
    if len(failed) != counts["ttfts"]:
        raise InputError(f"{name}: arrays of unequal length: errors {len(failed)}, ttfts {counts['ttfts']}")
    kept = ~failed & (table["output_lens"] >= 1) & (table["input_lens"] >= 1) & (table["ttfts"] > 0)
    if not kept.any():
        raise InputError(f"{name}: no request was answered")
    order = np.flatnonzero(kept)[np.argsort(table["start_times"][kept], kind="stable")]
    ends = table["latencies"] if has_ends else _ends(name, content, table)
    starts = table["start_times"][order]
    notes = [f"{len(kept) - len(order)} requests that failed are left out"] if len(order) < len(kept) else []
    return Load(
        name=name,
        arrivals=starts - starts[0],
        prompts=table["input_lens"][order].astype(np.int64),
        outputs=table["output_lens"][order].astype(np.int64),
        first_token=table["ttfts"][order],
        end_to_end=np.where(ends[order] > 0, ends[order], np.nan),
        rate=rate,
        concurrency=concurrency,
        notes=tuple(notes),
    )


def _ends(name: str, content: Mapping[str, Any], table: Mapping[str, Floats]) -> Floats:
    """Return end-to-end seconds from the gaps between tokens, for files without ``latencies``."""
    gaps = content.get("itls")
    count = len(table["ttfts"])
    if not isinstance(gaps, list) or len(gaps) != count:
        return np.full(count, np.nan)
    return np.asarray(table["ttfts"] + np.array([float(np.sum(_floats(name, "itls", one))) for one in gaps]))


def read_forward(name: str, content: Sequence[Mapping[str, Any]]) -> Passes:
    """Return timed forward passes.

    Raises:
        InputError: a case has no duration, or its sequences cannot be told.
    """
    return Passes(name, tuple(_case(f"{name}: case {index}", case) for index, case in enumerate(content)))


def _case(where: str, case: Mapping[str, Any]) -> Pass:
    key = next((key for key in TIMES if case.get(key) is not None), None)
    if key is None:
        raise InputError(f"{where}: no duration: none of {', '.join(TIMES)}")
    seconds = _number(where, key, case[key]) * TIMES[key]
    if seconds <= 0:
        raise InputError(f"{where}: {key}: must be positive (got {case[key]!r})")
    requests = case.get("requests")
    if isinstance(requests, list) and requests:
        sequences = tuple(_sequence(f"{where}: request {index}", one) for index, one in enumerate(requests))
    elif "batch" in case:
        batch = int(_number(where, "batch", case["batch"], least=1))
        tokens = int(_number(where, "tokens", case.get("tokens", 1), least=1))
        sequences = ((tokens, int(_number(where, "context", case.get("context", 0)))),) * batch
    else:
        raise InputError(f"{where}: requests: not a list with requests (got {requests!r})")
    return Pass(str(case.get("case") or where), sequences, seconds)


def _sequence(where: str, request: Any) -> tuple[int, int]:
    if isinstance(request, list) and len(request) == 2:
        return int(_number(where, "0", request[0], least=1)), int(_number(where, "1", request[1]))
    if not isinstance(request, dict):
        raise InputError(f"{where}: neither [new tokens, tokens before] nor an object (got {request!r})")
    new = next((key for key in NEW if key in request), None)
    if new is None:
        raise InputError(f"{where}: no new tokens: none of {', '.join(NEW)}")
    tokens = int(_number(where, new, request[new], least=1))
    before = next((key for key in BEFORE if key in request), None)
    if before is not None:
        return tokens, int(_number(where, before, request[before]))
    whole = next((key for key in WHOLE if key in request), None)
    if whole is None:
        return tokens, 0
    return tokens, int(_number(where, whole, request[whole], least=tokens)) - tokens


def _rate(name: str, value: Any) -> float:
    if value in (None, "inf", inf):
        return inf
    rate = _number(name, "request_rate", value)
    if rate <= 0:
        raise InputError(f"{name}: request_rate: must be positive (got {value!r})")
    return rate


def _number(where: str, key: str, value: Any, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < least:
        raise InputError(f"{where}: {key}: must be a number of at least {least:g} (got {value!r})")
    return float(value)


def _floats(name: str, key: str, values: Any) -> Floats:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name}: {key}: not a list of numbers") from None
    if array.ndim != 1 or not np.isfinite(array).all():
        raise InputError(f"{name}: {key}: not a list of numbers")
    return array
