"""A CPU host: a pool of cores that tokenizing and the engines' own threads share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import simpy

from llmsim.machine.clock import Clock


class CpuHost:
    """The cores of one host, a resource on the SimPy clock.

    Work for a request (tokenizing) queues for a core.  An engine keeps cores busy all the time that it
    runs (scheduling, launching, sampling, detokenizing); it registers how many.  While more cores are
    wanted than there are, the engines' host work is stretched by the ratio.

    The cores are a counter with a queue, and work is one event: with `simpy.Resource` it is four, and a
    simulated request would cost a tenth more.

    Args:
        clock: the simulated clock.
        name: name in the cluster's graph, such as ``n0.cpu``.
        cores: number of cores.
    """

    def __init__(self, clock: Clock, name: str, cores: int) -> None:
        self.clock = clock
        self.name = name
        self.cores = cores
        self.free = cores
        self.busy_s = 0.0
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self._demands: dict[int, tuple[float, Callable[[float], None]]] = {}

    @property
    def stretch(self) -> float:
        """By how much the engines' host work takes longer than it would alone; 1 while the cores suffice."""
        demand = sum(cores for cores, _ in self._demands.values())
        return max(1.0, demand / self.cores)

    def register(self, engine: int, cores: float, reprice: Callable[[float], None]) -> None:
        """Let an engine keep ``cores`` cores busy; ``reprice`` is told the stretch, now and when it changes."""
        before = self.stretch
        self._demands[engine] = (cores, reprice)
        if self.stretch == before:
            reprice(before)
        else:
            self._announce()

    def release(self, engine: int) -> None:
        """Give back the cores of an engine that stops."""
        before = self.stretch
        del self._demands[engine]
        if self.stretch != before:
            self._announce()

    def _announce(self) -> None:
        for _, reprice in list(self._demands.values()):
            reprice(self.stretch)

    def work(self, seconds: float, then: Callable[[], None]) -> None:
        """Run ``seconds`` of work on one core, first come, first served, and call ``then`` when it is done."""
        if self.free:
            self.free -= 1
            self._begin(seconds, then)
        else:
            self._queue.append((seconds, then))

    def _begin(self, seconds: float, then: Callable[[], None]) -> None:
        def end(_: simpy.Event) -> None:
            if self._queue:
                self._begin(*self._queue.popleft())
            else:
                self.free += 1
            then()

        self.busy_s += seconds
        self.clock.alarm(self.clock.now + seconds, end)
