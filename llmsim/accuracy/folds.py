"""Leave one device, or one model, out: each is predicted with numbers of stacks that never saw it."""

from collections.abc import Callable, Mapping, Sequence

from llmsim.accuracy.fit import fit_all, numbers_after, numbers_before, with_numbers_of
from llmsim.accuracy.measured import Row
from llmsim.accuracy.score import Prediction, device_of, model_of
from llmsim.performance.correction import StackCorrection, relatives, stack_of

OF: dict[str, Callable[[Prediction], str]] = {"device": device_of, "model": model_of}
_CATALOGUE: dict[str, Callable[[Prediction], str]] = {"device": lambda one: one.device, "model": lambda one: one.model}
# Rows and the numbers of stacks for each -> their predictions by simulation (`llmsim.accuracy.run.Simulator`).
Simulate = Callable[[Sequence[Row], Sequence[Mapping[str, StackCorrection]]], list[Prediction]]


def leave_out(
    predictions: Sequence[Prediction],
    what: str,
    names: Mapping[str, Sequence[str]] | None = None,
    simulate: Simulate | None = None,
) -> list[Prediction]:
    """Return predictions in which every row is priced by stacks that were fitted without its device (or model).

    A stack that has too few rows left without it is priced without numbers of its own.  Rows that the catalogue
    resolves to a held device (model) are left out of its fit under whatever name they stand.

    Args:
        predictions: with their parts, and the numbers that they were made with.
        what: ``device`` or ``model``.
        names: the free numbers by stack.
        simulate: how held rows are predicted again; None: from their parts, to first order.
    """
    held = fold_numbers(predictions, what, names)
    if simulate is None:
        return [with_numbers_of([one], held[one.row.id])[0] if one.row.id in held else one for one in predictions]
    # Rows whose numbers are the same as before need no other simulation.
    moved = [
        one for one in predictions
        if one.row.id in held and stack_of(one.stack, held[one.row.id]).correction != numbers_before(one)
    ]  # fmt: skip
    again = simulate([one.row for one in moved], [held[one.row.id] for one in moved])
    found = {one.row.id: one for one in again}
    return [found.get(one.row.id, one) for one in predictions]


def fold_numbers(
    predictions: Sequence[Prediction], what: str, names: Mapping[str, Sequence[str]] | None = None
) -> dict[str, dict[str, StackCorrection]]:
    """Return for each row that was run, by its id, its stack with the numbers that were fitted without its device."""
    of, catalogue = OF[what], _CATALOGUE[what]
    whole: dict[str, StackCorrection] | None = None
    numbers: dict[str, dict[str, StackCorrection]] = {}
    for held in sorted({of(one) for one in predictions if one.value is not None}):
        tested = [one for one in predictions if of(one) == held and one.value is not None]
        same = {catalogue(one) for one in tested if catalogue(one)}
        unseen = [one for one in predictions if of(one) != held and catalogue(one) not in same]
        wanted = {name for one in tested for name in relatives(one.stack)}
        # A stack that never ran on what is held has the same fit in this fold as with all rows.
        touched = {one.stack for one in predictions if of(one) == held or catalogue(one) in same}
        if whole is None and not wanted <= touched:
            whole = fit_all(predictions, names)
        fitted = fit_all([one for one in unseen if one.stack in wanted & touched], names)
        fitted |= {name: value for name, value in (whole or {}).items() if name in wanted - touched}
        for one in tested:
            numbers[one.row.id] = {one.stack: numbers_after(one.stack, fitted)}
    return numbers
