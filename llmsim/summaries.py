"""What a sweep says: means over replications with their intervals, and paired differences between settings."""

import json
from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from llmsim.errors import InputError
from llmsim.results.intervals import Interval, mean_interval, student_t

if TYPE_CHECKING:
    import pandas

_AFTER_THE_KEYS = "replication"
_SATURATED = "saturated"


# What a sweep is judged by where nobody says by what.
USUAL_METRICS = ("mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "output_throughput")


def summarise(
    table: "pandas.DataFrame", metrics: Sequence[str] | str = USUAL_METRICS, *, confidence: float = 0.95
) -> "pandas.DataFrame":
    """Return one row for each point of a sweep: the mean of each metric over its replications, with an interval.

    Columns: the swept keys, ``replications`` (those that came to an end and have the metric), ``status`` (``ok``, or
    what kept replications from it), ``saturated`` (how many of them had a queue that never stopped growing, so their
    latencies are those of runs this long; where the table tells), then for each metric its mean under its own name
    and the ends of Student's interval as ``METRIC_lo95`` and ``METRIC_hi95`` (the number follows the confidence).

    Args:
        table: what `sweep` returned.
        metrics: names of columns; or one.
        confidence: of the intervals, between 0 and 1.

    Raises:
        InputError: the table is not that of a sweep, it has no such metric, or the confidence is out of range.
    """
    import pandas

    metrics = [metrics] if isinstance(metrics, str) else metrics
    keys = _keys(table, metrics, confidence)
    level = f"{confidence * 100:g}"
    rows = []
    for point, lines in _points(table, keys):
        fine = [line for line in lines if line["status"] == "ok"]
        row = {**point, "replications": len(fine), "status": _status(lines)}
        if _SATURATED in table.columns:
            # From a file, where others are not known, the verdict is a text.
            row[_SATURATED] = sum(str(line[_SATURATED]) == "True" for line in fine)
        for metric in metrics:
            interval = _interval([line[metric] for line in fine], confidence)
            row |= {
                metric: interval.estimate,
                f"{metric}_lo{level}": interval.low,
                f"{metric}_hi{level}": interval.high,
            }
        rows.append(row)
    return pandas.DataFrame(rows)


def paired(
    table: "pandas.DataFrame",
    over: str,
    metrics: Sequence[str] | str = USUAL_METRICS,
    *,
    baseline: Any = None,
    confidence: float = 0.95,
) -> "pandas.DataFrame":
    """Return how each value of one swept key differs from ``baseline``, replication by replication.

    Replications of all points share their random streams, so what they have in common drops out of the differences,
    and the interval of their mean is much narrower than those of the two means.

    Columns: the other swept keys, ``over``, ``metric``, ``baseline`` and ``mean`` (means over the pairs),
    ``difference`` (mean - baseline), its Student's interval ``lo95`` and ``hi95`` (the number follows the
    confidence), ``percent`` (the difference in percent of the baseline), ``pairs``, and ``differs``: whether the
    interval excludes zero.  A value that never ran beside the baseline is a row without figures.

    Args:
        table: what `sweep` returned.
        over: the swept key that is compared.
        metrics: names of columns; or one.
        baseline: the value of ``over`` to compare with; None: the first one in the table.
        confidence: of the intervals, between 0 and 1.

    Raises:
        InputError: the table is not that of a sweep or lacks a name, or ``baseline`` is not among the values.
    """
    import pandas

    metrics = [metrics] if isinstance(metrics, str) else metrics
    keys = _keys(table, metrics, confidence)
    if over not in keys:
        raise InputError(f"paired: {over!r} was not swept\nhint: swept keys are {', '.join(keys)}")
    values = {_name(value): value for value in table[over]}
    first = next(iter(values)) if baseline is None else _name(baseline)
    if first not in values:
        raise InputError(f"paired: {over} never is {first} here\nhint: it is {', '.join(values)}")
    level = f"{confidence * 100:g}"
    rows = []
    for point, lines in _points(table, [key for key in keys if key != over]):
        by_value: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in values}
        for line in lines:
            if line["status"] == "ok":
                by_value[_name(line[over])][line["replication"]] = line
        for name in (name for name in values if name != first):
            for metric in metrics:
                pairs = [
                    (by_value[first][number][metric], line[metric])
                    for number, line in by_value[name].items()
                    if number in by_value[first]
                ]
                rows.append({**point, over: values[name], "metric": metric, **_difference(pairs, confidence, level)})
    return pandas.DataFrame(rows)


def _difference(pairs: Sequence[tuple[float, float]], confidence: float, level: str) -> dict[str, Any]:
    """Return the figures of one row of `paired`."""
    valid = [pair for pair in pairs if not any(map(isnan, pair))]
    before = _interval([pair[0] for pair in valid], confidence).estimate
    after = _interval([pair[1] for pair in valid], confidence).estimate
    interval = _interval([after - before for before, after in valid], confidence)
    return {
        "baseline": before,
        "mean": after,
        "difference": interval.estimate,
        f"lo{level}": interval.low,
        f"hi{level}": interval.high,
        "percent": 100 * interval.estimate / before if before else float("nan"),
        "pairs": len(valid),
        "differs": interval.excludes(0.0) if valid else False,
    }


def _interval(values: Sequence[float], confidence: float) -> Interval:
    """Return the interval of those values that are there; all NaN when none is."""
    there = [value for value in values if not isnan(value)]
    if not there:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    return mean_interval(there, confidence=confidence)


def _keys(table: "pandas.DataFrame", metrics: Sequence[str], confidence: float) -> list[str]:
    """Return the swept keys of a table, after a look at what is asked of it."""
    columns = list(table.columns)
    if _AFTER_THE_KEYS not in columns:
        raise InputError("not the table of a sweep: it has no column 'replication'")
    for metric in metrics:
        if metric not in columns:
            raise InputError(f"the sweep has no metric {metric!r}\nhint: for example p99_ttft_ms or output_throughput")
    try:
        student_t(1, confidence=confidence)
    except ValueError:
        raise InputError(f"confidence lies between 0 and 1 (got {confidence!r})") from None
    return columns[: columns.index(_AFTER_THE_KEYS)]


def _points(table: "pandas.DataFrame", keys: Sequence[str]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return the rows of a table, together for each combination of ``keys``, in the order of the table."""
    groups: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for row in table.to_dict("records"):
        line = {str(name): value for name, value in row.items()}
        point = {key: line[key] for key in keys}
        groups.setdefault(_name(list(point.values())), (point, []))[1].append(line)
    return list(groups.values())


def _status(lines: Sequence[dict[str, Any]]) -> str:
    """Return ``ok`` when every replication came to an end, else what happened to the others."""
    return ", ".join(dict.fromkeys(line["status"] for line in lines if line["status"] != "ok")) or "ok"


def _name(value: Any) -> str:
    """Return a text by which values can be told apart, whether they can be hashed or not."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
