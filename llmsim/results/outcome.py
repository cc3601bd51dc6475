"""All that a simulation leaves behind, and the figures that are made of it on demand."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmsim.results import occupancy
from llmsim.results.confidence import confidence_intervals, withheld
from llmsim.results.estimates import Estimate
from llmsim.results.metrics import DEFAULT_PERCENTILES, Metrics, measure, timings
from llmsim.results.odometer import IDLE_RESOURCES, Floats, Kind, by_operator, by_resource
from llmsim.results.percentiles import label, thin
from llmsim.results.records import Record
from llmsim.results.setup import Setup
from llmsim.results.speculation import figures
from llmsim.results.steadiness import Steadiness, steadiness, warm_up
from llmsim.results.steps import StepLog
from llmsim.results.throughputs import THROUGHPUTS, throughput_intervals

STATUSES = ("finished", "rejected", "cancelled", "failed")


@dataclass(slots=True, kw_only=True, repr=False)
class Outcome:
    """What a simulation leaves behind.

    Attributes:
        records: one for each request, whatever became of it.
        steps: the step log of each replica.
        scenario: what was simulated, as the caller gave it.
        resolved_yaml: the scenario with every default and where it came from.
        warnings: what the reader of the results should know, one sentence each.
        stopped: why the run ended before its work was done, or None.
        seed: of all random streams.
        setup: facts for the texts and files.
        bill_kinds: the kinds of time, (resource, operator), that `lane_totals` and the records' bills have.
        lane_totals: seconds of each kind on each replica, [replicas, kinds].
        clock_hz: clock of the devices, for cycles.
        percentiles: the percentages that `metrics` has.
        goodput: the most milliseconds of a good request, by metric, or None.
        slo: targets, by the key of a metric, or None.
        first_tokens: the N of the time to the first N tokens, or None.
        warmup_requests: how many requests, in the order of arrival, the metrics leave out; None: as many as
            `warm_up` finds.
        warmup_s: requests that arrive within this many seconds of the first one are left out too.
        pieces: of each finished request that was preempted, by its id: first and last row (inclusive) of its
            replica's log in which it ran, from each admission to the next preemption.
        joined: the records of requests as they were asked, where long inputs were cut into pieces; else empty.
    """

    records: list[Record]
    steps: list[StepLog] = field(default_factory=list)
    scenario: Any = None
    resolved_yaml: str | None = None
    warnings: list[str] = field(default_factory=list)
    stopped: str | None = None
    seed: int = 0
    setup: Setup = field(default_factory=Setup)
    bill_kinds: tuple[Kind, ...] = ()
    lane_totals: Floats | None = None
    clock_hz: float | None = None
    percentiles: Sequence[float] = DEFAULT_PERCENTILES
    goodput: Mapping[str, float] | None = None
    slo: Mapping[str, float] | None = None
    first_tokens: int | None = None
    warmup_requests: int | None = 0
    warmup_s: float = 0.0
    pieces: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    joined: list[Record] = field(default_factory=list)
    _metrics: Metrics | None = field(default=None, init=False, compare=False)
    _found: tuple[int | None] | None = field(default=None, init=False, compare=False)
    _steadiness: Steadiness | None = field(default=None, init=False, compare=False)
    _intervals: dict[tuple[float, ...], dict[str, Estimate]] = field(default_factory=dict, init=False, compare=False)

    @property
    def metrics(self) -> Metrics:
        """The metrics under vLLM's flat keys (`llmsim.results.metrics.measure`), computed once."""
        if self._metrics is None:
            self._metrics = self.measure(self.percentiles)
        return self._metrics

    def measure(self, percentiles: Sequence[float]) -> Metrics:
        """Return the metrics with other ``percentiles`` (0..100) than those of the run."""
        records, since = self.measured()
        return measure(
            records,
            self.steps,
            percentiles=percentiles,
            goodput=self.goodput,
            since_s=since,
            first_tokens=self.first_tokens is not None,
        )

    def measured(self) -> tuple[list[Record], float]:
        """Return the records that are measured, and the moment from which gaps between tokens are."""
        if self.warmup_requests == 0 and not self.warmup_s:
            return self.records, -math.inf
        records = self.measured_records()
        return records, min((record.arrival_s for record in records), default=math.inf)

    def measured_records(self) -> list[Record]:
        """Return the records that the metrics are made of: all but the warm-up, in the order of arrival."""
        start = min((record.arrival_s for record in self.records), default=0.0)
        skipped = (self.found_warmup or 0) if self.warmup_requests is None else self.warmup_requests
        return [record for record in self.records[skipped:] if record.arrival_s - start >= self.warmup_s]

    @property
    def found_warmup(self) -> int | None:
        """How many requests, in the order of arrival, warm up, by MSER-5 of their latencies; None: no end in sight."""
        if self._found is None:
            measured = timings(self.records)
            cut = warm_up(measured.e2el)
            # Of the requests that finished; all that came before the first one that counts are left out.
            since = math.inf if cut is None else measured.arrival_s[cut]
            self._found = (None if cut is None else int(sum(record.arrival_s < since for record in self.records)),)
        return self._found[0]

    @property
    def steadiness(self) -> Steadiness:
        """Whether the backlog stopped growing (`llmsim.results.steadiness`), computed once."""
        if self._steadiness is None:
            self._steadiness = steadiness(self.records, self.measured()[0])
        return self._steadiness

    def intervals(self, percentiles: Sequence[float] | None = None) -> dict[str, Estimate]:
        """Return the 95 % intervals of means, medians and percentiles (0..100) of latencies, and of throughputs.

        By the keys of `metrics`, latencies in milliseconds.  An estimate without an interval has a ``reason``; of a
        run that never settled none has an interval, but for the throughputs of one that is saturated.  Computed once.
        """
        wanted = tuple(self.percentiles if percentiles is None else percentiles)
        if wanted not in self._intervals:
            records, since = self.measured()
            found = confidence_intervals(records, self.steps, wanted, since_s=since)
            found |= throughput_intervals(self.records, self.metrics, goodput=self.goodput, since_s=since)
            if self.steadiness.settled is False:
                served = set(THROUGHPUTS[:-1]) if self.steadiness.saturated else set()
                why = f"{'saturated' if self.steadiness.saturated else 'not settled'}: not estimable"
                found = {key: one if key in served else withheld(one, why) for key, one in found.items()}
            self._intervals[wanted] = found
        return self._intervals[wanted]

    @property
    def counts(self) -> dict[str, int]:
        """How many requests ended in each status, preemptions, prompt tokens found in the cache, and steps."""
        statuses = Counter[str](record.status for record in self.records)
        return {
            "requests": len(self.records),
            **{status: statuses[status] for status in STATUSES},
            "preemptions": sum(record.preemptions for record in self.records),
            "prefix_hit_tokens": sum(record.cached_tokens for record in self.records),
            "steps": sum(log.steps() for log in self.steps),
            "batches": sum(len(log) for log in self.steps),
        }

    @property
    def resources(self) -> dict[str, float | int | None]:
        """How busy devices and links were, how full the cache was and what it found (0..1), and the longest queue."""
        shares = self._shares()
        columns = [log.columns() for log in self.steps if len(log)]
        most_waiting = max((int(c["waiting"].max()) for c in columns), default=None)
        return {
            "gpu_busy": self._busy() if shares is None else 1 - sum(shares.get(name, 0.0) for name in IDLE_RESOURCES),
            "link_busy": None if shares is None else shares.get("communication", 0.0),
            **self._cache_usage(),
            "prefix_hit_rate": self._hit_rate(),
            "max_waiting": most_waiting,
        }

    def _hit_rate(self) -> float | None:
        """Return the part of the prompt tokens of all admitted requests that the cache held, None without any."""
        admitted = [record for record in self.records if record.admitted_s is not None]
        asked = sum(record.prompt_tokens for record in admitted)
        return sum(record.cached_tokens for record in admitted) / asked if asked else None

    @property
    def speculation(self) -> dict[str, float | int | list[float] | None]:
        """Drafts, and how many were accepted, under the keys of ``vllm bench serve``; {} without speculation."""
        logs = [log.speculation for log in self.steps if log.speculation is not None]
        return figures(logs) if logs else {}

    def time_by_resource(self) -> dict[str, float]:
        """Return the seconds of each resource, summed over the replicas; {} when the run kept no odometers."""
        return {} if self.lane_totals is None else by_resource(self.lane_totals.sum(axis=0), self.bill_kinds)

    def time_by_operator(self) -> dict[str, float]:
        """Return the seconds of each operator, summed over the replicas; {} when the run kept no odometers."""
        return {} if self.lane_totals is None else by_operator(self.lane_totals.sum(axis=0), self.bill_kinds)

    def cycles_per_token(self) -> dict[str, float]:
        """Return for each resource the clock cycles that a replica spends on one output token.

        All devices of a replica move in lockstep, so each of its devices spends as many.  {} when the run kept
        no odometers, knows no clock, or gave no token.
        """
        tokens = self.metrics["total_output_tokens"]
        if self.clock_hz is None or not tokens:
            return {}
        return {name: seconds * self.clock_hz / tokens for name, seconds in self.time_by_resource().items()}

    def notes(self, percentiles: Sequence[float] | None = None) -> list[str]:
        """Return what limits the trust in the figures themselves, one sentence each."""
        completed = self.metrics["completed"] or 0
        few = thin(self.percentiles if percentiles is None else percentiles, int(completed)) if completed else []
        told = []
        if few:
            names = ", ".join(f"p{label(percent)} (stable from {enough:,} on)" for percent, enough in few)
            said = f"{completed:,.0f} finished requests are few for {names}"
            told.append(f"{said}: one slow request more or less moves it")
        if self.steadiness.settled is False:
            told.append(self._unsettled())
        return told + self._warmup_notes()

    def _unsettled(self) -> str:
        """Say why latencies have no interval, and what would give them one."""
        reason = self.steadiness.reason
        if self.steadiness.saturated:
            return f"saturated: {reason}; latencies grow with the length of the run and have no interval"
        return f"not settled: {reason}; latencies have no interval yet, more requests (num_prompts) may give one"

    def _warmup_notes(self) -> list[str]:
        if self.warmup_requests is None:
            if self.found_warmup is None:
                return ["warmup: auto found no end of the warm-up, and nothing was left out: the run is too short"]
            return [f"warmup: auto left out the first {self.found_warmup:,} requests"]
        if self.warmup_requests or self.warmup_s or not self.found_warmup or self.steadiness.settled is False:
            return []
        mean = self.intervals().get("mean_e2el_ms")
        rest = [record for record in self.records if record.status == "finished"]
        rest = [record for record in rest if record.arrival_s >= self.records[self.found_warmup].arrival_s]
        after = 1e3 * float(timings(rest).e2el.mean())
        if mean is None or mean.low is None or mean.high is None or mean.low <= after <= mean.high:
            return []
        return [
            f"the first {self.found_warmup:,} requests look like a warm-up: without them (warmup: auto) "
            f"the mean end-to-end latency is {after:,.1f} ms, not {mean.value:,.1f}"
        ]

    def slo_results(self) -> dict[str, dict[str, float | bool | None]]:
        """Return target, value and pass of each objective; a throughput or goodput is a floor, all else a ceiling.

        Raises:
            ValueError: an objective names no metric.
        """
        return {name: self._objective(name, target) for name, target in (self.slo or {}).items()}

    def _objective(self, name: str, target: float) -> dict[str, float | bool | None]:
        metrics = self.metrics
        prefix = name.split("_", 1)[0]
        if name not in metrics and prefix[:1] == "p" and prefix[1:].replace(".", "", 1).isdigit():
            metrics = self.measure([float(prefix[1:])])
        if name not in metrics:
            raise ValueError(f"slo: unknown metric (got {name!r})\nhint: for example p99_ttft_ms or request_throughput")
        value = metrics[name]
        floor = "throughput" in name or "goodput" in name or name in ("max_output_tokens_per_s", "completed")
        passed = value is not None and (value >= target if floor else value <= target)
        return {"target": target, "value": value, "pass": passed}

    def _shares(self) -> dict[str, float] | None:
        times = self.time_by_resource()
        whole = sum(times.values())
        return {name: seconds / whole for name, seconds in times.items()} if whole > 0 else None

    def _busy(self) -> float | None:
        """Without odometers: the part of the time in which a batch was in flight, over all replicas."""
        ends = occupancy.span(self.steps)
        if ends is None or ends[0] == ends[1]:
            return None
        return sum(occupancy.busy_seconds(log) for log in self.steps) / (ends[1] - ends[0]) / len(self.steps)

    def _cache_usage(self) -> dict[str, float | int | None]:
        ends, blocks = occupancy.span(self.steps), self.setup.blocks
        if ends is None or ends[0] == ends[1] or not blocks:
            return {"kv_usage_mean": None, "kv_usage_peak": None}
        used = [(log, log.columns()["blocks_used"]) for log in self.steps]
        means = [occupancy.time_average(log, values, ends[1] - ends[0]) for log, values in used]
        peak = max(float(values.max()) for _, values in used if len(values))
        return {"kv_usage_mean": sum(means) / len(means) / blocks, "kv_usage_peak": peak / blocks}
