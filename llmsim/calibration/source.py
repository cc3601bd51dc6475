"""What a fit sees of a measured file: residuals that it makes small, and errors that are told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from llmsim.calibration.measured import Floats
from llmsim.performance.calibration import Range, corrected
from llmsim.schema import Resolved

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of one quantity, ln(predicted / measured), of one block of a source."""

    quantity: str
    block: int
    errors: Floats


@dataclass(frozen=True, slots=True)
class Played:
    """What a source gives for some numbers: ``residuals``, ln(predicted / measured), are nan without a prediction."""

    residuals: Floats
    scores: Sequence[Score]
    ranges: Mapping[str, Range] = field(default_factory=dict)


class Source(Protocol):
    """One measured run, or one table of passes or kernels.

    ``kinds`` says of each residual which quantity it is of (ttft, tpot, e2e, throughput, step, or an operator),
    ``blocks`` to which part of the source it belongs (0, 1, ...); parts can be left out.
    """

    name: str
    kinds: list[str]
    blocks: list[int]
    notes: list[str]

    def play(self, values: Values) -> Played:
        """Predict with these numbers, by name; those that are missing are as the stack has them."""
        ...


def with_values(resolved: Resolved, values: Values) -> Resolved:
    """Return a scenario, resolved, with numbers over those of its stack."""
    performance = resolved.performance
    stack = corrected(performance.correction, values)
    return replace(resolved, performance=replace(performance, correction=stack, calibration=None))
