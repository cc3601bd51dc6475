"""Leave one device, or one model, out: each is predicted with numbers of stacks that never saw it."""

from collections.abc import Mapping, Sequence

from llmsim.accuracy.fit import fit_all, with_numbers_of
from llmsim.accuracy.score import Prediction
from llmsim.accuracy.tables import device_of, model_of
from llmsim.performance.correction import relatives

OF = {"device": device_of, "model": model_of}


def leave_out(
    predictions: Sequence[Prediction], what: str, names: Mapping[str, Sequence[str]] | None = None
) -> list[Prediction]:
    """Return predictions in which every row is priced by stacks that were fitted without its device (or model).

    A stack that has too few rows left without it is priced without numbers of its own.

    Args:
        predictions: with their parts, made with the numbers that the catalogue has.
        what: ``device`` or ``model``.
        names: the free numbers by stack.
    """
    of = OF[what]
    made: dict[str, Prediction] = {}
    for held in sorted({of(one) for one in predictions if one.value is not None}):
        tested = [one for one in predictions if of(one) == held]
        wanted = {name for one in tested if one.stack for name in relatives(one.stack)}
        numbers = fit_all([one for one in predictions if of(one) != held and one.stack in wanted], names)
        for one in with_numbers_of(tested, numbers):
            made[one.row.id] = one
    return [made.get(one.row.id, one) for one in predictions]
