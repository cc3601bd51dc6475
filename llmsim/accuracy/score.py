"""Scores: errors of rows, their medians by cell, and median and p90 over cells.

A cell is source x device x model x metric.  Rows are never pooled: a source with many rows would drown the others.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from llmsim.accuracy.measured import Row
from llmsim.performance.correction import StackCorrection

KINDS = ("latency", "TTFT", "throughput")
# A stack needs as many devices, or as many models, for numbers of its own.
LEAST_DEVICES, LEAST_MODELS = 2, 3
# How the assumption of a row begins whose model is not in the catalogue and was priced as one like it.
BORROWED = "borrowed shape"
_KIND_OF = {"e2e_ms": "latency", "tpot_ms": "latency", "itl_ms": "latency", "ttft_ms": "TTFT"}


@dataclass(slots=True)
class Prediction:
    """A row with what was predicted for it; ``value`` None and a ``reason`` when it was not run.

    ``parts`` and ``quantity`` tell what the value was made of (`llmsim.accuracy.parts`), ``numbers`` with which
    numbers of its stack (None: the catalogue's); ``device`` and ``model`` are the catalogue's names.
    """

    row: Row
    family: str
    value: float | None
    reason: str = ""
    layer: str = ""
    seconds: float = 0.0
    saturated: bool = False
    stack: str = ""
    quantity: str = ""
    parts: Mapping[str, Any] | None = None
    assumptions: tuple[str, ...] = ()
    device: str = ""
    model: str = ""
    numbers: StackCorrection | None = None

    @property
    def status(self) -> str:
        """``run`` or ``not run``."""
        return "not run" if self.value is None else "run"

    @property
    def borrowed(self) -> bool:
        """Whether the model is not in the catalogue, and was priced as one of its family and about its size."""
        return any(text.startswith(BORROWED) for text in self.assumptions)

    @property
    def kind(self) -> str:
        """Latency, TTFT or throughput."""
        return _KIND_OF.get(self.row.metric, "throughput")

    @property
    def error(self) -> float:
        """Signed error in per cent of what was measured; not a number when not run."""
        return float("nan") if self.value is None else 100.0 * (self.value / self.row.value - 1.0)


def device_of(one: Prediction) -> str:
    """Return the device of a prediction, by the normalised name that its row gives."""
    return one.row.device_norm or one.device or one.row.device


def model_of(one: Prediction) -> str:
    """Return the model of a prediction, by the normalised name that its row gives."""
    return one.row.model_norm or one.model or one.row.model


@dataclass(frozen=True, slots=True)
class Score:
    """Absolute errors in per cent over cells, their signed bias, and how much they rest on."""

    median: float
    p90: float
    bias: float
    cells: int
    rows: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: the medians of its rows' absolute and signed errors."""

    key: tuple[str, str, str, str]
    error: float
    bias: float
    rows: int


def cells_of(predictions: Iterable[Prediction]) -> list[Cell]:
    """Return the cells of the predictions that were run."""
    by_cell: dict[tuple[str, str, str, str], list[float]] = {}
    for one in predictions:
        if one.value is not None and isfinite(one.error):
            by_cell.setdefault(one.row.cell, []).append(one.error)
    return [
        Cell(key, float(np.median(np.abs(errors))), float(np.median(errors)), len(errors))
        for key, errors in by_cell.items()
    ]


def score(predictions: Iterable[Prediction]) -> Score | None:
    """Return the score of predictions; None when none of them was run."""
    cells = cells_of(predictions)
    if not cells:
        return None
    errors = np.array([cell.error for cell in cells])
    return Score(
        float(np.median(errors)),
        float(np.percentile(errors, 90)),
        float(np.median([cell.bias for cell in cells])),
        len(cells),
        sum(cell.rows for cell in cells),
    )


def scored(predictions: Sequence[Prediction], tiers: str = "AB", *, saturated: bool | None = None) -> list[Prediction]:
    """Return the predictions of rows of certain tiers, run or not; those that were saturated, or not, if asked."""
    return [
        one for one in predictions
        if one.row.tier in tiers and (saturated is None or one.value is None or one.saturated == saturated)
    ]  # fmt: skip


def grouped(predictions: Iterable[Prediction], by: Callable[[Prediction], str]) -> dict[str, list[Prediction]]:
    """Return predictions by a name, in the order of the names."""
    groups: dict[str, list[Prediction]] = {}
    for one in predictions:
        groups.setdefault(by(one), []).append(one)
    return dict(sorted(groups.items()))


def reasons(predictions: Iterable[Prediction]) -> dict[str, int]:
    """Return why rows were not run, and how many for each, most frequent first."""
    counts: dict[str, int] = {}
    for one in predictions:
        if one.value is None:
            counts[one.reason] = counts.get(one.reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
