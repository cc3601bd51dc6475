"""The simulated clock: SimPy's environment with alarms at absolute times."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush
from typing import Any

import simpy

# Whoever decides at a moment wants to know all that happens at that moment: decisions come after
# arrivals, whatever the order in which they were scheduled.
HAPPENS = 1
DECIDES = 2


class Alarm(simpy.Event):
    """An event at a fixed moment that calls one function; it can be called off."""

    __slots__ = ()

    def __init__(self, clock: Clock, call: Callable[[simpy.Event], None]) -> None:
        # What `simpy.Event` and `succeed` would set, at once.
        self.env = clock
        self.callbacks = [call]
        self._ok = True
        self._value = None

    def cancel(self) -> None:
        """Call the alarm off: its moment passes and nothing happens."""
        if self.callbacks:
            self.callbacks.clear()


class Clock(simpy.Environment):
    """A SimPy environment that also schedules at absolute times.

    SimPy schedules by delay, and ``now + (moment - now)`` need not be ``moment`` in floating point.  A
    step must end at the same moment whether it was waited for alone or within a leap, so alarms are
    set by the moment itself.
    """

    def alarm(self, moment_s: float, call: Callable[[simpy.Event], None], *, decides: bool = False) -> Alarm:
        """Call ``call`` at ``moment_s``, which must not lie in the past; after all that merely happens then."""
        alarm = Alarm(self, call)
        entry: Any = (moment_s, DECIDES if decides else HAPPENS, next(self._eid), alarm)
        heappush(self._queue, entry)
        return alarm
