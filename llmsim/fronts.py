"""Pareto fronts: which points of a sweep no other point beats in two respects at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isnan
from typing import TYPE_CHECKING, Any

from llmsim.errors import InputError
from llmsim.gates import more_is_better

if TYPE_CHECKING:
    import pandas

# What one pays for a token, and what a user feels; the two that plans and loads trade for each other.
SPEED = "speed_per_user"
YIELD = "throughput_per_gpu"

_MADE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    SPEED: ("mean_tpot_ms", lambda table: 1e3 / table["mean_tpot_ms"]),
    YIELD: ("output_throughput", lambda table: table["output_throughput"] / table["devices"]),
}


def pareto(table: pandas.DataFrame, x: str = SPEED, y: str = YIELD) -> pandas.DataFrame:
    """Return one row for each point of a sweep, with means of ``x`` and ``y``, and whether it is on their front.

    A point is on the front when no other one is at least as good in both and better in one.  Better is more, of
    throughputs, ``speed_per_user`` (1000 / ``mean_tpot_ms``: tokens a second that a user sees) and
    ``throughput_per_gpu`` (``output_throughput`` / devices); less, of latencies and devices.

    Columns: the swept keys, ``devices``, ``replications`` (those that came to an end), ``x``, ``y``, ``front``.  Rows
    go by ``x``, those on the front first; a point that could not run has no figures and is not on it.

    Args:
        table: what `sweep` returned.
        x: a metric, or one of the two above.
        y: likewise.

    Raises:
        InputError: the table is not that of a sweep, or lacks a metric.
    """
    if "replication" not in table.columns or "devices" not in table.columns:
        raise InputError("pareto: not the table of a sweep: it has no columns 'replication' and 'devices'")
    if x == y:
        raise InputError(f"pareto: twice the same metric (got {x!r})")
    whole = table.copy()
    for name in (x, y):
        needs, made = _MADE.get(name, (name, None))
        if needs not in whole.columns:
            raise InputError(f"pareto: the sweep has no metric {needs!r}\nhint: {SPEED}, {YIELD}, or p99_ttft_ms")
        if made is not None:
            whole[name] = made(whole)
    points = _points(whole, x, y)
    better = [(_sign(x) * point[x], _sign(y) * point[y]) for point in points]
    for point, own in zip(points, better, strict=True):
        there = not any(map(isnan, own))
        point["front"] = there and not any(_beats(other, own) for other in better)
    return _ordered(points, x, y)


def _points(table: pandas.DataFrame, x: str, y: str) -> list[dict[str, Any]]:
    """Return the means of each point over those replications that came to an end."""
    columns = list(table.columns)
    keys = columns[: columns.index("replication")]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_dict("records"):
        line = {str(name): value for name, value in row.items()}
        groups.setdefault(json.dumps([line[key] for key in keys], sort_keys=True, default=str), []).append(line)
    points = []
    for lines in groups.values():
        fine = [line for line in lines if line["status"] == "ok"]
        means = {name: sum(line[name] for line in fine) / len(fine) if fine else float("nan") for name in (x, y)}
        own = {key: lines[0][key] for key in keys}
        points.append({**own, "devices": lines[0]["devices"], "replications": len(fine), **means})
    return points


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Say whether ``one`` is at least as good in both and better in one; what has no figures beats nobody."""
    return one[0] >= other[0] and one[1] >= other[1] and one != other


def _sign(name: str) -> float:
    return 1.0 if name in _MADE or more_is_better(name) else -1.0


def _ordered(points: list[dict[str, Any]], x: str, y: str) -> pandas.DataFrame:
    import pandas

    frame = pandas.DataFrame(points)
    return frame.sort_values(["front", x, y], ascending=[False, True, True], kind="stable", ignore_index=True)
