"""The metrics of a run, by the definitions of `vllm bench serve` and under its names.

``docs/metrics.md`` has them on one page.  Only requests that finished are measured; those that were rejected,
cancelled or that failed are counted.  Where there is nothing to measure the value is None, never NaN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmsim.results.percentiles import Floats, Integers, Summary, label, summarise
from llmsim.results.records import Record
from llmsim.results.steps import StepLog

Metrics = dict[str, float | int | None]

LATENCIES = ("ttft", "ttfn", "tpot", "itl", "e2el", "queue_time")
DEFAULT_PERCENTILES: tuple[float, ...] = (50, 90, 95, 99)
GOODPUT_METRICS = ("ttft", "ttfn", "tpot", "e2el")


@dataclass(frozen=True, slots=True)
class Timings:
    """The moments and sizes of finished requests, one array entry [n] each; seconds, NaN where it never came."""

    arrival_s: Floats
    admitted_s: Floats
    first_token_s: Floats
    nth_token_s: Floats
    finished_s: Floats
    prompt_tokens: Integers
    output_tokens: Integers

    @property
    def ttft(self) -> Floats:
        """Time to first token: from arrival to first token, in seconds."""
        return self.first_token_s - self.arrival_s

    @property
    def ttfn(self) -> Floats:
        """Time to the first N tokens: from arrival to token N, or to the last one of fewer, in seconds."""
        return self.nth_token_s - self.arrival_s

    @property
    def tpot(self) -> Floats:
        """Time per output token after the first, in seconds; NaN for requests with a single one."""
        several = self.output_tokens > 1
        return np.where(several, self.finished_s - self.first_token_s, np.nan) / np.maximum(self.output_tokens - 1, 1)

    @property
    def e2el(self) -> Floats:
        """End-to-end latency: from arrival to last token, in seconds."""
        return self.finished_s - self.arrival_s

    @property
    def queue_time(self) -> Floats:
        """From arrival to the first admission into a batch, in seconds; part of the time to first token."""
        return self.admitted_s - self.arrival_s


def timings(records: Sequence[Record]) -> Timings:
    """Return the timings of those of ``records`` that finished, in their order."""
    finished = [record for record in records if record.status == "finished"]
    # numpy makes NaN of None.
    return Timings(
        arrival_s=np.array([record.arrival_s for record in finished], dtype=np.float64),
        admitted_s=np.array([record.admitted_s for record in finished], dtype=np.float64),
        first_token_s=np.array([record.first_token_s for record in finished], dtype=np.float64),
        nth_token_s=np.array([record.nth_token_s for record in finished], dtype=np.float64),
        finished_s=np.array([record.finished_s for record in finished], dtype=np.float64),
        prompt_tokens=np.array([record.prompt_tokens for record in finished], dtype=np.int64),
        output_tokens=np.array([record.output_tokens for record in finished], dtype=np.int64),
    )


def duration(records: Sequence[Record]) -> float | None:
    """Return the seconds from the first arrival to the last end, or None when nothing ended.

    The clock is the simulation's.  vLLM measures wall time from the start of its sending loop, where the first
    request leaves at once, to the last answer: the same span.
    """
    ends = [record.finished_s for record in records if record.finished_s is not None]
    return max(ends) - min(record.arrival_s for record in records) if ends else None


def pooled(parts: Sequence[tuple[Floats, Integers]]) -> tuple[Floats, Integers]:
    """Return several weighted samples as one."""
    if not parts:
        return np.empty(0), np.empty(0, dtype=np.int64)
    return np.concatenate([values for values, _ in parts]), np.concatenate([weights for _, weights in parts])


def measure(
    records: Sequence[Record],
    steps: Sequence[StepLog] = (),
    *,
    percentiles: Sequence[float] = DEFAULT_PERCENTILES,
    goodput: Mapping[str, float] | None = None,
    since_s: float = -math.inf,
    first_tokens: bool = False,
) -> Metrics:
    """Return all metrics under the flat keys of vLLM's result file, latencies in milliseconds.

    Args:
        records: all records of the run, whatever their status.
        steps: the log of each replica; without them there is no inter-token latency.
        percentiles: percentages, 0..100.
        goodput: the most milliseconds that a good request may take, by metric (`GOODPUT_METRICS`).
        since_s: inter-token gaps of batches that began before this moment are left out: the warm-up.
        first_tokens: whether there is a time to the first N tokens, ``ttfn``.

    Raises:
        ValueError: a goodput metric or a percentage that does not exist.
    """
    measured = timings(records)
    span = duration(records)
    metrics = _totals(records, measured, span)
    metrics["request_goodput"] = None if goodput is None else _rate(int(good(measured, goodput).sum()), span)
    metrics["max_output_tokens_per_s"], metrics["max_concurrent_requests"] = _peaks(measured, steps)
    samples: dict[str, tuple[Floats, Integers | None]] = {
        "ttft": (_present(measured.ttft), None),
        **({"ttfn": (_present(measured.ttfn), None)} if first_tokens else {}),
        "tpot": (_present(measured.tpot), None),
        "itl": pooled([log.client_gaps(since_s) for log in steps]),
        "e2el": (measured.e2el, None),
        "queue_time": (_present(measured.queue_time), None),
    }
    for name, (values, weights) in samples.items():
        metrics.update(_latency(name, summarise(values, percentiles, weights), percentiles))
    return metrics


def good(measured: Timings, goodput: Mapping[str, float]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return for each finished request whether it keeps all limits of ``goodput`` (milliseconds), the limit included.

    As in vLLM, a request with a single output token has a time per output token of zero.

    Raises:
        ValueError: there is no such metric.
    """
    answer = np.ones(len(measured.arrival_s), dtype=np.bool_)
    for name, limit_ms in goodput.items():
        if name not in GOODPUT_METRICS:
            raise ValueError(f"goodput: unknown metric (got {name!r})\nhint: one of {', '.join(GOODPUT_METRICS)}")
        answer &= np.nan_to_num(getattr(measured, name)) <= limit_ms / 1e3
    return answer


def _totals(records: Sequence[Record], measured: Timings, span: float | None) -> Metrics:
    completed = len(measured.arrival_s)
    inputs, outputs = int(measured.prompt_tokens.sum()), int(measured.output_tokens.sum())
    return {
        "duration": span,
        "completed": completed,
        "failed": len(records) - completed,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": _rate(completed, span),
        "output_throughput": _rate(outputs, span),
        "total_token_throughput": _rate(inputs + outputs, span),
    }


def _peaks(measured: Timings, steps: Sequence[StepLog]) -> tuple[float | None, int | None]:
    """Return vLLM's two peaks over buckets of one second, which begin at the first arrival of a finished request."""
    if len(measured.arrival_s) == 0:
        return None, None
    origin = measured.arrival_s.min()
    first = (measured.arrival_s - origin).astype(np.int64)
    last = (measured.finished_s - origin).astype(np.int64)
    # A request counts in every second that it touches: +1 where it begins, -1 after it ends, summed up.
    touching = np.cumsum(np.bincount(first, minlength=last.max() + 2) - np.bincount(last + 1, minlength=last.max() + 2))
    times, tokens = pooled([log.tokens() for log in steps])
    if len(times) == 0:
        return None, int(touching.max())
    after = times >= origin
    if not after.any():
        return None, int(touching.max())
    buckets = np.bincount((times[after] - origin).astype(np.int64), weights=tokens[after])
    return float(buckets.max()), int(touching.max())


def _latency(name: str, summary: Summary | None, percentiles: Sequence[float]) -> Metrics:
    keys = ["mean", "median", "std", *(f"p{label(percent)}" for percent in percentiles)]
    if summary is None:
        return {f"{key}_{name}_ms": None for key in keys}
    values = (summary.mean, summary.median, summary.std, *summary.percentiles)
    return {f"{key}_{name}_ms": value * 1e3 for key, value in zip(keys, values, strict=True)}


def _present(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _rate(count: float, seconds: float | None) -> float | None:
    return count / seconds if seconds else None
