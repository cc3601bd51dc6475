"""`sweep`: one scenario at every point of a grid, with replications, as a tidy table."""

import itertools
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsim.checkpoints import Checkpoint
from llmsim.errors import InfeasibleError, LlmsimError, ScenarioError
from llmsim.results.records import Record
from llmsim.side_by_side import side_by_side

if TYPE_CHECKING:
    import pandas

    from llmsim.schema import Resolved, Scenario
    from llmsim.workload.protocol import Workload
    from llmsim.workload.request import Request

OWN_COLUMNS = ("replication", "seed", "status", "reason", "prices", "saturated", "devices")
# What `simulate` says of a run that Ctrl-C ended.
INTERRUPTED = "interrupted"
# Routers that pick a replica without drawing from the run's random streams.
_STEADY_ROUTERS = ("round_robin", "least_requests")

Point = dict[str, Any]
Row = dict[str, Any]


def sweep(
    scenario: "Scenario",
    over: Mapping[str, Iterable[Any]] | Sequence[Mapping[str, Any]],
    *,
    replications: int | None = 1,
    n_jobs: int = 1,
    backend: str | None = None,
    time_limit_s: float | None = None,
    checkpoint: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "pandas.DataFrame":
    """Simulate ``scenario`` at every point of a grid, and return one row for each point and replication.

    Columns: the swept keys as given, ``replication``, ``seed``, ``status``, ``reason``, ``prices`` (the layer of
    knowledge that the prices come from, and its error), ``saturated`` (whether the queue never stopped growing; None:
    not known), ``devices`` (of all replicas), then the metrics of `Run.metrics`, all as floats.  Rows are in the order
    of the grid, the last key of ``over`` changing fastest, and the replications of a point stand together.

    ``status`` is ``ok``; ``infeasible``: the point cannot be simulated, its metrics are NaN and ``reason`` says
    why; or ``stopped``: ``time_limit_s`` or Ctrl-C ended the run, its metrics are those of what had finished.
    After Ctrl-C the points that were not begun are rows too.  The ``reason`` of an ``ok`` row is empty.

    Replication 0 has the seed of the scenario, so its rows are what `simulate` gives; the seeds of the others
    follow from it.  All points have the same seeds, so they face the same random streams and what differs
    between two points is their doing (common random numbers).

    Args:
        scenario: what all points share.
        over: the values of each swept key; a key is dotted (``engine.max_num_seqs``) or short (``request_rate``).  Or a
            list of points, each with the values of its own keys; what a point leaves out is None in the table.
        replications: how often to simulate each point, each time with another seed; None: see `usual_replications`.
        n_jobs: how many processes simulate side by side; -1: one for each core.  The table is the same for any number.
        backend: joblib's backend: ``loky`` (the default), ``multiprocessing``, ``threading``, or one that joblib or a
            library has registered, such as ``dask`` or ``ray``.
        time_limit_s: stop a run after this much wall-clock time.
        checkpoint: a file that takes each run as it ends; runs that it already has are not simulated again.
        progress: called with the runs that are done and the runs in all, after each run.

    Raises:
        ScenarioError: a key is unknown, a value has the wrong type, no point can be read, or replications are
            asked of a point in which nothing is random, so that they would all be the same; or the number of jobs
            or the backend is not one that joblib knows.
    """
    points = _points(over) if isinstance(over, Sequence) else list(_grid(over))
    asked = replications is not None
    if replications is None:
        replications = usual_replications(scenario, points)
    if replications < 1:
        raise ScenarioError(f"sweep: replications must be at least 1 (got {replications})")
    keys = list(dict.fromkeys(key for point in points for key in point))
    seeds = [replication_seed(scenario.seed, number) for number in range(replications)]
    # Nobody asked: the usual number has looked for randomness already.
    names = _examine(scenario, points, seeds[:2] if asked else ())
    told = scenario.to_dict()
    jobs = [(point, number, seed) for point in points for number, seed in enumerate(seeds)]
    keep = Checkpoint(checkpoint, told)
    left = [(_plain(point), seed) for point, _, seed in jobs if keep.find(_plain(point), seed) is None]
    came = _run_jobs(told, left, time_limit_s, n_jobs, backend)
    rows: list[Row] = []
    for point, number, seed in jobs:
        result = keep.find(_plain(point), seed)
        if result is None:
            result = next(came)
            keep.add(_plain(point), seed, result)
        known = {**dict.fromkeys(keys), **point, "replication": number, "seed": seed, "prices": "", "saturated": None}
        rows.append({**known, "devices": None, **result})
        if progress is not None:
            progress(len(rows), len(jobs))
    return _table(rows, [*keys, *OWN_COLUMNS], names)


def _run_jobs(
    told: Mapping[str, Any],
    jobs: Sequence[tuple[Point, int]],
    time_limit_s: float | None,
    n_jobs: int,
    backend: str | None,
) -> Iterator[Row]:
    """Yield what came of each job, in their order; after Ctrl-C the rest comes back as stopped."""
    came = (
        _one_by_one(told, jobs, time_limit_s)
        if n_jobs == 1 and backend is None
        else _side_by_side(told, jobs, time_limit_s, n_jobs, backend)
    )
    done = 0
    # Ctrl-C before or after the clock of a run ticks does not come back as a run.
    with suppress(KeyboardInterrupt):
        for row in came:
            done += 1
            yield row
            if row["reason"] == INTERRUPTED:
                break
    yield from ({"status": "stopped", "reason": INTERRUPTED} for _ in jobs[done:])


def _one_by_one(
    told: Mapping[str, Any], jobs: Sequence[tuple[Point, int]], time_limit_s: float | None
) -> Iterator[Row]:
    return (run_point(told, point, seed, time_limit_s=time_limit_s) for point, seed in jobs)


def _side_by_side(
    told: Mapping[str, Any],
    jobs: Sequence[tuple[Point, int]],
    time_limit_s: float | None,
    n_jobs: int,
    backend: str | None,
) -> Iterator[Row]:
    """Run the jobs in joblib's workers."""
    whole = [(told, point, seed, time_limit_s) for point, seed in jobs]
    return side_by_side(_run_job, whole, n_jobs=n_jobs, backend=backend, what="sweep")


def _run_job(told: Mapping[str, Any], point: Point, seed: int, time_limit_s: float | None) -> Row:
    return run_point(told, point, seed, time_limit_s=time_limit_s)


def run_point(
    scenario: Mapping[str, Any], point: Mapping[str, Any], seed: int, *, time_limit_s: float | None = None
) -> Row:
    """Simulate one point and return status, reason and metrics.

    Arguments and result are plain data and nothing else is read, so that another process may do it as well.

    Args:
        scenario: what `Scenario.to_dict` gives.
        point: values to lay over it, by key.
        seed: of all random streams.
        time_limit_s: stop after this much wall-clock time.
    """
    from llmsim.schema import load, resolve
    from llmsim.simulation import simulate

    try:
        resolved = resolve(load(scenario).with_({**point, "seed": seed}))
        run = simulate(resolved, time_limit_s=time_limit_s)
    except LlmsimError as error:
        return {"status": "infeasible", "reason": _reason(error)}
    told = {"status": "stopped" if run.stopped else "ok", "reason": run.stopped or "", "prices": run.setup.prices}
    devices = resolved.replicas * resolved.plan.devices
    return {**told, "saturated": run.steadiness.saturated, "devices": devices, **run.metrics}


def replication_seed(seed: int, number: int) -> int:
    """Return the seed, 0 to 2**32 - 1, of replication ``number`` of a scenario with ``seed``; ``seed`` itself for 0."""
    if number == 0:
        return seed
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(b"replication"), number))
    return int(sequence.generate_state(1)[0])


# ---------------------------------------------------------------------- before anything runs


def _grid(over: Mapping[str, Iterable[Any]]) -> Iterator[Point]:
    """Yield every combination of the values in ``over``."""
    from llmsim.schema.overrides import full_key

    axes: list[list[Any]] = []
    known: dict[Any, str] = {}
    for name, values in over.items():
        key = full_key(name)
        if key == ("seed",):
            raise ScenarioError("sweep: seed: replications change the seed\nhint: sweep(..., replications=5)")
        if key in known:
            raise ScenarioError(f"sweep: {name}: the same key as {known[key]!r}")
        known[key] = name
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise ScenarioError(f"sweep: {name}: not a list of values (got {values!r})\nhint: {{{name!r}: [...]}}")
        axes.append(list(values))
        if not axes[-1]:
            raise ScenarioError(f"sweep: {name}: no values")
    for combination in itertools.product(*axes):
        yield dict(zip(over, combination, strict=True))


def _points(over: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return the points of a list, after a look at their keys."""
    for point in over:
        if not isinstance(point, Mapping):
            raise ScenarioError(f"sweep: not a point with keys and values (got {point!r})")
        # The same checks as for a grid: of this one point.
        list(_grid({key: [value] for key, value in point.items()}))
    if not over:
        raise ScenarioError("sweep: no points")
    return [dict(point) for point in over]


def _plain(point: Mapping[str, Any]) -> Point:
    """Return ``point`` with Python's own numbers in place of NumPy's."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in point.items()}


def _examine(scenario: "Scenario", points: Sequence[Point], seeds: Sequence[int]) -> list[str]:
    """Look at all points before the first one runs; return the names of the metrics they have.

    A point that cannot be read beside others that can is left to become a row.
    """
    from llmsim.schema import resolve

    names: dict[str, None] = {}
    wrong: list[LlmsimError] = []
    for point in points:
        changed = scenario.with_(_plain(point))
        names |= dict.fromkeys(_metric_names(changed))
        try:
            resolved = resolve(changed)
        except LlmsimError as error:
            wrong.append(error)
            continue
        if len(seeds) > 1 and not is_random(resolved, seeds):
            where = f" at {point}" if point else ""
            raise ScenarioError(
                f"sweep: replications{where}: nothing is random here, so all would be the same\n"
                "hint: replications=1; or give a trace resample, jitter_s or thin; or generate arrivals or lengths"
            )
    mistakes = [error for error in wrong if not isinstance(error, InfeasibleError)]
    if len(wrong) == len(points) and mistakes:
        raise mistakes[0]
    return list(names)


def _metric_names(scenario: "Scenario") -> list[str]:
    """Return the keys that the metrics of a scenario's runs have."""
    from llmsim.results.metrics import measure

    output = scenario.output
    return list(measure([], percentiles=output.percentiles, first_tokens=output.first_tokens is not None))


def usual_replications(scenario: "Scenario", points: Sequence[Point]) -> int:
    """Return 3, the fewest that give an interval worth its name; 1 where a point is the same with any seed."""
    from llmsim.schema import resolve

    seeds = [replication_seed(scenario.seed, number) for number in range(2)]
    for point in points:
        # What cannot be read, or run, is told by the sweep itself.
        with suppress(LlmsimError):
            if not is_random(resolve(scenario.with_(_plain(point))), seeds):
                return 1
    return 3


def is_random(resolved: "Resolved", seeds: Sequence[int]) -> bool:
    """Say whether the first two ``seeds`` give different runs: other requests, or other choices of the router."""
    from llmsim.workload.build import build

    if resolved.replicas > 1 and resolved.router not in _STEADY_ROUTERS:
        return True
    window = resolved.options.max_model_len
    streams = [_requests(build(resolved.workload, seed=seed, max_model_len=window)) for seed in seeds[:2]]
    return any(one != other for one, other in itertools.zip_longest(*streams))


def _requests(workload: "Workload") -> "Iterator[Request]":
    """Yield all requests of a workload; one that follows another comes as if that had taken no time."""
    ended: deque[Request] = deque()
    for request in workload.start():
        yield request
        ended.append(request)
        while ended:
            for following in workload.on_end(_ended(ended.popleft())):
                yield following
                ended.append(following)


def _ended(request: "Request") -> Record:
    """Return the record of a request that was answered at once."""
    moment = request.arrival_s
    return Record(
        request.id, 0, "finished", "length", 1, moment, moment, moment, moment, request.prompt_tokens,
        request.output_tokens, 0, 0, request.priority, request.session_id, request.tenant, None, request.turn,
    )  # fmt: skip


# ---------------------------------------------------------------------- rows


def _reason(error: LlmsimError) -> str:
    """Return the message of an error on one line, without its hints."""
    return "; ".join(line for line in str(error).splitlines() if not line.startswith("hint: "))


def _table(rows: list[Row], first: list[str], metrics: list[str]) -> "pandas.DataFrame":
    import pandas

    # A value may be a list or a mapping, which only a column of objects holds.
    columns: dict[str, Any] = {name: _column([row[name] for row in rows]) for name in first}
    for name in metrics:
        columns[name] = np.array([row.get(name) for row in rows], dtype=np.float64)
    return pandas.DataFrame(columns)


def _column(values: list[Any]) -> "pandas.Series[Any]":
    import pandas

    nested = any(isinstance(value, list | tuple | dict) or value is None for value in values)
    return pandas.Series(values, dtype=object if nested else None)
