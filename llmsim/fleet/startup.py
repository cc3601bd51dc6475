"""Replicas that start cold: each copies its weights over the hosts' links before it computes."""

from __future__ import annotations

from collections.abc import Callable

from simpy import Event

from llmsim.engine import Engine
from llmsim.machine.clock import Clock
from llmsim.machine.devices import DeviceGroup, when_all


class ColdStart:
    """Starts replicas one after the other.

    Args:
        clock: the simulated clock.
        interval_s: seconds between the starts of two replicas.
    """

    def __init__(self, clock: Clock, interval_s: float = 0.0) -> None:
        self.clock = clock
        self.interval_s = interval_s
        self.started_s: dict[int, float] = {}
        self.ready_s: dict[int, float] = {}

    def begin(
        self, engine: Engine, groups: list[DeviceGroup], bytes_each: list[float], ready: Callable[[Engine], None]
    ) -> None:
        """Load ``bytes_each`` on every device of each group when the replica's turn comes, then open it.

        All weights come from the memory of the devices' own host, at the same time; what else goes over
        those links slows them down.
        """
        engine.close()

        def load(_: Event) -> None:
            self.started_s[engine.replica] = self.clock.now
            transfers = [event for group, size in zip(groups, bytes_each, strict=True) for event in group.load(size)]
            when_all(transfers, done)

        def done() -> None:
            self.ready_s[engine.replica] = self.clock.now
            engine.open()
            ready(engine)

        self.clock.alarm(engine.replica * self.interval_s, load)
