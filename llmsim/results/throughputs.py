"""The intervals of the throughputs of one run: requests, tokens and good requests a second."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from llmsim.results.estimates import Estimate, rate
from llmsim.results.metrics import Metrics, Timings, good, timings
from llmsim.results.percentiles import Floats
from llmsim.results.records import Record

THROUGHPUTS = ("request_throughput", "output_throughput", "total_token_throughput", "request_goodput")


def throughput_intervals(
    records: Sequence[Record],
    metrics: Metrics,
    *,
    goodput: Mapping[str, float] | None = None,
    since_s: float = -math.inf,
) -> dict[str, Estimate]:
    """Return the estimates of the throughputs that ``metrics`` has, by key.

    What ends is counted from when the system has filled until it begins to drain (`window`).  A system that gets more
    than it can serve has a throughput too, that at which it serves, so only goodput is lost to saturation.

    Args:
        records: all of them, whatever their status.
        metrics: of the run.
        goodput: the most milliseconds of a good request, by metric.
        since_s: the end of a warm-up that is left out.
    """
    measured = timings(records)
    if not len(measured.arrival_s):
        return {}
    start, end = window(records, measured, since_s)
    prompts, outputs = measured.prompt_tokens.astype(np.float64), measured.output_tokens.astype(np.float64)
    amounts: dict[str, Floats] = {
        "request_throughput": np.ones(len(outputs)),
        "output_throughput": outputs,
        "total_token_throughput": prompts + outputs,
    }
    if goodput is not None:
        amounts["request_goodput"] = good(measured, goodput).astype(np.float64)
    found = {}
    for name, each in amounts.items():
        value = metrics[name]
        if value is not None:
            found[name] = rate(measured.finished_s, each, start, end, value=value)
    return found


def window(records: Sequence[Record], measured: Timings, since_s: float) -> tuple[float, float]:
    """Return from when until when a run's throughput is that of an endless one, in seconds.

    It begins as the first requests have had the time that one takes in service (the median), or where a warm-up ends;
    until then fewer end than come.  It ends with the last arrival, or later with the last admission from a queue;
    from then on batches only empty.
    """
    start = since_s
    if since_s == -math.inf:
        served = np.nanmedian(measured.finished_s - measured.admitted_s)
        start = min(record.arrival_s for record in records) + float(served)
    moments = [record.admitted_s for record in records if record.admitted_s is not None]
    return start, max(*moments, *(record.arrival_s for record in records))
