"""How urgent a request is: the columns of a trace that say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from llmsim.errors import TraceError
from llmsim.workload.readers.rows import Row


@dataclass(frozen=True, slots=True)
class Urgency:
    """Which column means what, by name.

    ``deadline`` is a moment in seconds on the clock of the arrivals, ``slack`` the seconds from the arrival to the
    deadline; where a row has both, the slack holds.
    """

    priority: str | None = None
    deadline: str | None = None
    slack: str | None = None

    def mark(self, row: Row, cells: Mapping[str, object], place: str) -> Row:
        """Set the priority of ``row`` and the seconds from its arrival to its deadline, and return it.

        Raises:
            TraceError: a cell is broken, or there is a deadline and no arrival; the message gives row and column.
        """
        priority = _number(cells, self.priority, place)
        if priority is not None:
            if not priority.is_integer():
                raise TraceError(f"{place}: column {self.priority}: {priority:g} is not a whole number")
            row.priority = int(priority)
        row.slack_s = _number(cells, self.slack, place)
        deadline = _number(cells, self.deadline, place)
        if row.slack_s is None and deadline is not None:
            if row.time_ns is None:
                hint = "hint: a column slack_s counts from the arrival"
                raise TraceError(f"{place}: column {self.deadline}: means nothing without arrivals\n{hint}")
            row.slack_s = round(deadline * 1e9 - row.time_ns) / 1e9
        return row


def _number(cells: Mapping[str, object], name: str | None, place: str) -> float | None:
    """Return the number in a column, None for an empty cell."""
    value = None if name is None else cells.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(str(value))
        if isinstance(value, bool) or not isfinite(number):
            raise ValueError
    except ValueError:
        raise TraceError(f"{place}: column {name}: {str(value)[:40]!r} is not a number") from None
    return number
