"""The errors of a fit: on what it was made of, and on what was left out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from llmsim.calibration.fit import Fit, values_of
from llmsim.calibration.problem import Problem
from llmsim.calibration.source import Score

# Parts of a table of passes or kernels that are left out in turn; of one run it is its halves.
PARTS = 5


def errors_of(problem: Problem, values: Mapping[str, float]) -> dict[str, float]:
    """Return the median absolute error in percent of each quantity: over a source, then over sources."""
    return _medians(problem.play(index, values).scores for index in range(len(problem.sources)))


def held_out(problem: Problem, fit: Fit) -> dict[str, float]:
    """Return the errors on what was left out in turn: whole sources, or the parts of a single one.

    The numbers without a part come from one linear step away from the whole fit; the part is then replayed with them.
    Empty where there is nothing to leave out.
    """
    if not fit.numbers:
        return errors_of(problem, {})
    if len(problem.sources) > 1:
        folds = [
            problem.play(index, _without(fit, problem.layout.sources == index)).scores
            for index in range(len(problem.sources))
        ]
        return _medians(folds)
    blocks = np.unique(problem.layout.blocks)
    if len(blocks) < 2:
        return {}
    load = problem.layout.kinds[0] in ("ttft", "tpot")
    parts = np.array_split(blocks, 2) if load else [blocks[part::PARTS] for part in range(min(PARTS, len(blocks)))]
    left: list[Score] = []
    for part in parts:
        played = problem.play(0, _without(fit, np.isin(problem.layout.blocks, part)))
        left += [score for score in played.scores if score.block in part]
    return _medians([left])


def _without(fit: Fit, left_out: np.ndarray) -> dict[str, float]:
    return values_of(fit.numbers, fit.without(left_out))


def _medians(sources: Iterable[Iterable[Score]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for scores in sources:
        errors: dict[str, list[np.ndarray]] = {}
        for score in scores:
            errors.setdefault(score.quantity, []).append(score.errors)
        for quantity, several in errors.items():
            joined = np.concatenate(several)
            if len(joined):
                found.setdefault(quantity, []).append(float(np.median(np.abs(np.expm1(joined)))) * 100.0)
    return {quantity: float(np.median(values)) for quantity, values in found.items()}
