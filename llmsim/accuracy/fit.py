"""Fits the few free numbers of each software stack to measured rows, from the parts of predictions, without simulating.

The aim is the scores' own: the median over cells of the median absolute error.  A median has no gradient, so the
search lowers the mean over cells of a robust mean of the rows' log errors, one number after the other on a shrinking
grid, in logarithms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsim.accuracy.parts import COLUMNS, SECONDS, WEIGHTS, factors_of, host_us_of, ratio, weight_of
from llmsim.accuracy.score import LEAST_DEVICES, LEAST_MODELS, Prediction, device_of, model_of
from llmsim.performance.correction import (
    MOST_FREE_NUMBERS,
    NEUTRAL,
    StackCorrection,
    own_numbers,
    relatives,
    stack_of,
)

Floats = NDArray[np.float64]

FACTORS = ("launch", "products", "attention", "communication", "compute", "memory", "experts", "unpacking")
HOST = ("step_us", "layer_us", "sequence_us")
REQUEST = ("request_us",)
# Of all numbers six are free at most.
DEFAULT_NUMBERS = ("products", "attention", "communication", "step_us", "layer_us", "sequence_us")
LOWEST, HIGHEST = 0.2, 10.0
MOST_US = {"step_us": 60000.0, "layer_us": 2000.0, "sequence_us": 3000.0, "request_us": 50000.0}
SERVED = ("closed-loop", "online-serving")
ROUNDS = 8
PRIOR = 0.01  # a factor of e costs as much as an error of 1 % in all cells: what rows cannot tell stays near 1
HUBER = 0.10  # log errors beyond this count by their size, below it by their square


@dataclass(frozen=True, slots=True)
class Problem:
    """The rows of one stack, in arrays: all classes of steps of all rows one behind the other.

    ``starts`` says where the classes of each row begin; ``log_ratio`` is log(predicted / measured) before, of which
    ``share`` is the predicted value of one microsecond of `request_us`, as a part of the whole.
    """

    weights: Floats
    seconds: Floats
    sequences: Floats
    layers: Floats
    beside: NDArray[np.bool_]
    host_us: Floats
    starts: NDArray[np.int64]
    sign: Floats
    log_ratio: Floats
    share: Floats
    cells: NDArray[np.int64]
    before: StackCorrection

    def errors(self, numbers: StackCorrection) -> Floats:
        """Return the log errors of all rows under other numbers."""
        engine = 1.0 - self.share * self.before.request_us
        change = np.exp(self.sign * (self._logs(numbers) - self._logs(self.before)))
        return np.asarray(self.log_ratio + np.log(engine * change + self.share * numbers.request_us))

    def _logs(self, numbers: StackCorrection) -> Floats:
        device = self.seconds @ factors_of(numbers)
        base, layer, each = host_us_of(list(self.host_us.T), numbers)
        host = 1e-6 * (base + self.layers * layer + each * self.sequences)
        step = np.where(self.beside, np.maximum(device, host), device + host)
        return np.log(np.maximum(np.add.reduceat(self.weights * step, self.starts), 1e-30))


def problem_of(predictions: Sequence[Prediction]) -> Problem | None:
    """Return the problem of one stack's predictions; None when none of them tells its parts."""
    chosen = [one for one in predictions if one.value is not None and one.parts is not None and not one.saturated]
    if not chosen:
        return None
    names: dict[Any, int] = {}
    tables, starts, sign, layers, beside, host = [], [], [], [], [], []
    count = 0
    for one in chosen:
        assert one.parts is not None
        classes = np.array(one.parts["classes"], dtype=np.float64).reshape(-1, len(COLUMNS))
        column = WEIGHTS.index(weight_of(one.quantity))
        weights = classes[:, column] if classes[:, column].sum() else classes[:, 0]
        tables.append(np.column_stack([weights, classes[:, len(WEIGHTS) :]]))
        starts.append(count)
        count += len(classes)
        sign.append(-1.0 if one.kind == "throughput" else 1.0)
        layers += [one.parts["layers"]] * len(classes)
        beside += [one.parts["beside"]] * len(classes)
        host += [one.parts["host_us"]] * len(classes)
    table = np.concatenate(tables)
    ratio = [np.log(one.value / one.row.value) for one in chosen if one.value is not None]
    cells = [names.setdefault(one.row.cell, len(names)) for one in chosen]
    return Problem(
        weights=table[:, 0],
        seconds=table[:, 1 : 1 + len(SECONDS)],
        sequences=table[:, -1],
        layers=np.array(layers, dtype=np.float64),
        beside=np.array(beside, dtype=bool),
        host_us=np.array(host, dtype=np.float64),
        starts=np.array(starts, dtype=np.int64),
        sign=np.array(sign),
        log_ratio=np.array(ratio),
        share=np.array([request_ms(one) / one.value for one in chosen if one.value is not None]),
        cells=np.array(cells, dtype=np.int64),
        before=numbers_before(chosen[0]),
    )


def numbers_before(one: Prediction) -> StackCorrection:
    """Return the numbers of its stack with which a prediction was made."""
    return stack_of(one.stack).correction if one.numbers is None else one.numbers


def request_ms(one: Prediction) -> float:
    """Return by how many milliseconds one microsecond of `request_us` moves a predicted latency."""
    waits = one.row.kind in SERVED and one.quantity.split(":")[0] in ("ttft_ms", "e2e_ms")
    return 1e-3 if waits else 0.0


def loss(problem: Problem, numbers: StackCorrection) -> float:
    """Return the mean over cells of the mean robust log error of their rows."""
    error = np.abs(problem.errors(numbers))
    robust = np.where(error < HUBER, 0.5 * error * error / HUBER, error - 0.5 * HUBER)
    sums, counts = np.bincount(problem.cells, robust), np.bincount(problem.cells)
    unlikely = sum(float(np.log(getattr(numbers, name))) ** 2 for name in FACTORS)
    return float(np.mean(sums / counts)) + PRIOR * unlikely


def fit(problem: Problem, names: Sequence[str] = DEFAULT_NUMBERS) -> StackCorrection:
    """Return the numbers that lower the loss most; those that hardly help stay as they are.

    Raises:
        ValueError: more than six numbers, or none of that name.
    """
    unknown = [name for name in names if name not in (*FACTORS, *HOST, *REQUEST)]
    if unknown or len(names) > MOST_FREE_NUMBERS:
        raise ValueError(f"fit: at most {MOST_FREE_NUMBERS} of {FACTORS + HOST + REQUEST} (got {tuple(names)})")
    best = NEUTRAL  # never the catalogue's numbers, which may have seen what is left out here
    lowest = loss(problem, best)
    for width in np.geomspace(1.0, 0.02, ROUNDS):
        for name in names:
            for candidate in _candidates(best, name, float(width)):
                found = loss(problem, candidate)
                if found < lowest - 1e-5:
                    best, lowest = candidate, found
    return _rounded(_without_idle(problem, best, lowest))


def _candidates(numbers: StackCorrection, name: str, width: float) -> list[StackCorrection]:
    value = getattr(numbers, name)
    steps = np.linspace(-width, width, 9)
    if name in FACTORS:
        values = [min(max(value * float(np.exp(step)), LOWEST), HIGHEST) for step in steps]
    elif value is None or value == 0.0:
        values = [0.0, *(MOST_US[name] * float(np.exp(-power)) for power in range(1, 9))]
    else:
        values = [0.0, *(min(value * float(np.exp(2 * step)), MOST_US[name]) for step in steps)]
    return [replace(numbers, **{name: one}) for one in values]


def _without_idle(problem: Problem, numbers: StackCorrection, lowest: float) -> StackCorrection:
    """Return the numbers without those that change the loss by less than a hundredth of it."""
    for name in (*FACTORS, *HOST, *REQUEST):
        plain = replace(numbers, **{name: getattr(StackCorrection(), name)})
        if plain != numbers and loss(problem, plain) < lowest * 1.01:
            numbers = plain
    return numbers


def _rounded(numbers: StackCorrection) -> StackCorrection:
    """Return three digits of each number: more is not known."""
    values = {name: getattr(numbers, name) for name in (*FACTORS, *HOST, *REQUEST)}
    rounded: dict[str, Any] = {name: None if v is None else float(f"{v:.3g}") for name, v in values.items()}
    return replace(numbers, **rounded)


def may_have_numbers(predictions: Sequence[Prediction]) -> bool:
    """Say whether a stack was measured on enough devices or models to have numbers of its own."""
    ran = [one for one in predictions if one.value is not None and one.parts is not None]
    devices, models = ({of(one) for one in ran} for of in (device_of, model_of))
    return len(devices) >= LEAST_DEVICES or len(models) >= LEAST_MODELS


def fit_all(
    predictions: Sequence[Prediction], names: Mapping[str, Sequence[str]] | None = None
) -> dict[str, StackCorrection]:
    """Return numbers for each stack that was measured on enough devices or models, from its rows of tiers A and B.

    ``names`` are the free numbers by stack; None: those that each stack's entry lists, so none for the others.
    """
    by_stack: dict[str, list[Prediction]] = {}
    for one in predictions:
        if one.row.tier in "AB" and one.stack:
            by_stack.setdefault(one.stack, []).append(one)
    made = {}
    for stack, members in sorted(by_stack.items()):
        free = own_numbers(stack) if names is None else names.get(stack, DEFAULT_NUMBERS)
        problem = problem_of(members) if free and may_have_numbers(members) else None
        if problem is not None:
            made[stack] = fit(problem, free)
    return made


def with_numbers_of(predictions: Sequence[Prediction], numbers: Mapping[str, StackCorrection]) -> list[Prediction]:
    """Return predictions under other numbers, to first order.

    A stack without numbers takes those of its nearest relative that has some; if none has, it is priced without.
    """
    made = []
    for one in predictions:
        if one.value is None or one.parts is None:
            made.append(one)
            continue
        after, before = numbers_after(one.stack, numbers), numbers_before(one)
        change = 1.0 if after == before else ratio(one.parts, one.quantity, before, after)
        each = request_ms(one)
        value = (one.value - each * before.request_us) * change + each * after.request_us
        layer = "calibrated" if after.free_numbers else one.layer
        made.append(replace(one, value=value, layer=layer, numbers=after))
    return made


def numbers_after(stack: str, numbers: Mapping[str, StackCorrection]) -> StackCorrection:
    """Return the numbers of a stack when ``numbers`` are all there are: its own, its nearest relative's, or none."""
    return next((numbers[name] for name in relatives(stack) if name in numbers), NEUTRAL)
