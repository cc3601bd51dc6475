"""`simulate`: the one place that knows every part, lets the clock run, and hands back what came of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from simpy import Event
from simpy.core import EmptySchedule

from llmsim.assembly import Parts, describe
from llmsim.engine import Engine
from llmsim.errors import InputError, StalledError
from llmsim.fleet.routers import ROUTERS, Router
from llmsim.machine.clock import Clock
from llmsim.performance.memory import CacheBudget
from llmsim.performance.odometer import read_odometers
from llmsim.random import stream
from llmsim.results.records import Record
from llmsim.results.run import Run
from llmsim.workload.build import build
from llmsim.workload.request import Request

if TYPE_CHECKING:
    from llmsim.schema import Resolved, Scenario

Progress = Callable[[int, int | None, float], None]

# Looking at the wall clock costs as much as an event: once in this many is often enough.
EVENTS_PER_LOOK = 512


def simulate(
    scenario: Scenario | Resolved,
    *,
    leap: bool = True,
    progress: Progress | None = None,
    time_limit_s: float | None = None,
) -> Run:
    """Simulate a scenario and return what came of it; nothing is written.

    Args:
        scenario: what to simulate, from `llmsim.load` or `llmsim.scenario`.
        leap: whether to evaluate runs of equal steps at once; the records are the same either way.
        progress: called now and then with the requests that have ended, the requests expected (None:
            not known) and the simulated time.
        time_limit_s: stop after this much wall-clock time with what there is then.

    Raises:
        InputError: the scenario or its trace is wrong.
        InfeasibleError: the model or the plan does not fit the cluster.
        StalledError: requests wait and nothing can ever serve them.
    """
    simulation = Simulation(_resolved(scenario), leap=leap)
    stopped = simulation.run(progress, time_limit_s)
    return simulation.result(scenario, stopped)


def _resolved(scenario: Scenario | Resolved) -> Resolved:
    from llmsim.schema import Resolved, resolve

    return scenario if isinstance(scenario, Resolved) else resolve(scenario)


class Simulation:
    """One run: the parts, the workload that drives them, and the records that come out.

    Args:
        resolved: the scenario with every default filled in.
        leap: whether to leap.
    """

    def __init__(self, resolved: Resolved, *, leap: bool = True) -> None:
        self.resolved = resolved
        self.clock = Clock()
        self.records: list[Record] = []
        self.parts = Parts(resolved, self.clock, self._finish, leap=leap)
        self.workload = build(resolved.workload, seed=resolved.seed, max_model_len=resolved.options.max_model_len)
        self._router = _router(resolved)
        self._tokenize_s = resolved.scenario.performance.tokenize_us_per_token * 1e-6
        self._order: dict[str, int] = {}
        self._tokenizing: dict[str, tuple[Engine, Request]] = {}
        self._in_system = 0
        self._expected = 0
        self._feed: Iterator[Request] | None = None

    @property
    def budget(self) -> CacheBudget:
        """The KV-cache blocks of a replica, and where their number comes from."""
        return self.parts.budget

    @property
    def warnings(self) -> list[str]:
        """What is worth knowing before the run."""
        return self.parts.warnings

    # ------------------------------------------------------------------ running

    def run(self, progress: Progress | None, time_limit_s: float | None) -> str | None:
        """Let the clock run until every request has ended; return why it stopped before that, or None."""
        self._feed = self.workload.start()
        self._feed_next()
        # A run makes many objects that live and hardly any cycles: looking for cycles costs a seventh of a long
        # run and finds nothing.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._run(progress, time_limit_s)
        finally:
            if collecting:
                gc.enable()

    def _run(self, progress: Progress | None, time_limit_s: float | None) -> str | None:
        step = self.clock.step
        started = time.monotonic()
        try:
            while self._expected or self._in_system:
                for _ in range(EVENTS_PER_LOOK):
                    step()
                    if not self._expected and not self._in_system:
                        break
                if progress is not None:
                    progress(len(self.records), self.workload.expected_requests, self.clock.now)
                if time_limit_s is not None and time.monotonic() - started > time_limit_s:
                    return self._stop("time limit")
        except KeyboardInterrupt:
            return self._stop("interrupted")
        except EmptySchedule:
            raise StalledError(self._standstill()) from None
        return None

    def _stop(self, reason: str) -> str:
        """End the requests that are under way as cancelled records."""
        why = f"run stopped: {reason}"
        for engine in self.parts.engines:
            engine.withdraw(why)
        for engine, request in list(self._tokenizing.values()):
            engine.turn_away(request, "cancelled", why)
        return reason

    def _standstill(self) -> str:
        waiting = [f"replica {engine.replica}: {engine.load} requests" for engine in self.parts.engines if engine.load]
        return (
            f"nothing can happen any more at {self.clock.now:.6f} s, but requests are left ({'; '.join(waiting)})\n"
            "hint: the scheduler has stopped forming batches"
        )

    def _feed_next(self) -> None:
        """Set the alarm for the next arrival of the open part of the workload."""
        assert self._feed is not None
        request = next(self._feed, None)
        if request is not None:
            self._expected += 1
            self.clock.alarm(request.arrival_s, partial(self._arrive_and_feed, request))

    def _arrive_and_feed(self, request: Request, event: Event) -> None:
        self._feed_next()
        self._arrive(request, event)

    def _arrive(self, request: Request, _: Event) -> None:
        """Route a request; its prompt has been tokenized when it reaches the engine."""
        self._expected -= 1
        self._in_system += 1
        if request.id in self._order:
            raise InputError(f"workload: two requests have the id {request.id!r}")
        self._order[request.id] = len(self._order)
        engines = self.parts.ready or self.parts.engines
        engine: Any = engines[0] if len(engines) == 1 else self._router(request, engines)
        if self._tokenize_s:
            host = self.parts.host_of(engine.replica)
            self._tokenizing[request.id] = (engine, request)
            host.work(request.prompt_tokens * self._tokenize_s, partial(self._tokenized, request.id))
        else:
            engine.submit(request)

    def _tokenized(self, name: str) -> None:
        engine, request = self._tokenizing.pop(name)
        engine.submit(request)

    def _finish(self, record: Record) -> None:
        """Keep a record, and let the workload answer to it."""
        self.records.append(record)
        self._in_system -= 1
        for request in self.workload.on_end(record):
            self._expected += 1
            self.clock.alarm(max(request.arrival_s, self.clock.now), partial(self._arrive, request))

    # ------------------------------------------------------------------ results

    def result(self, scenario: Any, stopped: str | None) -> Run:
        """Return the run: records in the order of arrival, logs, odometers and facts."""
        resolved = self.resolved
        kinds, lanes = read_odometers(self.parts.engines, self.clock.now)
        self.records.sort(key=lambda record: self._order[record.id])
        warnings = [*self.parts.warnings, *self.workload.warnings]
        rejected = [record for record in self.records if record.status == "rejected"]
        if rejected:
            warnings.append(
                f"{len(rejected)} requests were rejected; the first, {rejected[0].id}: {rejected[0].reason}"
            )
        from llmsim.schema import resolved_yaml

        return Run(
            records=self.records,
            steps=[engine.log for engine in self.parts.engines],
            scenario=scenario,
            resolved_yaml=resolved_yaml(resolved),
            warnings=warnings,
            stopped=stopped,
            seed=resolved.seed,
            setup=describe(resolved, self.parts, self.workload.description),
            bill_kinds=kinds,
            lane_totals=lanes,
            clock_hz=resolved.device.clock_hz,
            percentiles=resolved.percentiles,
            goodput=resolved.goodput or None,
            slo=resolved.slo or None,
            warmup_requests=resolved.warmup_requests,
            warmup_s=resolved.warmup_s,
        )


def _router(resolved: Resolved) -> Router:
    """Return the router: one of our own by name, or the user's callable as ``module:name``."""
    from llmsim.schema.plugins import find

    if resolved.router in ROUTERS:
        return ROUTERS[resolved.router](stream(resolved.seed, "router"))
    router = find(resolved.router)
    # What a user names can be anything; a router is whatever can be called.
    return router() if isinstance(router, type) else router  # type: ignore[no-any-return]
