"""`calibrate`: measured files and a scenario in, the few numbers of that stack out, with errors and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np

from llmsim.calibration.errors import errors_of, held_out
from llmsim.calibration.fit import (
    WIDEST,
    Fit,
    Number,
    difference,
    half_widths,
    identifiable,
    loss_of,
    prior_weights,
    reaching,
    solve,
    values_of,
)
from llmsim.calibration.measured import Floats, Load, Measured, Totals
from llmsim.calibration.problem import Problem, Progress, source_of
from llmsim.calibration.read import read
from llmsim.calibration.words import note_host, note_kept, notes_about
from llmsim.errors import InputError
from llmsim.performance.calibration import CLIENT, FACTORS, HOST, NUMBERS, Calibration, Errors, Estimate, Range
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.host_work import HostWork
from llmsim.schema import Resolved, Scenario, resolve
from llmsim.schema.calibrated import regime_of

# The order in which numbers are let in: where two look alike, the first one moves.
ORDER = ("memory", "compute", "communication", "step_us", CLIENT, "launch", "sequence_us")
# Causes that are let be when the interval holds where they were.
SMALLER = ("step_us", CLIENT, "launch", "sequence_us")
# Decode steps this much slower than predicted (ln units) may be bound by the host: the fit also starts from there.
SLOWER = 0.1
# A unit of host time is this share of a token's time; of a sequence's, at such a batch.
HOST_SHARE, MIDDLING_BATCH = 0.3, 16
# The other start is taken when it leaves less than this part of the squares.
BETTER = 0.7
# With less than this, both are as good as each other.
ALIKE = 1.5


@dataclass(frozen=True, slots=True)
class Found:
    """A calibration and what it took: ``evaluations`` of all measurements."""

    calibration: Calibration
    evaluations: int


def calibrate(measured: Sequence[str | Path], scenario: Scenario, *, progress: Progress | None = None) -> Found:
    """Fit the numbers of a stack to measured files.

    Args:
        measured: files, recognised by content (`llmsim.calibration.read`).
        scenario: the device, model and engine that were measured; its workload is only asked for lengths where a file
            has none.
        progress: called with the number of evaluations after each.

    Raises:
        InputError: a file is malformed or does not go with the scenario, or the scenario has a calibration already.
        InfeasibleError: the scenario cannot run.
    """
    resolved = resolve(scenario)
    if resolved.performance.calibration is not None:
        raise InputError("performance.calibration: one calibration does not lie over another\nhint: leave it out")
    if not measured:
        raise InputError("nothing was measured: no file")
    parts = [part for path in measured for part in read(path)]
    problem = Problem([source_of(part, resolved) for part in parts], progress)
    candidates = _candidates(parts, resolved)
    fit, kept = _best(problem, candidates, parts)
    fit, kept, widths = _narrow(problem, fit, kept)
    return Found(_calibration(problem, fit, kept, widths, candidates, resolved), problem.evaluations)


def _candidates(parts: Sequence[Measured], resolved: Resolved) -> list[Number]:
    """Return the numbers that such measurements could tell at all."""
    correction = resolved.performance.correction
    host = HostWork(
        Coefficients(resolved.device, resolved.performance.stack),
        0,
        eager=resolved.options.enforce_eager,
        correction=correction,
    )
    starts = {"step_us": host.step_s * 1e6, "sequence_us": host.sequence_s * 1e6}
    loads = [part for part in parts if isinstance(part, Load | Totals)]
    tokens = [one for one in (_token_us(part) for part in loads) if one]
    first = [_first_token_ms(part) for part in loads if not (isinstance(part, Load) and part.at_engine)]
    numbers = []
    for name in ORDER:
        if name == "communication" and resolved.plan.devices == 1:
            continue
        if name in HOST and tokens:
            share = HOST_SHARE if name == "step_us" else HOST_SHARE / MIDDLING_BATCH
            numbers.append(Number(name, starts[name], share * float(np.median(tokens))))
        elif name == CLIENT and any(first):
            numbers.append(Number(name, 0.0, float(np.median([one for one in first if one]))))
        elif name in FACTORS:
            numbers.append(Number(name, 1.0))
    return numbers


def _first_token_ms(part: Load | Totals) -> float:
    if isinstance(part, Load):
        return float(np.nanmedian(part.first_token)) * 1e3
    return next((value for name, value in part.metrics.items() if "ttft" in name), 0.0)


def _best(problem: Problem, candidates: list[Number], parts: Sequence[Measured]) -> tuple[Fit, dict[str, str]]:
    """Return the fit from where the stack stands, or from a host that bounds every step if that is far better."""
    plain = _attempt(problem, candidates)
    step = next((number for number in candidates if number.name == "step_us"), None)
    tokens = [_token_us(part) for part in parts if isinstance(part, Load | Totals)]
    tokens = [one for one in tokens if one]
    here = problem.residuals({})
    slow = [-here[index] for index, kind in enumerate(problem.layout.kinds) if kind == "tpot"]
    if step is None or not tokens or not slow or float(np.nanmedian(slow)) < SLOWER:
        return plain
    bound = Number("step_us", 0.9 * min(tokens), step.unit)
    others = [number for number in candidates if number.name != "step_us"]
    try:
        other = _attempt(problem, [bound, *others])
    except np.linalg.LinAlgError:
        return plain
    weights = prior_weights(problem.layout)
    ratio = loss_of(weights, other[0].residuals) / max(loss_of(weights, plain[0].residuals), 1e-9)
    if ratio < BETTER:
        return other
    if ratio < ALIKE and "step_us" in other[0].values and "step_us" in plain[1]:
        plain[1]["step_us"] = note_host(other[0].values["step_us"], list(plain[0].values))
    return plain


def _token_us(part: Load | Totals) -> float:
    if isinstance(part, Load):
        tail = (part.end_to_end - part.first_token)[part.outputs > 1] / (part.outputs[part.outputs > 1] - 1)
        return float(np.nanpercentile(tail, 10)) * 1e6 if np.isfinite(tail).any() else 0.0
    return next((value for name, value in part.metrics.items() if "tpot" in name), 0.0) * 1e3


def _attempt(problem: Problem, candidates: Sequence[Number]) -> tuple[Fit, dict[str, str]]:
    """Decide which numbers may move, move them, and decide again from there until all that moved can be told."""
    candidates = reaching(problem.residuals, candidates)
    start, weights = np.zeros(len(candidates)), prior_weights(problem.layout)
    here = problem.residuals(values_of(candidates, start))
    jacobian = difference(problem.residuals, {}, candidates, start, here)
    chosen, kept, mixed = identifiable(candidates, jacobian, weights)
    numbers = [candidates[index] for index in chosen]
    while True:
        fit = solve(problem.residuals, problem.layout, {}, numbers)
        chosen, more, partners = identifiable(numbers, fit.jacobian, weights)
        kept |= more
        mixed |= partners
        if not more:
            break
        numbers = [numbers[index] for index in chosen]
    return fit, {name: note_kept(name, why, mixed.get(name, ())) for name, why in kept.items()}


def _narrow(problem: Problem, fit: Fit, kept: dict[str, str]) -> tuple[Fit, dict[str, str], Floats | None]:
    """Drop, one by one, numbers whose interval says nothing, and smaller causes that need not move; fit again."""
    while True:
        widths = half_widths(fit, problem.layout)
        if widths is None or not len(widths):
            return fit, kept, widths
        worst = int(np.argmax(widths))
        why = "wide"
        if widths[worst] <= WIDEST:
            needed = [
                abs(move) / width if number.name in SMALLER else inf
                for number, move, width in zip(fit.numbers, fit.moves, widths, strict=True)
            ]
            worst, why = int(np.argmin(needed)), "needless"
            if needed[worst] >= 1.0:
                return fit, kept, widths
        name = fit.numbers[worst].name
        kept = {**kept, name: note_kept(name, why, ())}
        left = [number for index, number in enumerate(fit.numbers) if index != worst]
        fit = solve(problem.residuals, problem.layout, {}, left)


def _calibration(
    problem: Problem,
    fit: Fit,
    kept: Mapping[str, str],
    widths: Floats | None,
    candidates: Sequence[Number],
    resolved: Resolved,
) -> Calibration:
    from llmsim import __version__

    estimates = _estimates(fit, widths)
    estimates |= {one.name: Estimate(one.start, kept=kept[one.name]) for one in candidates if one.name in kept}
    ranges: dict[str, Range] = {}
    for index in range(len(problem.sources)):
        for name, one in problem.play(index, fit.values).ranges.items():
            ranges[name] = ranges[name].joined(one) if name in ranges else one
    regime = regime_of(resolved)
    before, after, outside = errors_of(problem, {}), errors_of(problem, fit.values), held_out(problem, fit)
    errors = {name: Errors(before[name], after[name], outside.get(name)) for name in before}
    notes = [note for source in problem.sources for note in source.notes]
    notes += notes_about(kept, ranges, errors, alone=len(problem.sources) == 1, widths=widths is not None)
    return Calibration(
        numbers={name: estimates[name] for name in NUMBERS if name in estimates},
        regime=replace(regime, ranges=ranges),
        errors=errors,
        notes=tuple(notes),
        measured=tuple(source.name for source in problem.sources),
        version=__version__,
    )


def _estimates(fit: Fit, widths: Floats | None) -> dict[str, Estimate]:
    """Return the fitted numbers with their intervals; those of factors are even in their logarithm."""
    found = {}
    for index, number in enumerate(fit.numbers):
        move = float(fit.moves[index])
        low = high = None
        if widths is not None:
            low, high = number.value(move - widths[index]), number.value(move + widths[index])
        found[number.name] = Estimate(number.value(move), low, high)
    return found
