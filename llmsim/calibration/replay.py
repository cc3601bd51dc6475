"""Measured loads, replayed in the simulator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf, isinf
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsim.calibration.measured import Floats, Load, Totals
from llmsim.calibration.source import Played, Score, Values, with_values
from llmsim.errors import InputError
from llmsim.performance.calibration import CLIENT, Range
from llmsim.results.reach import reach
from llmsim.schema import Resolved
from llmsim.simulation import Simulation
from llmsim.workload.build import build
from llmsim.workload.closed_loop import Capped
from llmsim.workload.protocol import Workload
from llmsim.workload.request import Request
from llmsim.workload.spec import WorkloadSpec

if TYPE_CHECKING:
    from llmsim.results.records import Record

# Parts of a run that are left out in turn, and the fewest requests of one.
BLOCKS = 10
FEWEST = 4
# A run of which the simulator refuses more than this is another run.
MOST_LOST = 0.02
# Quantity of each metric of `vllm bench serve`.
_QUANTITIES = {"ttft": "ttft", "tpot": "tpot", "e2el": "e2e", "output": "throughput"}


@dataclass(slots=True)
class Recorded:
    """A workload of requests that were recorded."""

    requests: list[Request]
    description: str
    warnings: list[str] = field(default_factory=list)

    @property
    def expected_requests(self) -> int:
        """All of them."""
        return len(self.requests)

    def start(self) -> Iterator[Request]:
        """Begin again."""
        return iter(self.requests)

    def on_end(self, record: Record) -> Iterable[Request]:
        """Nothing follows from the end of a request."""
        return ()


def simulated(resolved: Resolved, workload: Workload, values: Values) -> Simulation:
    """Simulate a workload with numbers over those of the stack.

    Raises:
        InputError: the simulator refused requests that were served.
    """
    simulation = Simulation(with_values(resolved, values))
    simulation.workload = workload
    simulation.client_s = values.get(CLIENT, 0.0) * 1e-3
    simulation.run(None, None)
    lost = [record for record in simulation.records if record.status != "finished"]
    if len(lost) > MOST_LOST * len(simulation.records):
        raise InputError(
            f"{workload.description}: the simulator serves {len(simulation.records) - len(lost)} of "
            f"{len(simulation.records)} requests that were measured: {lost[0].reason}\n"
            "hint: the engine's flags must be those of the measured server (max_model_len, memory)"
        )
    return simulation


def ranges_of(simulation: Simulation) -> dict[str, Range]:
    """Return how far a run went."""
    logs = [engine.log for engine in simulation.parts.engines]
    return {name: Range(*span) for name, span in reach(simulation.records, logs).items()}


class LoadSource:
    """A run with a record for each request, replayed at its own arrivals, or at its own concurrency.

    A run whose client held ``concurrency`` requests under way is replayed as such when all were ready at once;
    with a rate beside it, each request leaves when it did.
    """

    def __init__(self, load: Load, resolved: Resolved) -> None:
        self.name, self.load = load.name, load
        self.notes = [f"{load.name}: {note}" for note in load.notes]
        self._resolved = _untokenized(resolved) if load.at_engine else resolved
        count = len(load.arrivals)
        self.parts = max(min(BLOCKS, count // FEWEST), 1)
        self._block = np.arange(count) * self.parts // count
        self._closed = load.concurrency is not None and (load.rate is None or isinf(load.rate))
        long = load.outputs > 1
        tail = load.end_to_end - load.first_token
        per_token = np.where(long & (tail > 0), tail / np.maximum(load.outputs - 1, 1), np.nan)
        columns = {"ttft": load.first_token, "tpot": per_token, "e2e": load.end_to_end}
        self._measured = {name: column for name, column in columns.items() if np.isfinite(column).any()}
        if not self._measured:
            raise InputError(f"{load.name}: neither first tokens nor ends of requests")
        # An end-to-end time is the sum of the other two: it is fitted only where they are not known.
        told: list[str] = [name for name in ("ttft", "tpot") if name in self._measured]
        self._fitted = told or ["e2e"]
        self.kinds = [name for name in self._fitted for _ in range(self.parts)]
        self.blocks = [block for _ in self._fitted for block in range(self.parts)]

    def _workload(self) -> Workload:
        load = self.load
        requests = [
            Request(str(index), 0.0 if self._closed else float(arrival), int(prompt), int(output))
            for index, (arrival, prompt, output) in enumerate(
                zip(load.arrivals, load.prompts, load.outputs, strict=True)
            )
        ]
        recorded = Recorded(requests, f"replay of {load.name}")
        if self._closed:
            assert load.concurrency is not None
            return Capped(recorded, load.concurrency)
        return recorded

    def play(self, values: Values) -> Played:
        """Replay the run."""
        simulation = simulated(self._resolved, self._workload(), values)
        predicted = self._predicted(simulation.records)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = {name: np.log(predicted[name] / measured) for name, measured in self._measured.items()}
        residuals = np.array([
            _mean(errors[name][self._block == block]) for name in self._fitted for block in range(self.parts)
        ])  # fmt: skip
        scores = [
            Score(name, block, error[(self._block == block) & np.isfinite(error)])
            for name, error in errors.items()
            for block in range(self.parts)
        ]
        return Played(residuals, scores, ranges_of(simulation))

    def _predicted(self, records: list[Record]) -> dict[str, Floats]:
        count = len(self.load.arrivals)
        first, end = np.full(count, np.nan), np.full(count, np.nan)
        for record in records:
            if record.status == "finished" and record.first_token_s is not None and record.finished_s is not None:
                first[int(record.id)] = record.first_token_s - record.arrival_s
                end[int(record.id)] = record.finished_s - record.arrival_s
        return {"ttft": first, "tpot": (end - first) / np.maximum(self.load.outputs - 1, 1), "e2e": end}


class TotalsSource:
    """A run of which only means and medians are known: a load like it is generated.

    Lengths are those of the scenario's data set where it has one; else every request has the mean lengths.
    """

    def __init__(self, totals: Totals, resolved: Resolved) -> None:
        self.name, self.totals = totals.name, totals
        self._metrics = list(totals.metrics)
        if any("tpot" in name for name in self._metrics):
            self._fitted = [name for name in self._metrics if "e2el" not in name]
        else:
            self._fitted = self._metrics
        self.kinds = [_quantity(name) for name in self._fitted]
        self.blocks = [0] * len(self.kinds)
        self.notes: list[str] = []
        dataset = resolved.workload.dataset
        if dataset is None:
            self.notes.append(
                f"{totals.name}: no lengths of single requests (--save-detailed): all have {totals.prompt:.0f} prompt "
                f"and {totals.output:.0f} output tokens; give the data set's options for a spread"
            )
        self._spec = _spec(totals, dataset)
        self._resolved = replace(resolved, workload=self._spec, warmup_requests=0, warmup_s=0.0)

    def play(self, values: Values) -> Played:
        """Simulate a load like it."""
        resolved = self._resolved
        workload = build(self._spec, seed=resolved.seed, max_model_len=resolved.options.max_model_len)
        simulation = simulated(resolved, workload, values)
        metrics = simulation.result(resolved.scenario, None).metrics
        errors = {name: float(np.log((metrics[name] or np.nan) / self.totals.metrics[name])) for name in self._metrics}
        scores = [Score(_quantity(name), 0, np.array([error])) for name, error in errors.items()]
        return Played(np.array([errors[name] for name in self._fitted]), scores, ranges_of(simulation))


def _quantity(metric: str) -> str:
    name = metric.removeprefix("mean_").removeprefix("median_").split("_")[0]
    return _QUANTITIES[name]


def _spec(totals: Totals, dataset: Mapping[str, Any] | None) -> WorkloadSpec:
    mean = {"name": "random", "input_len": max(round(totals.prompt), 1), "output_len": max(round(totals.output), 1)}
    lengths = dict(dataset) if dataset is not None else mean
    if totals.rate == inf:
        if totals.concurrency is None:
            return WorkloadSpec(dataset=lengths, num_prompts=totals.requests)
        loop = {"concurrency": totals.concurrency}
        return WorkloadSpec(dataset=lengths, closed_loop=loop, num_prompts=totals.requests)
    arrival: dict[str, Any] = {"kind": "vllm", "request_rate": totals.rate, "burstiness": totals.burstiness}
    if totals.concurrency is not None:
        arrival["max_concurrency"] = totals.concurrency
    return WorkloadSpec(dataset=lengths, arrival=arrival, num_prompts=totals.requests)


def _untokenized(resolved: Resolved) -> Resolved:
    """Return a scenario without the tokenizer's time: the stamps were taken behind it."""
    from llmsim.schema import resolve

    return resolve(resolved.scenario.with_({"performance.tokenize_us_per_token": 0}))


def _mean(errors: Floats) -> float:
    finite = errors[np.isfinite(errors)]
    return float(finite.mean()) if len(finite) else float("nan")
