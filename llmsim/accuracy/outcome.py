"""What came of a set-up: the numbers that rows may ask for, whether it was saturated, what its steps were made of."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from llmsim.results.records import Record
    from llmsim.results.steps import StepLog

PERCENTILES = (25, 50, 75, 80, 90, 95, 99, 99.9)


@dataclass(slots=True)
class Outcome:
    """The prediction of one set-up.

    ``numbers`` are in ms, tokens/s or requests/s, by names such as ``ttft_ms:p99`` and ``output_tok_s``; ``layer`` is
    the layer of knowledge of the prices; ``seconds`` what the prediction took; ``parts`` see `llmsim.accuracy.parts`.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    layer: str = ""
    seconds: float = 0.0
    saturated: bool = False
    parts: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "Outcome":
        """Return the outcome that `to_dict` told."""
        return cls(**told)


def numbers_of(records: Sequence["Record"], logs: Sequence["StepLog"]) -> dict[str, float]:
    """Return latencies and throughputs of the requests that finished; empty when none did."""
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        return {}
    arrival = np.array([record.arrival_s for record in finished])
    first = np.array([record.first_token_s for record in finished])
    end = np.array([record.finished_s for record in finished])
    output = np.array([record.output_tokens for record in finished])
    prompt = np.array([record.prompt_tokens for record in finished])
    several = output > 1
    # Batches in lockstep end one after the other, each at one moment.
    ends = np.unique(end)
    samples = {
        "ttft_ms": 1e3 * (first - arrival),
        "e2e_ms": 1e3 * (end - arrival),
        "tpot_ms": 1e3 * (end - first)[several] / (output[several] - 1),
        "batch_ms": 1e3 * np.diff(ends, prepend=arrival.min()),
    }
    numbers: dict[str, float] = {}
    for name, values in samples.items():
        if len(values):
            numbers[f"{name}:mean"] = float(values.mean())
            for percentile, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True):
                numbers[f"{name}:p{percentile}"] = float(value)
    span = float(end.max() - arrival.min())
    numbers |= {
        "output_tok_s": float(output.sum()) / span,
        "total_tok_s": float((output + prompt).sum()) / span,
        "req_s": len(finished) / span,
        "ttft_ms:batch": 1e3 * float(first.max() - arrival.min()),
        "e2e_ms:batch": 1e3 * span,
    }
    longest = int(output.max())
    if longest > 1:
        numbers["tpot_ms:batch"] = 1e3 * float(end.max() - first.max()) / (longest - 1)
        numbers["itl_ms:batch"] = numbers["tpot_ms:batch"]
    return numbers | _gaps(logs)


def _gaps(logs: Sequence["StepLog"]) -> dict[str, float]:
    """Return mean and percentiles of the gaps between tokens."""
    found = [log.gaps() for log in logs]
    seconds = np.concatenate([gaps for gaps, _ in found]) if found else np.zeros(0)
    weights = np.concatenate([counts for _, counts in found]) if found else np.zeros(0)
    if not weights.sum():
        return {}
    order = np.argsort(seconds, kind="stable")
    seconds, weights = seconds[order], weights[order]
    numbers = {"itl_ms:mean": 1e3 * float((seconds * weights).sum() / weights.sum())}
    reached = np.cumsum(weights) / weights.sum()
    for percentile in PERCENTILES:
        numbers[f"itl_ms:p{percentile}"] = 1e3 * float(seconds[int(np.searchsorted(reached, percentile / 100))])
    return numbers


def is_saturated(records: Sequence["Record"], outside_s: float = 0.0) -> bool:
    """Say whether TTFT is queueing: the median request waits longer to be admitted than for its first token after that.

    Decided by the simulation alone, never by what was measured; ``outside_s``, which a request spends before it
    reaches the server, is no waiting.
    """
    waited = [
        (record.admitted_s - record.arrival_s - outside_s, record.first_token_s - record.admitted_s)
        for record in records
        if record.status == "finished" and record.admitted_s is not None and record.first_token_s is not None
    ]
    if not waited:
        return False
    queue, compute = np.median(np.array(waited), axis=0)
    return bool(queue > compute)
