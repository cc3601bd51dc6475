"""One result beside another, run or measured, and the gates that a change has to pass."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llmsim.errors import InputError

SUMMARY = "summary.json"
DEFAULT_METRICS = (
    "request_throughput", "output_throughput", "request_goodput",
    "mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "mean_ttfn_ms", "p99_ttfn_ms",
    "mean_tpot_ms", "median_tpot_ms", "p99_tpot_ms",
    "mean_itl_ms", "p99_itl_ms", "mean_e2el_ms", "p99_e2el_ms",
)  # fmt: skip
# Metrics of which more is better; all others are times.
_MORE_IS_BETTER = re.compile(r".*(throughput|goodput)|max_output_tokens_per_s|completed")

_GATE = re.compile(r"\s*([\w.]+?)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)\s*")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
    "<": lambda value, limit: value < limit,
    ">": lambda value, limit: value > limit,
}

Number = float | int | None


@dataclass(frozen=True, slots=True)
class Result:
    """The metrics of a run of the simulator, or those that `vllm bench serve` measured; ``kind`` says which."""

    source: str
    kind: str
    metrics: Mapping[str, Number]
    first_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two results; None: that one has none."""

    metric: str
    before: Number
    after: Number

    @property
    def change(self) -> float | None:
        """After - before."""
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def percent(self) -> float | None:
        """The change in percent of the value before; infinite when that is zero and something was added."""
        if self.before is None or self.after is None:
            return None
        if self.before == 0:
            return math.copysign(math.inf, self.after) if self.after else 0.0
        return 100.0 * (self.after - self.before) / abs(self.before)


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that must not hold: of the change in percent from A to B, or of the value of B."""

    text: str
    metric: str
    sign: str
    limit: float
    of_change: bool

    def fails(self, difference: Difference) -> bool:
        """Say whether the condition holds, and so the gate is closed; what B lacks does not pass."""
        value = difference.percent if self.of_change else difference.after
        return value is None or _OPERATORS[self.sign](value, self.limit)


def read_result(path: str | Path) -> Result:
    """Return the result in a run's folder, a summary.json, or a JSON file of ``vllm bench serve --save-result``.

    Raises:
        InputError: there is none, or it is neither.
    """
    file = Path(path)
    if file.is_dir():
        file = file / SUMMARY
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error})\n"
            "hint: the folder of a run, its summary.json, or the JSON file of vllm bench serve"
        ) from None
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not the result of one run")
    if isinstance(content.get("metrics"), dict):
        return Result(str(path), "simulated", _numbers(content["metrics"]), content.get("first_tokens"))
    if "request_throughput" in content or "mean_ttft_ms" in content:
        kind = "simulated" if content.get("backend") == "llmsim" else "measured"
        return Result(str(path), kind, _numbers(content))
    raise InputError(f"{file}: neither a summary.json of llmsim nor a result of vllm bench serve")


def _numbers(values: Mapping[str, Any]) -> dict[str, Number]:
    """Return those of ``values`` that are numbers, or None for what could not be measured."""
    plain = {name: value for name, value in values.items() if not isinstance(value, bool)}
    return {name: value for name, value in plain.items() if value is None or isinstance(value, int | float)}


def parse_gate(text: str) -> Gate:
    """Return the gate in ``p99_ttft_ms>+5%`` (a change from A to B) or ``p99_ttft_ms>500`` (the value of B).

    Raises:
        InputError: it is neither.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise InputError(
            f"gate: not of the form METRIC>+5% or METRIC>500 (got {text!r})\n"
            "hint: for example 'p99_ttft_ms>+5%', 'output_throughput<-2%', 'p99_e2el_ms>2000'"
        )
    return Gate(text.strip(), match[1], match[2], float(match[3]), match[4] == "%")


def differences(before: Result, after: Result, metrics: Sequence[str] | None = None) -> list[Difference]:
    """Return how ``metrics`` differ; None: the usual ones, as far as both results have them.

    Raises:
        InputError: a metric that was asked for is in neither result, or in one alone.
    """
    if metrics is None:
        usual = [name for name in DEFAULT_METRICS if before.metrics.get(name) is not None]
        metrics = [name for name in usual if after.metrics.get(name) is not None]
    for name in metrics:
        for result in (before, after):
            if name not in result.metrics:
                close = get_close_matches(name, result.metrics, n=3)
                hint = f"\nhint: it has {', '.join(close)}" if close else ""
                raise InputError(f"{result.source}: has no metric {name!r}{hint}")
    return [Difference(name, before.metrics[name], after.metrics[name]) for name in metrics]


def unlike(before: Result, after: Result) -> list[str]:
    """Return in which respects the loads of two results differ, so that their metrics say little of each other."""
    told = []
    for name in ("completed", "total_input_tokens", "total_output_tokens"):
        one, other = before.metrics.get(name), after.metrics.get(name)
        if one is not None and other is not None and abs(one - other) > 0.01 * max(abs(one), abs(other)):
            told.append(f"{name}: {one:,.0f} and {other:,.0f}: not the same load")
    one, other = before.first_tokens, after.first_tokens
    if one is not None and other is not None and one != other:
        told.append(f"first_tokens: {one} and {other}: not the same ttfn")
    return told


def more_is_better(metric: str) -> bool:
    """Say whether a metric is one of which more is better."""
    return _MORE_IS_BETTER.fullmatch(metric) is not None
