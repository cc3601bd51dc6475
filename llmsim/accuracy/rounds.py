"""Fits that are simulated: numbers from the parts of predictions, predictions with those numbers, and so on.

The parts tell a prediction under other numbers exactly for batches in lockstep, and to first order where the batches
themselves follow from the speed.  So a fit far from the numbers that were simulated is wrong by the second order; one
round later it starts from where it ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmsim.accuracy.fit import fit_all, loss, problem_of, with_numbers_of
from llmsim.accuracy.folds import Simulate
from llmsim.accuracy.score import Prediction, scored
from llmsim.performance.correction import StackCorrection, own_numbers

SAMPLE = 12  # rows of a cell, at most
MOST_ROUNDS = 6
# Numbers have settled when they move nine in ten of the predictions by less than this.
STILL = 0.01


@dataclass(frozen=True, slots=True)
class Fitted:
    """Numbers by stack; how many fits were simulated; by how much the last one moved nine in ten of its rows."""

    numbers: dict[str, StackCorrection]
    rounds: int
    moved: float

    @property
    def settled(self) -> bool:
        """Whether another fit would have left the predictions as they are."""
        return self.moved < STILL

    def __str__(self) -> str:
        times = "once" if self.rounds == 1 else f"{self.rounds} times"
        end = "settled" if self.settled else "not settled"
        return f"fitted and simulated {times}; the last fit moves nine in ten rows by {self.moved:.1%} or less: {end}"


def settle(
    predictions: Sequence[Prediction], simulate: Simulate, names: Mapping[str, Sequence[str]] | None = None
) -> Fitted:
    """Return the numbers of each stack that may have some, fitted and simulated in turn until they stay.

    Where they do not settle, a stack keeps those of its rounds whose simulated predictions were best.  At most `SAMPLE`
    rows of a cell take part, spread over the cell.

    Args:
        predictions: with their parts.
        simulate: how rows are predicted with other numbers.
        names: the free numbers by stack; None: those that the stacks' entries list.
    """
    now = sample([one for one in scored(predictions) if one.stack and _free(one.stack, names)])
    best: dict[str, tuple[float, StackCorrection]] = {}
    rounds, moved = 0, 0.0
    while rounds < MOST_ROUNDS:
        fitted = fit_all(now, names)
        after = with_numbers_of(now, fitted)
        changes = [abs(np.log(b.value / a.value)) for a, b in zip(now, after, strict=True) if a.value and b.value]
        moved = float(np.percentile(changes, 90)) if changes else 0.0
        if not fitted or (moved < STILL and rounds):
            break
        rows = [one.row for one in now if one.stack in fitted]
        now = simulate(rows, [fitted] * len(rows))
        rounds += 1
        for stack, value in _losses(now, fitted).items():
            if stack not in best or value < best[stack][0]:
                best[stack] = (value, fitted[stack])
    return Fitted({stack: numbers for stack, (_, numbers) in best.items()}, rounds, moved)


def sample(predictions: Sequence[Prediction], most: int = SAMPLE) -> list[Prediction]:
    """Return at most so many rows of each cell that were run, evenly spread over it in the order of the file."""
    cells: dict[tuple[str, ...], list[Prediction]] = {}
    for one in predictions:
        if one.value is not None:
            cells.setdefault((*one.row.cell, one.stack), []).append(one)
    chosen = set()
    for members in cells.values():
        count = min(most, len(members))
        chosen |= {members[index * len(members) // count].row.id for index in range(count)}
    return [one for one in predictions if one.row.id in chosen]


def _free(stack: str, names: Mapping[str, Sequence[str]] | None) -> bool:
    return bool(own_numbers(stack)) if names is None else stack in names


def _losses(predictions: Sequence[Prediction], fitted: Mapping[str, StackCorrection]) -> dict[str, float]:
    """Return the loss of each stack's predictions as they were simulated."""
    losses = {}
    for stack, numbers in fitted.items():
        problem = problem_of([one for one in predictions if one.stack == stack])
        if problem is not None:
            losses[stack] = loss(problem, numbers)
    return losses
