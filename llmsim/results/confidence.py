"""The intervals of all latencies of one run, under the keys of its metrics."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llmsim.results.estimates import Estimate, Series
from llmsim.results.metrics import LATENCIES, timings
from llmsim.results.percentiles import Floats, label
from llmsim.results.records import Record
from llmsim.results.steps import StepLog


def latency_series(
    records: Sequence[Record], steps: Sequence[StepLog], since_s: float = -math.inf
) -> dict[str, Series]:
    """Return the series of each latency that has values, in seconds: requests as they came, gaps as they were torn.

    Args:
        records: in the order of arrival.
        steps: the log of each replica.
        since_s: gaps of batches that began before this moment are left out.
    """
    measured = timings(records)
    series = {}
    for name in LATENCIES:
        if name == "itl":
            series[name] = _gaps(steps, since_s)
            continue
        values: Floats = getattr(measured, name)
        there = ~np.isnan(values)
        series[name] = Series(values[there], order=measured.arrival_s[there])
    return {name: one for name, one in series.items() if one.count}


def confidence_intervals(
    records: Sequence[Record],
    steps: Sequence[StepLog],
    percentiles: Sequence[float],
    *,
    since_s: float = -math.inf,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Return the estimates of means, medians and ``percentiles`` (0..100) of all latencies in milliseconds, by key.

    A latency without values is left out.
    """
    found: dict[str, Estimate] = {}
    for name, series in latency_series(records, steps, since_s).items():
        found[f"mean_{name}_ms"] = _milliseconds(series.mean(confidence=confidence))
        found[f"median_{name}_ms"] = _milliseconds(series.percentile(50.0, confidence=confidence))
        for percent in percentiles:
            key = f"p{label(percent)}_{name}_ms"
            known = found[f"median_{name}_ms"] if percent == 50 else None
            found[key] = known or _milliseconds(series.percentile(percent, confidence=confidence))
    return found


def withheld(estimate: Estimate, reason: str) -> Estimate:
    """Return the estimate without its interval."""
    return replace(estimate, low=None, high=None, reason=reason)


def _gaps(steps: Sequence[StepLog], since_s: float) -> Series:
    parts = [(*log.client_gaps(since_s), log.gap_starts(since_s)) for log in steps]
    if not parts:
        return Series(np.empty(0))
    values, weights, starts = (np.concatenate([part[index] for part in parts]) for index in range(3))
    return Series(values, weights.astype(np.int64), order=starts)


def _milliseconds(estimate: Estimate) -> Estimate:
    def scaled(seconds: float | None) -> float | None:
        return None if seconds is None else seconds * 1e3

    return replace(estimate, value=estimate.value * 1e3, low=scaled(estimate.low), high=scaled(estimate.high))
