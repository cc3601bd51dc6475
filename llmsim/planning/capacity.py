"""`capacity`: how much load a deployment carries under its objectives, or how little of a deployment carries a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsim.checkpoints import Checkpoint
from llmsim.errors import ScenarioError
from llmsim.planning.answer import Capacity
from llmsim.planning.bisection import Bisection
from llmsim.planning.plans import cheapest, most_replicas
from llmsim.planning.searching import Progress, Runner, about, breaks_first, drive, fewest, mean_waits
from llmsim.results.intervals import Interval, mean_interval
from llmsim.sweeps import is_random, replication_seed

if TYPE_CHECKING:
    from llmsim.schema import Resolved, Scenario

FINDS = ("rate", "replicas", "gpus", "plan")
DEFAULT_REPLICATIONS = 3
# Objectives that get better with more load: a search for the highest load has no answer under them.
_FLOORS = ("throughput", "goodput", "max_output_tokens_per_s", "completed")


def capacity(
    scenario: Scenario,
    slo: Mapping[str, float] | None = None,
    *,
    find: str = "rate",
    goodput: Mapping[str, float] | None = None,
    attain: float = 0.99,
    low: float | None = None,
    high: float | None = None,
    tolerance: float = 0.02,
    replications: int | None = None,
    price: float | Mapping[str, float] | None = None,
    n_jobs: int = 1,
    backend: str | None = None,
    time_limit_s: float | None = None,
    confidence: float = 0.95,
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
) -> Capacity:
    """Search for the highest load under objectives, or for the smallest deployment that carries the scenario's load.

    ``rate``: the highest request rate; for a trace that keeps its times, the highest speedup; for a closed loop, the
    most users.  ``replicas``: the fewest engines.  ``gpus``: the fewest devices, over all plans of tensor and
    pipeline parallelism within a node and their replicas; ``plan``: the same by price.

    Every replication has its own search by bisection, on the same random streams at every value (common random
    numbers): from its highest loads come the answer and its interval.  A run ends as soon as an objective is out
    of reach, which changes no verdict, so probes far beyond the answer cost little.  A run at a rate whose queue never
    stops growing misses (``saturated``) even where it ends before its limits are broken.  That more load is never
    better is taken for granted; where it is not so, the answer is one of the points at which the verdict changes.

    Args:
        scenario: what is asked about.
        slo: limits by metric, such as ``{"p99_ttft_ms": 500}``; None: those of the scenario.
        find: ``rate``, ``replicas``, ``gpus`` or ``plan``.
        goodput: the most milliseconds of a good request by metric, with vLLM's meaning; None: the scenario's.
        attain: the share of all requests that must be good, where there is a ``goodput``.
        low: the lowest value tried; None: a millionth of where the search starts (1 for whole numbers).
        high: the highest value tried; None: a million times that (replicas: what the cluster holds, or 64).
        tolerance: how close the search comes, as a share of the answer.
        replications: how many; None: 3, or 1 where nothing is random.
        price: of one device an hour, or of each kind of device (these are searched) for ``plan``.
        n_jobs: how many processes run side by side; -1: one for each core.
        backend: joblib's backend.
        time_limit_s: a run that takes longer counts as missed, and the answer says so.
        confidence: of the interval.
        checkpoint: a file that takes each run as it ends; runs that it already has are not simulated again.
        progress: called with the runs that are done, and what the last ones were about.

    Raises:
        ScenarioError: there is no objective, or a value or the scenario is wrong, or it has no load to vary.
        InfeasibleError: the deployment cannot run at all.
    """
    from llmsim.schema import resolve

    base = _with_objectives(scenario, slo, goodput)
    _check(base, find, attain, low, high, tolerance, price)
    resolved = resolve(base)
    key, unit, start, whole = load_of(resolved)
    # All at once, or a trace, is what it is; arrivals at a rate are meant to go on.
    steady = key == "workload.arrival.request_rate" and (find == "rate" or isfinite(start))
    # What comes all at once here comes at random moments as soon as it comes at a rate.
    probed = base.with_({key: start if isfinite(start) else 1.0}) if find == "rate" and steady else base
    seeds, notes = _seeds(resolved if probed is base else resolve(probed), replications)
    runner = Runner(
        told=base.to_dict(), seeds=seeds, attain=attain, steady=steady, n_jobs=n_jobs, backend=backend,
        time_limit_s=time_limit_s, progress=progress,
        keep=Checkpoint(checkpoint, {"scenario": base.to_dict(), "attain": attain, "steady": steady}, whose="search"),
    )  # fmt: skip
    if find in ("gpus", "plan"):
        return cheapest(runner, base, resolved, find=find, price=price, most=_whole(high), notes=notes)
    if find == "replicas":
        return fewest(runner, {}, most=_whole(high) or most_replicas(resolved), least=_whole(low) or 1, notes=notes)
    bounds: dict[str, Any] = {"low": low, "high": high, "tolerance": tolerance, "whole": whole}
    searches = [Bisection(start if isfinite(start) else 1.0, **bounds) for _ in seeds]
    drive(searches, runner, lambda value: {key: int(value) if whole else value}, lambda probe: probe.met)
    return _highest(searches, runner, key, unit, confidence, notes)


def _highest(
    searches: Sequence[Bisection], runner: Runner, key: str, unit: str, confidence: float, notes: list[str]
) -> Capacity:
    """Return the answer to a search for the highest load."""
    each = tuple(search.holds for search in searches)
    outcomes = {search.outcome for search in searches}
    known = [value or 0.0 for value in each]
    interval = mean_interval(known, confidence=confidence) if len(known) > 1 else Interval(known[0], -1.0, -1.0, 1)
    outcome = "found"
    if outcomes == {"never"}:
        outcome = "never"
    elif "always" in outcomes:
        outcome = "always"
        notes = [*notes, f"{sum(s.outcome == 'always' for s in searches)} of {len(searches)} replications never missed"]
    elif "never" in outcomes:
        notes = [*notes, "replications in which no load meets the objectives count as 0"]
    beyond = [probe for number, search in enumerate(searches) for probe in runner.probes
              if probe.replication == number and search.fails == float(probe.point[key])]  # fmt: skip
    several = len(known) > 1 and outcome != "never"
    return Capacity(
        find="rate", key=key, unit=unit, confidence=confidence, outcome=outcome, each=each,
        answer=None if outcome == "never" else interval.estimate,
        low=interval.low if several else None, high=interval.high if several else None,
        binding=breaks_first(beyond), waits=mean_waits(beyond), probes=tuple(runner.probes),
        notes=(*notes, *about(runner.probes)),
    )  # fmt: skip


def load_of(resolved: Resolved) -> tuple[str, str, float, bool]:
    """Return key, unit, starting value and wholeness of the load of a scenario: a rate, a speedup, or users.

    Raises:
        ScenarioError: it has no load to vary.
    """
    from llmsim.workload.presets import filled

    spec = filled(resolved.workload)
    if spec.sessions is not None and spec.sessions.get("users") is not None:
        return "workload.sessions.users", "users", float(spec.sessions["users"]), True
    if spec.closed_loop is not None and spec.arrival is None:
        return "workload.closed_loop.concurrency", "users", float(spec.closed_loop["concurrency"]), True
    if spec.trace is not None and spec.arrival is None:
        return "workload.trace.speedup", "x the trace's speed", float(spec.trace.get("speedup", 1.0)), False
    arrival = spec.arrival or {}
    rate = float(arrival.get("request_rate") or 1.0)
    if not isfinite(rate) and arrival.get("max_concurrency") is not None:
        return "workload.arrival.max_concurrency", "users", float(arrival["max_concurrency"]), True
    return "workload.arrival.request_rate", "requests/s", rate, False


def _with_objectives(
    scenario: Scenario, slo: Mapping[str, float] | None, goodput: Mapping[str, float] | None
) -> Scenario:
    """Return the scenario with the objectives of this question."""
    if slo is None and goodput is None:
        chosen = scenario
    else:
        # What is asked here stands alone: an objective of the file must not answer in its place.
        chosen = scenario.with_({"slo": dict(slo or {}), "goodput": dict(goodput or {})})
    if not chosen.slo and not chosen.goodput:
        raise ScenarioError('capacity: no objective\nhint: slo={"p99_ttft_ms": 500}, or goodput={"ttft": 500}')
    return chosen


def _check(
    scenario: Scenario, find: str, attain: float, low: float | None, high: float | None, tolerance: float, price: Any
) -> None:
    if find not in FINDS:
        raise ScenarioError(f"capacity: find: unknown (got {find!r})\nhint: one of {', '.join(FINDS)}")
    if not 0.0 < attain <= 1.0:
        raise ScenarioError(f"capacity: attain: a share above 0, at most 1 (got {attain})")
    if not 0.0 < tolerance < 1.0:
        raise ScenarioError(f"capacity: tolerance: a share between 0 and 1 (got {tolerance})")
    for name, value in (("low", low), ("high", high)):
        if value is not None and not (value > 0.0 and isfinite(value)):
            raise ScenarioError(f"capacity: {name}: not a positive number (got {value})")
        if value is not None and find != "rate" and value != int(value):
            raise ScenarioError(f"capacity: {name}: not a whole number of {find} (got {value})")
    if low is not None and high is not None and low > high:
        raise ScenarioError(f"capacity: low is above high (got {low:g} and {high:g})")
    if price is not None and find not in ("plan", "gpus"):
        raise ScenarioError(f"capacity: price goes with find='plan' (got find={find!r})")
    floors = [name for name in scenario.slo if any(part in name for part in _FLOORS)]
    if find == "rate" and floors:
        raise ScenarioError(
            f"capacity: {floors[0]} grows with the load, so it says nothing of the highest one\n"
            "hint: limits of latencies, or a goodput with attain; throughputs go with find='replicas', 'gpus' or 'plan'"
        )


_NOTHING_RANDOM = (
    "nothing is random here, so one replication says all: no interval "
    "(workload.trace.resample=60s makes other days like that of a trace)"
)


def _seeds(resolved: Resolved, replications: int | None) -> tuple[tuple[int, ...], list[str]]:
    """Return the seeds of the replications, and a note where there can be only one."""
    if replications is not None and replications < 1:
        raise ScenarioError(f"capacity: replications must be at least 1 (got {replications})")
    count = DEFAULT_REPLICATIONS if replications is None else replications
    seeds = tuple(replication_seed(resolved.seed, number) for number in range(count))
    if count == 1:
        return seeds, ["one replication: no interval"]
    if is_random(resolved, seeds):
        return seeds, []
    if replications is not None:
        raise ScenarioError(
            "capacity: replications: nothing is random here, so all would be the same\n"
            "hint: replications=1; or give a trace resample, jitter_s or thin; or generate arrivals or lengths"
        )
    return seeds[:1], [_NOTHING_RANDOM]


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
