"""The fit: which numbers the measurements can tell, their values, and their intervals.

Residuals are ln(predicted / measured).  Steps are those of Gauss and Newton with a Jacobian by finite differences, for
a simulation has no derivative and is not smooth; a step is cut while it makes things worse.  Weights are robust (Huber)
and each quantity has its own spread.  Which numbers may move is decided before (`identifiable`): a number that hardly
shows in the measurements, or that shows only as another one does, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from llmsim.calibration.measured import Floats
from llmsim.results.intervals import student_t

# A finite difference changes residuals by this much in the mean (root mean square), for latencies jump by as much as a
# percent when steps fall otherwise; it is a move between these two.
RESPONSE = 0.1
SHORTEST_MOVE, LONGEST_MOVE = 0.1, 0.6
MOST_STEPS = 4
PLANES = 6
LONGEST = 0.7
CLOSE = 2e-3
HALVINGS = 4
# How well prices know a quantity at best; residuals below it are not worth a number.
FLOOR = {"ttft": 0.01, "e2e": 0.005, "tpot": 0.005, "throughput": 0.005}
OTHER_FLOOR = 0.005
# What is thought of a whole source before the fit: a model is no better than this, however many requests there are.
PRIOR = {"ttft": 0.08, "e2e": 0.03, "tpot": 0.02, "throughput": 0.03}
OTHER_PRIOR = 0.05
# Of that, what is left of a source's error after the fit at least: 1 % of a token's time, 4 % of a first token's.
PART = 0.5
HUBER = 2.0
# A number that the data could not tell to within this (ln units, one standard error) is kept.
BLUR = 0.3
# Half a 95 % interval that leaves nothing worth saying.
WIDEST = log(2.0)


@dataclass(frozen=True, slots=True)
class Number:
    """A number that may move: where it starts, and whether it is moved by factors or by sums of ``unit``.

    ``reach`` is the move of a finite difference.
    """

    name: str
    start: float
    unit: float | None = None
    reach: float = SHORTEST_MOVE

    def value(self, move: float) -> float:
        """Return the value after a move: a factor e**move, or so many units more, never below 0."""
        return self.start * exp(move) if self.unit is None else max(self.start + self.unit * move, 0.0)

    @property
    def least(self) -> float:
        """The least move: to 0, or by any factor."""
        return -np.inf if self.unit is None else -self.start / self.unit


Residuals = Callable[[Mapping[str, float]], Floats]


@dataclass(frozen=True, slots=True)
class Layout:
    """Of each residual: its quantity, its source, and the block that is left out with it (unique over sources)."""

    kinds: Sequence[str]
    sources: NDArray[np.int64]
    blocks: NDArray[np.int64]


@dataclass(slots=True)
class Fit:
    """What was found: ``moves`` [numbers], residuals and Jacobian there, and weights.

    ``rough`` [points, residuals] is by how much the residuals leave the plane that was laid through them.
    """

    numbers: list[Number]
    moves: Floats
    residuals: Floats
    jacobian: Floats
    weights: Floats
    loss: float = 0.0
    rough: Floats | None = None

    @property
    def values(self) -> dict[str, float]:
        """The numbers by name."""
        return values_of(self.numbers, self.moves)

    def without(self, left_out: NDArray[np.bool_]) -> Floats:
        """Return the moves that the other residuals would have led to, by one linear step from here."""
        moves = self.moves + _solve(self.jacobian, self.residuals, self.weights * ~left_out)
        return np.asarray(np.maximum(moves, np.array([number.least for number in self.numbers])))


def values_of(numbers: Sequence[Number], moves: Floats) -> dict[str, float]:
    """Return the value of each number after its move."""
    return {number.name: number.value(float(move)) for number, move in zip(numbers, moves, strict=True)}


def difference(
    residuals: Residuals, fixed: Mapping[str, float], numbers: Sequence[Number], moves: Floats, here: Floats
) -> Floats:
    """Return the Jacobian of the residuals by forward differences: [residuals, numbers]."""
    jacobian = np.zeros((len(here), len(numbers)))
    for index in range(len(numbers)):
        moved = moves.copy()
        moved[index] += numbers[index].reach
        jacobian[:, index] = (residuals({**fixed, **values_of(numbers, moved)}) - here) / numbers[index].reach
    return jacobian


def reaching(residuals: Residuals, numbers: Sequence[Number]) -> list[Number]:
    """Return the numbers with moves wide enough to be seen."""
    start = np.zeros(len(numbers))
    jacobian = difference(residuals, {}, numbers, start, residuals(values_of(numbers, start)))
    with np.errstate(invalid="ignore", divide="ignore"):
        wanted = RESPONSE / np.sqrt(np.nanmean(jacobian**2, axis=0))
    reach = np.clip(np.nan_to_num(wanted, nan=LONGEST_MOVE), SHORTEST_MOVE, LONGEST_MOVE)
    return [replace(number, reach=float(one)) for number, one in zip(numbers, reach, strict=True)]


def prior_weights(layout: Layout) -> Floats:
    """Return what each residual is worth before anything is known: all of a source and quantity as one observation."""
    weights = np.zeros(len(layout.kinds))
    for index, kind in enumerate(layout.kinds):
        alike = sum(
            1 for other, source in zip(layout.kinds, layout.sources, strict=True)
            if other == kind and source == layout.sources[index]
        )  # fmt: skip
        single = kind in ("step",) or kind not in PRIOR  # passes and kernels are each measured apart
        weights[index] = 1.0 / (PRIOR.get(kind, OTHER_PRIOR) ** 2 * (1 if single else alike))
    return weights


def identifiable(
    numbers: Sequence[Number], jacobian: Floats, weights: Floats
) -> tuple[list[int], dict[str, str], dict[str, list[str]]]:
    """Return which numbers the measurements can tell, why others are kept, and who stands for whom.

    Numbers are taken in their order.  One is kept when its standard error alone would exceed `BLUR`, or when with it
    the standard error of any number would: then a mixture of the others changes all residuals as it does.
    """
    chosen: list[int] = []
    kept: dict[str, str] = {}
    mixed: dict[str, list[str]] = {}
    finite = np.isfinite(jacobian).all(axis=1)
    jacobian, weights = jacobian[finite], weights[finite]
    for index, number in enumerate(numbers):
        column = jacobian[:, index]
        seen = float(weights @ column**2)
        if seen < 1.0 / BLUR**2:
            kept[number.name] = "blind"
            continue
        together = jacobian[:, [*chosen, index]]
        errors = _standard_errors(together, weights)
        if errors is not None and errors.max() <= BLUR and len(chosen) < len(column) - 1:
            chosen.append(index)
            continue
        kept[number.name] = "mixed"
        mixed[number.name] = _partners(numbers, jacobian, weights, chosen, index)
    return chosen, kept, mixed


def _standard_errors(jacobian: Floats, weights: Floats) -> Floats | None:
    information = jacobian.T @ (jacobian * weights[:, None])
    if np.linalg.cond(information) > 1e10:
        return None
    return np.sqrt(np.diag(np.linalg.inv(information)))


def _partners(
    numbers: Sequence[Number], jacobian: Floats, weights: Floats, chosen: Sequence[int], index: int
) -> list[str]:
    """Return the chosen numbers whose mixture looks like number ``index``, the largest part first."""
    if not chosen:
        return []
    root = np.sqrt(weights)
    basis, target = jacobian[:, chosen] * root[:, None], jacobian[:, index] * root
    shares, *_ = np.linalg.lstsq(basis, target, rcond=1e-8)
    size = np.abs(shares) * np.linalg.norm(basis, axis=0)
    order = np.argsort(-size, kind="stable")
    return [numbers[chosen[one]].name for one in order if size[one] >= 0.25 * size.max()]


def _solve(jacobian: Floats, residuals: Floats, weights: Floats) -> Floats:
    """Return the step that makes weighted residuals least, were they linear; residuals that are nan are left out."""
    used = np.isfinite(residuals) & np.isfinite(jacobian).all(axis=1) & (weights > 0)
    root = np.sqrt(weights[used])
    step, *_ = np.linalg.lstsq(jacobian[used] * root[:, None], -residuals[used] * root, rcond=1e-6)
    return np.asarray(step)


def robust_weights(layout: Layout, residuals: Floats) -> Floats:
    """Return weights by the spread of each quantity, less for residuals far out (Huber)."""
    weights = np.zeros(len(residuals))
    kinds = np.array(layout.kinds)
    for kind in dict.fromkeys(layout.kinds):
        place = (kinds == kind) & np.isfinite(residuals)
        if not place.any():
            continue
        spread = max(1.4826 * float(np.median(np.abs(residuals[place]))), FLOOR.get(kind, OTHER_FLOOR))
        far = np.abs(residuals[place]) / spread
        weights[place] = np.minimum(1.0, HUBER / np.maximum(far, 1e-12)) / spread**2
    return weights


def loss_of(weights: Floats, residuals: Floats) -> float:
    """Return the weighted sum of squares; a residual that is nan counts as one of 1."""
    return float(weights @ np.nan_to_num(residuals, nan=1.0) ** 2)


def solve(residuals: Residuals, layout: Layout, fixed: Mapping[str, float], numbers: Sequence[Number]) -> Fit:
    """Move ``numbers`` until the residuals are least; ``fixed`` are numbers that are given with them.

    First Gauss-Newton steps, each cut until it helps.  Then, for latencies jump whenever a request meets another step,
    steps on planes laid through the residuals at points all around; the one with the least squares is the answer.
    """
    moves = np.zeros(len(numbers))

    def at(some: Floats) -> Floats:
        return residuals({**fixed, **values_of(numbers, some)})

    here = at(moves)
    weights = prior_weights(layout)
    if not numbers:
        return Fit([], moves, here, np.zeros((len(here), 0)), weights)
    for _ in range(MOST_STEPS):
        jacobian = difference(residuals, fixed, numbers, moves, here)
        moved, there = _cut(at, numbers, weights, moves, _shortened(_solve(jacobian, here, weights)), here)
        small = float(np.abs(moved - moves).max()) < CLOSE
        moves, here = moved, there
        weights = robust_weights(layout, here)
        if small:
            break
    return _on_planes(at, layout, list(numbers), moves)


def _on_planes(at: Callable[[Floats], Floats], layout: Layout, numbers: list[Number], moves: Floats) -> Fit:
    least = np.array([number.least for number in numbers])
    best: Fit | None = None
    for _ in range(PLANES):
        level, jacobian, rough = _plane(at, moves, numbers)
        weights = robust_weights(layout, level)
        fit = Fit(numbers, moves, level, jacobian, weights, loss_of(prior_weights(layout), level), rough)
        if best is None or fit.loss < best.loss:
            best = fit
        step = _shortened(_solve(jacobian, level, weights))
        moves = np.maximum(moves + step, least)
        if float(np.abs(step).max()) < CLOSE:
            break
    assert best is not None
    return best


def _plane(at: Callable[[Floats], Floats], moves: Floats, numbers: Sequence[Number]) -> tuple[Floats, Floats, Floats]:
    """Lay a plane through the residuals at ``moves`` and at two points along each number.

    Returns:
        its level at ``moves`` and its slopes, and what it leaves at each point.
    """
    places = [moves]
    for index, number in enumerate(numbers):
        for part in (1.0, -1.0):
            place = moves.copy()
            place[index] += part * number.reach
            if place[index] < number.least:
                place[index] = moves[index] + 2.0 * number.reach
            places.append(place)
    offsets = np.array(places) - moves
    values = np.array([at(place) for place in places])
    design = np.hstack([np.ones((len(places), 1)), offsets])
    solution, *_ = np.linalg.lstsq(design, values, rcond=None)
    return solution[0], solution[1:].T, values - design @ solution


def _shortened(step: Floats) -> Floats:
    longest = float(np.abs(step).max())
    return step * min(1.0, LONGEST / longest) if longest else step


def _cut(
    at: Callable[[Floats], Floats],
    numbers: Sequence[Number],
    weights: Floats,
    moves: Floats,
    step: Floats,
    here: Floats,
) -> tuple[Floats, Floats]:
    """Return the moves after a step that was halved until it helps, and the residuals there; no move if none does."""
    now = loss_of(weights, here)
    least = np.array([number.least for number in numbers])
    for _ in range(HALVINGS):
        moved = np.maximum(moves + step, least)
        there = at(moved)
        if loss_of(weights, there) < now:
            return moved, there
        step = step * 0.5
    return moves, here


def half_widths(fit: Fit, layout: Layout) -> Floats | None:
    """Return half the 95 % interval of each move; None where there are too few measured numbers to tell.

    With five blocks or more: the jackknife that leaves out one block at a time, each refit by one linear step, with
    Student's t of blocks less numbers (CV3 of Cameron and Miller, Journal of Human Resources 50, 2015).  With fewer,
    the curvature and the spread of the residuals about the fit.  To either is added what the jumps of the replay
    itself do to the numbers: a real run is one of many that differ by such jumps.
    """
    count = len(fit.numbers)
    blocks = np.unique(layout.blocks)
    if len(blocks) >= max(5, count + 2):
        moved = np.array([fit.without(layout.blocks == block) for block in blocks])
        spread = moved - moved.mean(axis=0)
        variance = (len(blocks) - 1) / len(blocks) * (spread**2).sum(axis=0)
        degrees = len(blocks) - count
    else:
        used = np.isfinite(fit.residuals) & (fit.weights > 0)
        degrees = int(used.sum()) - count
        errors = _standard_errors(fit.jacobian[used], fit.weights[used]) if degrees >= 1 else None
        if errors is None:
            return None
        variance = loss_of(fit.weights[used], fit.residuals[used]) / degrees * errors**2
    return np.asarray(student_t(degrees) * np.sqrt(variance + _jumps(fit) + _model(fit, layout)))


def _model(fit: Fit, layout: Layout) -> Floats:
    """Return the variance of the moves if prices are no better than `PART` of what was thought of them before."""
    errors = _standard_errors(fit.jacobian, prior_weights(layout)) if fit.numbers else None
    return np.zeros(len(fit.numbers)) if errors is None else np.asarray((PART * errors) ** 2)


def _jumps(fit: Fit) -> Floats:
    """Return the variance of the moves that stems from where the residuals leave their plane."""
    if fit.rough is None or not fit.numbers:
        return np.zeros(len(fit.numbers))
    shifts = np.array([_solve(fit.jacobian, rough, fit.weights) for rough in fit.rough])
    return np.asarray((shifts**2).sum(axis=0) / len(fit.numbers))
