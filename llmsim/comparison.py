"""A model beside its pruned or distilled self under the same load: latency, memory and cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmsim.footprint import memory
from llmsim.model.weights import active_parameters, parameters
from llmsim.simulation import simulate

if TYPE_CHECKING:
    from llmsim.performance.memory_report import Memory
    from llmsim.results.run import Run
    from llmsim.schema import Resolved, Scenario

_GIB = 2.0**30
_LATENCIES = {
    "mean_ttft_ms": "mean TTFT",
    "p99_ttft_ms": "p99 TTFT",
    "mean_tpot_ms": "mean TPOT",
    "mean_e2el_ms": "mean latency",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of two models; None: it cannot be had."""

    what: str
    unit: str
    before: float | str | None
    after: float | str | None

    @property
    def change(self) -> float | None:
        """The change as a share of the value before: -0.5 for half of it; None where that makes no sense."""
        if isinstance(self.before, str) or isinstance(self.after, str) or not self.before or self.after is None:
            return None
        return self.after / self.before - 1


def compare(scenario: Scenario, *, price_per_hour: float | None = None) -> tuple[list[Row], list[str]]:
    """Return the figures of ``scenario`` without and with its ``model_transform``, and what to know about them.

    Latencies are those under the scenario's load; cost is what a million output tokens take of the devices with all
    requests of the load sent at once, so that nobody waits for work: device seconds, and with ``price_per_hour`` of one
    device its price.  Both models meet the same requests.

    Raises:
        InputError: the scenario is wrong.
        InfeasibleError: one of the two does not fit.
    """
    from llmsim.schema import resolve

    plain = scenario.with_({"model_transform.prune": 0.0, "model_transform.distill_to": None})
    pair = [resolve(plain), resolve(scenario)]
    figures = [_figures(resolved, price_per_hour) for resolved in pair]
    units = {what: unit for what, unit, _ in figures[1][0]}
    before, after = ({what: value for what, _, value in figure} for figure, _ in figures)
    rows = [Row(what, unit, before[what], after[what]) for what, unit in units.items()]
    return rows, list(dict.fromkeys(warning for _, warnings in figures for warning in warnings))


def _figures(
    resolved: Resolved, price_per_hour: float | None
) -> tuple[list[tuple[str, str, float | str | None]], list[str]]:
    """Return the figures of one model, as (what, unit, value), and its warnings."""
    model, found = resolved.model, memory(resolved)
    run = simulate(resolved)
    crowded = _at_once(resolved)
    full = run if crowded is resolved else simulate(crowded)
    rows: list[tuple[str, str, float | str | None]] = [
        ("model", "", model.name),
        ("parameters", "B", parameters(model) / 1e9),
        ("parameters a token visits", "B", active_parameters(model) / 1e9),
        ("weights of a device", "GiB", found.bytes_of("weights") / _GIB),
        ("cache of a token on a device", "KiB", _cache_kib(found)),
        ("cache of a replica", "tokens", float(found.tokens)),
    ]
    rows += [(words, "ms", _number(run, name)) for name, words in _LATENCIES.items()]
    tokens = full.metrics["total_output_tokens"] or 0
    duration = full.metrics["duration"]
    rows.append(("output throughput at full load", "tokens/s", _number(full, "output_throughput")))
    spent = None
    if tokens and duration:
        spent = duration * resolved.plan.devices * resolved.replicas / tokens * 1e6
    rows.append(("cost of 1M output tokens", "device s", spent))
    if price_per_hour is not None:
        rows.append(("price of 1M output tokens", "", None if spent is None else spent / 3600 * price_per_hour))
    return rows, run.warnings


def _at_once(resolved: Resolved) -> Resolved:
    """Return a scenario whose requests all arrive at the start, so that the devices are never idle."""
    workload: Any = resolved.workload
    if workload.closed_loop is not None or workload.sessions is not None:
        return resolved  # these pace themselves
    return replace(resolved, workload=replace(workload, arrival={"kind": "poisson", "request_rate": float("inf")}))


def _cache_kib(found: Memory) -> float:
    return sum(line.value for line in found.lines if line.unit == "bytes/token") / 1024


def _number(run: Run, name: str) -> float | None:
    value = run.metrics[name]
    return None if value is None else float(value)
