"""A CPU host: a pool of cores that tokenizing and the engines' own threads share."""

from __future__ import annotations

from collections.abc import Callable, Generator

import simpy

from llmsim.machine.clock import Clock


class CpuHost:
    """Cores of one host, as a SimPy resource.

    Work for a request (tokenizing) queues for a core.  An engine keeps cores busy all the time that it
    runs (scheduling, launching, sampling, detokenizing); it registers how many.  While more cores are
    wanted than there are, the engines' host work is stretched by the ratio.

    Args:
        clock: the simulated clock.
        name: name in the cluster's graph, such as ``n0.cpu``.
        cores: number of cores.
    """

    def __init__(self, clock: Clock, name: str, cores: int) -> None:
        self.clock = clock
        self.name = name
        self.cores = simpy.Resource(clock, capacity=cores)
        self.busy_s = 0.0
        self._demands: dict[int, tuple[float, Callable[[float], None]]] = {}

    @property
    def stretch(self) -> float:
        """By how much the engines' host work takes longer than it would alone; 1 while the cores suffice."""
        demand = sum(cores for cores, _ in self._demands.values())
        return max(1.0, demand / self.cores.capacity)

    def register(self, engine: int, cores: float, reprice: Callable[[float], None]) -> None:
        """Let an engine keep ``cores`` cores busy; ``reprice`` is told every change of the stretch."""
        before = self.stretch
        self._demands[engine] = (cores, reprice)
        self._announce(before)

    def release(self, engine: int) -> None:
        """Give back the cores of an engine that stops."""
        before = self.stretch
        del self._demands[engine]
        self._announce(before)

    def _announce(self, before: float) -> None:
        """Tell every engine of a stretch that has changed; a newcomer is told in any case."""
        now = self.stretch
        for _, reprice in list(self._demands.values()):
            reprice(now)

    def work(self, seconds: float, then: Callable[[], None]) -> None:
        """Run ``seconds`` of work on one core, first come, first served, and call ``then`` when it is done."""
        self.clock.process(self._work(seconds, then))

    def _work(self, seconds: float, then: Callable[[], None]) -> Generator[simpy.Event, None, None]:
        with self.cores.request() as core:
            yield core
            yield self.clock.timeout(seconds)
            self.busy_s += seconds
        then()
