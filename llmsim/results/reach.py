"""How far a run went: sequences under way, lengths, rate; to be held against the regime of a calibration."""

from collections.abc import Sequence

import numpy as np

from llmsim.results.records import Record
from llmsim.results.steps import StepLog

# What lies outside of these percentiles is not called a regime: the tail of a run, one long prompt.
LOW, HIGH = 5.0, 95.0


def reach(records: Sequence[Record], logs: Sequence[StepLog]) -> dict[str, tuple[float, float]]:
    """Return the ranges of a run, from the 5th to the 95th percentile, by name; what cannot be told is left out.

    ``sequences`` under way in a replica, weighted by time; ``prompt_tokens``; ``context_tokens``, prompt and answer
    together; ``request_rate`` in requests a second, one number, between the first and the last arrival.
    """
    ended = [record for record in records if record.status == "finished"]
    ranges: dict[str, tuple[float, float]] = {}
    running = _running(logs)
    if running is not None:
        ranges["sequences"] = running
    if ended:
        prompts = np.array([record.prompt_tokens for record in ended], dtype=np.float64)
        totals = prompts + np.array([record.output_tokens for record in ended])
        ranges["prompt_tokens"], ranges["context_tokens"] = _span(prompts), _span(totals)
    arrivals = [record.arrival_s for record in records]
    if len(arrivals) > 1 and max(arrivals) > min(arrivals):
        rate = (len(arrivals) - 1) / (max(arrivals) - min(arrivals))
        ranges["request_rate"] = rate, rate
    return ranges


def _span(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (LOW, HIGH))
    return float(low), float(high)


def _running(logs: Sequence[StepLog]) -> tuple[float, float] | None:
    counts, weights = [], []
    for log in logs:
        columns = log.columns()
        counts.append(columns["decodes"] + columns["prefill_sequences"])
        weights.append(columns["end_s"] - columns["start_s"])
    if not counts or not sum(len(count) for count in counts):
        return None
    count, weight = np.concatenate(counts), np.concatenate(weights)
    order = np.argsort(count, kind="stable")
    count, share = count[order], np.cumsum(weight[order])
    places = np.searchsorted(share, np.array([LOW, HIGH]) / 100.0 * share[-1])
    low, high = count[np.minimum(places, len(count) - 1)]
    return float(low), float(high)
