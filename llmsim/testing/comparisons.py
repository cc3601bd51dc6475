"""Assertions on two settings, replication by replication."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any

from llmsim.errors import InputError
from llmsim.gates import more_is_better
from llmsim.results.intervals import mean_interval

if TYPE_CHECKING:
    import pandas

DEFAULT_REPLICATIONS = 5


def assert_not_worse(
    run_a: Any,
    run_b: Any,
    metric: str,
    *,
    by: float = 0.05,
    replications: int | None = None,
    confidence: float = 0.95,
) -> None:
    """Assert that ``run_b`` is not worse than ``run_a`` by more than a share of ``by``, as far as can be told.

    ``assert_not_worse(scenario, scenario.with_(max_num_seqs=64), "p99_ttft_ms", by=0.05)``.  Both are simulated with
    the same seeds, so what both have in common drops out of the differences, and of these Student's interval is taken.
    The assertion holds when the whole interval lies within ``by`` of the mean of ``run_a``: a difference that cannot be
    told is not taken for none.  Worse is more, of a latency, and less, of a throughput or goodput.

    Args:
        run_a: what was: a `Run`, whose scenario is then replicated, a `Scenario`, whatever `load` takes, or one row for
            each replication out of the table of `sweep`.
        run_b: what is, in any of these forms; of the same form as ``run_a`` where that is a table.
        metric: a name of `Run.metrics`.
        by: the share of the mean of ``run_a`` that it may be worse.
        replications: how many, where runs have to be made; None: 5, or 1 where nothing is random, and then the two
            values themselves are compared.
        confidence: of the interval.

    Raises:
        AssertionError: with the difference, its interval, and what would make it clearer.
        InputError: there is no such metric, or the two cannot be paired.
    """
    __tracebackhide__ = True
    if not by >= 0.0:
        raise InputError(f"assert_not_worse: by is a share, not negative (got {by})")
    pairs = _pairs(run_a, run_b, metric, replications)
    mean = sum(before for before, _ in pairs) / len(pairs)
    sign = -1.0 if more_is_better(metric) else 1.0
    interval = mean_interval([sign * (after - before) for before, after in pairs], confidence=confidence)
    allowed = by * abs(mean)
    # One pair is all there is to say where nothing is random.
    worst = interval.estimate if len(pairs) == 1 else interval.high
    if worst <= allowed:
        return
    after = sum(after for _, after in pairs) / len(pairs)
    told = f"{metric}: was {mean:,.4g}, it is {after:,.4g}"
    share = f" ({interval.estimate / abs(mean):+.1%} worse, at most {by:.1%} is allowed)" if mean else ""
    lines = [f"{told}{share}"]
    if isfinite(interval.high):
        ends = (f"{end / abs(mean):+.1%}" if mean else f"{end:+,.4g}" for end in (interval.low, interval.high))
        lines.append(f"{len(pairs)} paired replications, {confidence:.0%} interval {' to '.join(ends)}")
        if interval.estimate <= allowed:
            lines.append(
                "hint: this is not enough to tell: more replications or longer runs make the interval narrower"
            )
    raise AssertionError("\n".join(lines))


def _pairs(run_a: Any, run_b: Any, metric: str, replications: int | None) -> list[tuple[float, float]]:
    """Return the metric of both, seed by seed."""
    tables = [_is_table(run_a), _is_table(run_b)]
    if any(tables):
        if not all(tables):
            raise InputError("assert_not_worse: give two tables of a sweep, or none")
        before, after = (_by_seed(table, metric) for table in (run_a, run_b))
    else:
        before, after = (_by_seed(table, metric) for table in _simulated(run_a, run_b, metric, replications))
    if before.keys() != after.keys():
        raise InputError("assert_not_worse: the replications of both have different seeds, so they cannot be paired")
    return [(before[seed], after[seed]) for seed in before]


def _is_table(given: Any) -> bool:
    return hasattr(given, "to_dict") and hasattr(given, "columns")


def _by_seed(table: pandas.DataFrame, metric: str) -> dict[int, float]:
    """Return the metric of each row by its seed."""
    for name in ("seed", "status", metric):
        if name not in table.columns:
            raise InputError(f"assert_not_worse: the table has no column {name!r}\nhint: one row for each replication")
    rows = table.to_dict("records")
    wrong = [row for row in rows if row["status"] != "ok" or isnan(row[metric])]
    if wrong or not rows:
        reason = wrong[0].get("reason") or f"has no {metric}" if wrong else "there are no rows"
        raise InputError(f"assert_not_worse: a replication cannot be compared: {reason}")
    values = {int(row["seed"]): float(row[metric]) for row in rows}
    if len(values) < len(rows):
        raise InputError("assert_not_worse: several rows have the same seed\nhint: give the rows of one point each")
    return values


def _simulated(run_a: Any, run_b: Any, metric: str, replications: int | None) -> Sequence[pandas.DataFrame]:
    """Simulate both, with the percentile that is asked for and the same seeds."""
    from llmsim.schema import resolve
    from llmsim.sweeps import is_random, replication_seed, sweep

    scenarios = [_with_percentile(_scenario(given), metric) for given in (run_a, run_b)]
    # Both have to face the same streams.
    scenarios[1] = scenarios[1].with_(seed=scenarios[0].seed)
    if replications is None:
        seeds = [replication_seed(scenarios[0].seed, number) for number in range(2)]
        random = all(is_random(resolve(scenario), seeds) for scenario in scenarios)
        replications = DEFAULT_REPLICATIONS if random else 1
    return [sweep(scenario, {}, replications=replications) for scenario in scenarios]


def _scenario(given: Any) -> Any:
    from llmsim.results.run import Run
    from llmsim.schema import Resolved, Scenario, load

    chosen = given.scenario if isinstance(given, Run) else given
    if isinstance(chosen, Resolved):
        return chosen.scenario
    if chosen is None:
        raise InputError("assert_not_worse: this run names no scenario that could be replicated")
    return chosen if isinstance(chosen, Scenario) else load(chosen)


def _with_percentile(scenario: Any, metric: str) -> Any:
    """Return the scenario with the percentile of ``metric`` among those it measures."""
    head = metric.split("_", 1)[0]
    if not (head[:1] == "p" and head[1:].replace(".", "", 1).isdigit()):
        return scenario
    percent = float(head[1:])
    known = list(scenario.output.percentiles)
    return scenario if percent in known else scenario.with_({"output.percentiles": [*known, percent]})
