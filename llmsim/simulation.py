"""`simulate`: the one place that knows every part, lets the clock run, and hands back what came of it."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from simpy import Event
from simpy.core import EmptySchedule

from llmsim.assembly import Parts, describe
from llmsim.engine import Engine
from llmsim.errors import InputError, StalledError
from llmsim.fleet.routers import ROUTERS, Router
from llmsim.machine.clock import Clock
from llmsim.performance.calibration import Range
from llmsim.performance.memory import CacheBudget
from llmsim.performance.odometer import read_odometers
from llmsim.random import stream
from llmsim.results.reach import reach
from llmsim.results.records import Record
from llmsim.results.run import Run
from llmsim.schedulers.decision_log import DecisionLog
from llmsim.schedulers.first_tokens import FirstTokens
from llmsim.schedulers.observed import Observed
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
    scheduler: Callable[..., Any] | None = None,
    leap: bool = True,
    progress: Progress | None = None,
    time_limit_s: float | None = None,
    decisions: str | Path | None = None,
) -> Run:
    """Simulate a scenario and return what came of it; nothing is written.

    Args:
        scenario: what to simulate, from `llmsim.load` or `llmsim.scenario`.
        scheduler: a scheduler's class (or function, or `functools.partial` with settings), in place of the
            scenario's; the run's own scenario, its hash and its files name it as ``module:Class``.
        leap: whether to evaluate runs of equal steps at once; the records are the same either way.
        progress: called now and then with the requests that have ended, the requests expected (None:
            not known) and the simulated time.
        time_limit_s: stop after this much wall-clock time with what there is then.
        decisions: a file for the decision log, one JSON line for each step of an engine (docs/cli.md);
            compressed if it ends in .gz.  A run that is logged so is stepped, not leapt.

    Raises:
        InputError: the scenario or its trace is wrong, or the decision log cannot be written.
        InfeasibleError: the model or the plan does not fit the cluster.
        StalledError: requests wait and nothing can ever serve them.
    """
    resolved = _resolved(scenario, scheduler)
    if scheduler is not None:
        scenario = resolved.scenario
    simulation = Simulation(resolved, leap=leap and decisions is None)
    if decisions is None:
        stopped = simulation.run(progress, time_limit_s)
    else:
        from llmsim.results.decisions import decision_file

        with decision_file(decisions) as write:
            simulation.log_decisions(write)
            stopped = simulation.run(progress, time_limit_s)
    return simulation.result(scenario, stopped)


def _resolved(scenario: Scenario | Resolved, scheduler: Callable[..., Any] | None) -> Resolved:
    from llmsim.schema import Resolved, resolve

    if not isinstance(scenario, Resolved):
        return resolve(scenario, scheduler=scheduler)
    return scenario if scheduler is None else resolve(scenario.scenario, scheduler=scheduler)


class Simulation:
    """One run: the parts, the workload that drives them, and the records that come out.

    Args:
        resolved: the scenario with every default filled in.
        leap: whether to leap.
    """

    def __init__(self, resolved: Resolved, *, leap: bool = True, costs: dict[Any, Any] | None = None) -> None:
        self.resolved = resolved
        self.clock = Clock()
        self.records: list[Record] = []
        self.parts = Parts(resolved, self.clock, self._finish, leap=leap, costs=costs)
        self.workload = build(resolved.workload, seed=resolved.seed, max_model_len=resolved.options.max_model_len)
        self._router = _router(resolved)
        self._nth_token_s = self._watch_first_tokens(resolved)
        self._tokenize_s = resolved.scenario.performance.tokenize_us_per_token * 1e-6
        calibration = resolved.performance.calibration
        self.client_s = 0.0 if calibration is None else calibration.client_s
        if self._tokenize_s:  # else requests are token ids, and go straight into the engine
            self.client_s += resolved.performance.correction.request_us * 1e-6
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

    def place(self, name: str) -> int:
        """Return the place of a request in the order of arrival, from 0."""
        return self._order[name]

    def log_decisions(self, write: Callable[[dict[str, Any]], None]) -> None:
        """Let ``write`` have a line for each step of each replica (`llmsim.schedulers.decision_log`)."""
        for engine in self.parts.engines:
            log = DecisionLog(engine.scheduler, engine.pool, engine.replica, write)
            engine.scheduler = Observed(engine.scheduler, [log])

    def _watch_first_tokens(self, resolved: Resolved) -> dict[str, float] | None:
        """Have it noted when the first N tokens of each request are out, where the scenario asks for that."""
        if resolved.first_tokens is None or resolved.options.prefill_only:
            return None
        moments: dict[str, float] = {}
        for engine in self.parts.engines:
            watch = FirstTokens(resolved.first_tokens, moments, interval=resolved.options.stream_interval)
            engine.scheduler = Observed(engine.scheduler, [watch])
        return moments

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
            with _interrupts() as interrupted:
                return self._run(progress, time_limit_s, interrupted)
        finally:
            if collecting:
                gc.enable()

    def _run(self, progress: Progress | None, time_limit_s: float | None, interrupted: list[int]) -> str | None:
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
                if interrupted:
                    return self._stop("interrupted")
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
        engine.load += 1  # routers see it there from now on
        if self.client_s:
            # The way there and back, both before the server: what a client sees is the same.
            self._tokenizing[request.id] = (engine, request)
            self.clock.alarm(self.clock.now + self.client_s, partial(self._reach, engine, request))
        else:
            self._take(engine, request)

    def _reach(self, engine: Engine, request: Request, _: Event) -> None:
        if self._tokenizing.pop(request.id, None) is not None:
            self._take(engine, request)

    def _take(self, engine: Engine, request: Request) -> None:
        """Hand a request to a replica, by way of its tokenizer."""
        if self._tokenize_s:
            host = self.parts.host_of(engine.replica)
            self._tokenizing[request.id] = (engine, request)
            host.work(request.prompt_tokens * self._tokenize_s, partial(self._tokenized, request.id))
        else:
            _submit(engine, request)

    def _tokenized(self, name: str) -> None:
        _submit(*self._tokenizing.pop(name))

    def _finish(self, record: Record) -> None:
        """Keep a record, and let the workload answer to it."""
        if self._nth_token_s is not None and record.status == "finished":
            record.nth_token_s = self._nth_token_s.pop(record.id, None)
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
        pieces: dict[str, list[tuple[int, int]]] = {}
        for engine in self.parts.engines:
            moments = engine.timeline.stage_moments
            if moments is not None:
                # What is still in the pipeline has no row.
                stages = np.array(moments).reshape(-1, len(engine.costs), 2)
                engine.log.stage_moments = stages[: len(engine.log)]
            ended = zip(engine.ended, engine.rows, strict=True)
            pieces |= {record.id: rows for record, rows in ended if record.preemptions and rows}
        self.records.sort(key=lambda record: self._order[record.id])
        warnings = [*self.parts.warnings, *self.workload.warnings, *self._outside()]
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
            first_tokens=resolved.first_tokens,
            warmup_requests=resolved.warmup_requests,
            warmup_s=resolved.warmup_s,
            pieces=pieces,
            joined=list(getattr(self.workload, "joined", ())),
        )

    def _outside(self) -> list[str]:
        """Return a warning for all in which the run left the regime of its calibration."""
        calibration = self.resolved.performance.calibration
        if calibration is None:
            return []
        logs = [engine.log for engine in self.parts.engines]
        ranges = {name: Range(*span) for name, span in reach(self.records, logs).items()}
        told = calibration.regime.outside(ranges)
        return [f"outside of the calibration's regime: {one}: its error is not known here" for one in told]


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note the first Ctrl-C in a list, to be looked at between events; the second one interrupts at once.

    An interrupt that strikes within an event would lose the request that the event is about.  Other threads, and
    programs with a handler of their own, keep what they have.
    """
    seen: list[int] = []
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def note(number: int, frame: Any) -> None:
        if seen:
            signal.default_int_handler(number, frame)
        seen.append(number)

    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _submit(engine: Engine, request: Request) -> None:
    """Hand a request to its engine, which counts it itself from now on."""
    engine.load -= 1
    engine.submit(request)


def _router(resolved: Resolved) -> Router:
    """Return the router: one of our own by name, or the user's callable as ``module:name``."""
    from llmsim.schema.plugins import find

    if resolved.router in ROUTERS:
        return ROUTERS[resolved.router](stream(resolved.seed, "router"))
    router = find(resolved.router)
    # What a user names can be anything; a router is whatever can be called.
    return router() if isinstance(router, type) else router  # type: ignore[no-any-return]
