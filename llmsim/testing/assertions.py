"""Assertions on a run that say by how much they were missed."""

import difflib
import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmsim.errors import InputError

if TYPE_CHECKING:
    from llmsim.results.run import Run

_CONDITION = re.compile(r"\s*([\w.]+)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")
_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)_\w+_ms")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


def assert_slo(run: "Run", *conditions: str) -> None:
    """Assert that a run keeps every one of its service level objectives.

    ``assert_slo(run, "p99_ttft_ms <= 500", "request_throughput >= 7.5")``.  Any metric of `Run.metrics` will do, and
    any percentile, whether the run lists it or not.  A run that was stopped early keeps none.

    Raises:
        AssertionError: with a line for each condition that does not hold, its value and by how much it is missed.
        InputError: there is no condition, one cannot be read, or there is no such metric.
    """
    __tracebackhide__ = True
    if not conditions:
        raise InputError('assert_slo: no condition\nhint: for example "p99_ttft_ms <= 500"')
    missed = [line for line in (_missed(run, condition) for condition in conditions) if line]
    if run.stopped:
        missed.insert(0, f"the run was stopped early ({run.stopped}): {run!r}")
    if missed:
        raise AssertionError("\n".join([*missed, *(f"note: {note}" for note in run.notes())]))


def value_of(run: "Run", name: str) -> float | int | None:
    """Return metric ``name`` of a run, a percentile that the run does not list included.

    Raises:
        InputError: there is no such metric; the message names the closest one.
    """
    metrics = run.metrics
    percentile = _PERCENTILE.fullmatch(name)
    if name not in metrics and percentile and float(percentile[1]) <= 100:
        metrics = run.measure([float(percentile[1])])
    if name not in metrics:
        close = difflib.get_close_matches(name, run.metrics, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "for example p99_ttft_ms or request_throughput"
        raise InputError(f"unknown metric (got {name!r})\nhint: {hint}")
    return metrics[name]


def _missed(run: "Run", condition: str) -> str | None:
    """Return what is wrong with a condition, or None when it holds."""
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise InputError(f'not of the form "METRIC <= NUMBER" (got {condition!r})')
    name, sign, number = match[1], match[2], float(match[3])
    value = value_of(run, name)
    if value is None:
        return f"{name} {sign} {number:g}: there is nothing to measure ({run!r})"
    if _OPERATORS[sign](value, number):
        return None
    relative = f", {abs(value / number - 1):.1%} {'above' if value > number else 'below'}" if number else ""
    return f"{name} {sign} {number:g}: it is {value:,.4g}{relative}"
