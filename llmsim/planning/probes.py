"""One probe of a search: a run that ends early once its objectives are out of reach, and what held its requests up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsim.errors import LlmsimError
from llmsim.results import occupancy
from llmsim.results.metrics import good, timings
from llmsim.results.records import Record

if TYPE_CHECKING:
    from llmsim.results.run import Run
    from llmsim.schema import Resolved
    from llmsim.simulation import Simulation

GOOD_SHARE = "good_share"
# Missed by a run that keeps its limits only because it ends before its queue has grown long enough.
SATURATED = "saturated"
# A cache this full has no room for the next prompt as often as not.
FULL = 0.95

_LATENCY = re.compile(r"(mean|median|p\d+(?:\.\d+)?)_(ttft|ttfn|tpot|e2el|queue_time)_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What came of one run of a search.

    Attributes:
        point: the values that were varied, by key.
        replication: its number.
        seed: of its random streams.
        status: ``met``; ``missed``; ``cut short``: missed, and ended as soon as that was sure; ``infeasible``; or
            ``stopped``: the time limit ended it before anything was sure.
        reason: why it is infeasible or stopped.
        values: the value of each objective; {} unless the run came to its end.
        ratios: value / target of each objective, or target / value of one that is a floor: above 1 it is missed.
        missed: the objectives that are out of reach, the worst first; `SATURATED`: see `run_probe`.
        waits: the parts (0..1) of the time with requests in a queue in which all seats were taken, the cache was
            full, or neither (the steps themselves are too slow): ``seats``, ``cache``, ``compute``.
        offered: requests per second of the whole run; None unless it came to its end.
        devices: of all replicas.
        prices: where the prices come from, and their error.
        notes: what limits the trust in the figures.
    """

    point: Mapping[str, Any]
    replication: int
    seed: int
    status: str
    reason: str = ""
    values: Mapping[str, float | None] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    missed: tuple[str, ...] = ()
    waits: Mapping[str, float] = field(default_factory=dict)
    offered: float | None = None
    devices: int | None = None
    prices: str = ""
    notes: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether every objective was met."""
        return self.status == "met"


class _OutOfReachError(Exception):
    """Ends a run whose objective can no longer be met; its message is the objective's name."""


def run_probe(
    scenario: Mapping[str, Any],
    point: Mapping[str, Any],
    replication: int,
    seed: int,
    attain: float,
    time_limit_s: float | None = None,
    steady: bool = False,
) -> Probe:
    """Simulate one point and hold it against the scenario's objectives.

    Arguments and result are plain data and nothing else is read, so that another process may do it as well.

    Args:
        scenario: what `Scenario.to_dict` gives; its ``slo`` and ``goodput`` are the objectives.
        point: values to lay over it, by key.
        replication: the number of the run, for the caller.
        seed: of all random streams.
        attain: the share of requests, of all that were sent, that must keep the limits of ``goodput``.
        time_limit_s: stop after this much wall-clock time.
        steady: whether a run whose queue never stops growing misses, whatever its limits say.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the run.
    """
    from llmsim.schema import load, resolve
    from llmsim.simulation import Simulation

    named: dict[str, Any] = {"point": dict(point), "replication": replication, "seed": seed}
    try:
        resolved = resolve(load(scenario).with_({**point, "seed": seed}))
        named["devices"] = resolved.replicas * resolved.plan.devices
        simulation = Simulation(resolved)
        stopped = simulation.run(_watch(simulation, resolved, attain), time_limit_s)
        if stopped == "interrupted":
            raise KeyboardInterrupt
    except _OutOfReachError as objective:
        return Probe(**named, status="cut short", missed=(str(objective),), waits=_waits(simulation))
    except LlmsimError as error:
        lines = [line for line in str(error).splitlines() if not line.startswith("hint: ")]
        return Probe(**named, status="infeasible", reason="; ".join(lines))
    run = simulation.result(resolved.scenario, stopped)
    if stopped is not None:
        return Probe(**named, status="stopped", reason=stopped, waits=_waits(simulation))
    values, ratios = held(run, attain)
    if steady and run.steadiness.saturated:
        ratios[SATURATED] = float("inf")
    missed = sorted((name for name in ratios if ratios[name] > 1.0), key=lambda name: -ratios[name])
    return Probe(
        **named,
        status="missed" if missed else "met",
        values=values,
        ratios=ratios,
        missed=tuple(missed),
        waits=_waits(simulation),
        offered=_offered(run.records),
        prices=run.setup.prices,
        notes=(*run.warnings, *run.notes()),
    )


def held(run: Run, attain: float) -> tuple[dict[str, float | None], dict[str, float]]:
    """Return the value of each objective of a run, and how far it is used up: above 1 it is missed.

    What could not be measured, because nothing finished, is missed.
    """
    values: dict[str, float | None] = {}
    ratios: dict[str, float] = {}
    for name, result in run.slo_results().items():
        value, target = result["value"], float(result["target"] or 0.0)
        values[name] = value
        ratios[name] = float("inf") if value is None else _ratio(value, target, met=bool(result["pass"]))
    if run.goodput:
        records = run.measured_records()
        count = int(good(timings(records), run.goodput).sum())
        values[GOOD_SHARE] = count / len(records) if records else None
        # How much of what may go wrong has gone wrong.
        allowed = (1.0 - attain) * len(records)
        bad = len(records) - count
        fails = count < attain * len(records) or not records
        used = bad / allowed if allowed else float(bad)
        ratios[GOOD_SHARE] = max(used, float(np.nextafter(1.0, 2.0))) if fails else min(used, 1.0)
    return values, ratios


def _ratio(value: float, target: float, *, met: bool) -> float:
    """Return how far an objective is used up; a ceiling that is met is above its value, a floor below it."""
    low, high = sorted((abs(value), abs(target)))
    if met:
        return low / high if high else 1.0
    # The next number above 1, so that a miss by rounding is a miss.
    return max(high / low if low else float("inf"), float(np.nextafter(1.0, 2.0)))


def _offered(records: Sequence[Record]) -> float | None:
    """Return the requests per second between the first and the last arrival."""
    moments = [record.arrival_s for record in records]
    span = max(moments) - min(moments) if moments else 0.0
    return (len(moments) - 1) / span if span > 0 else None


def _waits(simulation: Simulation) -> dict[str, float]:
    """Return what kept requests in the queues, as parts of the time in which there were any."""
    seats = simulation.resolved.options.max_num_seqs
    blocks = simulation.budget.blocks
    seconds = {"seats": 0.0, "cache": 0.0, "compute": 0.0}
    for engine in simulation.parts.engines:
        columns = engine.log.columns()
        starts, ends = occupancy.hold(engine.log)
        length = np.where(columns["waiting"] > 0, ends - starts, 0.0)
        seated = columns["running"] >= seats
        full = ~seated & (columns["blocks_used"] >= FULL * blocks)
        seconds["seats"] += float(length[seated].sum())
        seconds["cache"] += float(length[full].sum())
        seconds["compute"] += float(length[~seated & ~full].sum())
    whole = sum(seconds.values())
    return {name: value / whole for name, value in seconds.items()} if whole > 0 else {}


# ---------------------------------------------------------------------- ending early


def _watch(
    simulation: Simulation, resolved: Resolved, attain: float
) -> Callable[[int, int | None, float], None] | None:
    """Return what looks at the requests that have ended and ends a run that cannot meet an objective any more.

    A percentile p of n values lies at position (n - 1) p / 100 of their sorted list, so it is above its target as soon
    as more than n - 1 - floor((n - 1) p / 100) values are; a mean is, as soon as the sum so far is above n times the
    target.  Both grow with n, for which the most that can be measured is taken, so no run is ended that would have met
    its objectives.  None where the number of requests, or of those that warm up, is not known before the end.
    """
    expected = simulation.workload.expected_requests
    cold = resolved.warmup_requests
    if expected is None or cold is None:
        return None
    most = max(expected - cold, 1)
    limits = [_Limit(name, target, most) for name, target in resolved.slo.items() if _LATENCY.fullmatch(name)]
    allowed = (1.0 - attain) * most
    seen = bad = 0
    start_s = float("inf")

    def look(*_: object) -> None:
        nonlocal seen, bad, start_s
        records = simulation.records
        for record in records[seen:]:
            start_s = min(start_s, record.arrival_s)
            # A first arrival that has not ended yet lets too many count as warm-up, never too few.
            if simulation.place(record.id) < cold or record.arrival_s - start_s < resolved.warmup_s:
                continue
            for limit in limits:
                limit.take(record)
            bad += bool(resolved.goodput) and not _is_good(record, resolved.goodput)
        seen = len(records)
        for limit in limits:
            if limit.out_of_reach:
                raise _OutOfReachError(limit.name)
        if resolved.goodput and bad > allowed and most - bad < attain * most:
            raise _OutOfReachError(GOOD_SHARE)

    return look


class _Limit:
    """Counts the requests beyond one latency objective."""

    def __init__(self, name: str, target_ms: float, most: int) -> None:
        match = _LATENCY.fullmatch(name)
        assert match is not None
        self.name = name
        self._target_ms, self._metric = target_ms, match[2]
        self._is_mean = match[1] == "mean"
        percent = 50.0 if match[1] in ("mean", "median") else float(match[1][1:])
        self._allowed = target_ms * most if self._is_mean else most - 1 - floor((most - 1) * percent / 100)
        self._used = 0.0

    def take(self, record: Record) -> None:
        value_ms = _latency_ms(record, self._metric)
        if value_ms is None:
            return
        if self._is_mean:
            self._used += value_ms
        elif value_ms > self._target_ms:
            self._used += 1

    @property
    def out_of_reach(self) -> bool:
        """Whether nothing that may still come can bring it back; sums leave room for their rounding."""
        return self._used > self._allowed * (1 + 1e-9)


def _latency_ms(record: Record, metric: str) -> float | None:
    """Return a latency of a finished request, as `Timings` has it; None where it has none."""
    if record.status != "finished" or record.finished_s is None:
        return None
    if metric == "e2el":
        return (record.finished_s - record.arrival_s) * 1e3
    if metric == "queue_time":
        return None if record.admitted_s is None else (record.admitted_s - record.arrival_s) * 1e3
    if metric == "ttfn":
        return None if record.nth_token_s is None else (record.nth_token_s - record.arrival_s) * 1e3
    if record.first_token_s is None:
        return None
    if metric == "ttft":
        return (record.first_token_s - record.arrival_s) * 1e3
    if record.output_tokens <= 1:
        return None
    return (record.finished_s - record.first_token_s) / (record.output_tokens - 1) * 1e3


def _is_good(record: Record, goodput: Mapping[str, float]) -> bool:
    if record.status != "finished":
        return False
    return all((_latency_ms(record, name) or 0.0) <= limit_ms for name, limit_ms in goodput.items())
