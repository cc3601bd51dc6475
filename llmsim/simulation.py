"""`simulate`: the one place that knows every part, puts them together and lets the clock run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simpy.core import EmptySchedule

from llmsim.engine import Engine
from llmsim.errors import InputError, StalledError
from llmsim.fleet.routers import ROUTERS, Router
from llmsim.fleet.startup import ColdStart
from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.machine.clock import Clock
from llmsim.machine.devices import DeviceGroup
from llmsim.machine.fabric import Fabric
from llmsim.machine.host import CpuHost
from llmsim.model.weights import stage_weight_bytes
from llmsim.parallel import Stage, place
from llmsim.performance.memory import CacheBudget, kv_blocks
from llmsim.performance.odometer import read_odometers
from llmsim.performance.stage_prices import StagePrices
from llmsim.performance.step_cost import StepCost
from llmsim.random import stream
from llmsim.results.records import Record
from llmsim.results.run import Run
from llmsim.results.setup import Setup
from llmsim.schedulers import SCHEDULERS
from llmsim.timeline import Pipeline, SingleStage
from llmsim.workload.build import build
from llmsim.workload.request import Request

if TYPE_CHECKING:
    from llmsim.schema import Resolved, Scenario

Progress = Callable[[int, int | None, float], None]

# Looking at the wall clock costs as much as an event: once in this many is often enough.
EVENTS_PER_LOOK = 512

# Processes of one vLLM server that keep a core busy: the API server, the engine core, and one worker for
# each device (vLLM documentation, "CPU Resources for GPU Deployments": 2 + N cores at least).
CORES_BESIDE_WORKERS = 2


def simulate(
    scenario: Scenario | Resolved,
    *,
    leap: bool = True,
    progress: Progress | None = None,
    time_limit_s: float | None = None,
) -> Run:
    """Simulate a scenario and return what came of it; nothing is written.

    Args:
        scenario: what to simulate, from `llmsim.load` or `llmsim.scenario`.
        leap: whether to evaluate runs of equal steps at once; the records are the same either way.
        progress: called now and then with the requests that have ended, the requests expected (None:
            not known) and the simulated time.
        time_limit_s: stop after this much wall-clock time with what there is then.

    Raises:
        InputError: the scenario or its trace is wrong.
        InfeasibleError: the model or the plan does not fit the cluster.
        StalledError: requests wait and nothing can ever serve them.
    """
    simulation = Simulation(_resolved(scenario), leap=leap)
    stopped = simulation.run(progress, time_limit_s)
    return simulation.result(scenario, stopped)


def _resolved(scenario: Scenario | Resolved) -> Resolved:
    from llmsim.schema import Resolved, resolve

    return scenario if isinstance(scenario, Resolved) else resolve(scenario)


class Simulation:
    """All parts of one run.

    Args:
        resolved: the scenario with every default filled in.
        leap: whether to leap.
    """

    def __init__(self, resolved: Resolved, *, leap: bool = True) -> None:
        self.resolved = resolved
        self.clock = Clock()
        self.records: list[Record] = []
        self.warnings = list(resolved.warnings)
        self.budget = self._memory()
        self.placement = place(resolved.model, resolved.plan, resolved.cluster, resolved.replicas)
        self.workload = build(
            resolved.workload, seed=resolved.seed, max_model_len=resolved.options.max_model_len, base=_folder(resolved)
        )
        self._costs: dict[Any, StepCost] = {}
        self._left: dict[int, tuple[float, ...]] = {}
        self._leap = leap
        self.hosts = self._start_hosts()
        self.fabric = Fabric(self.clock, resolved.cluster.graph())
        self.groups = [
            [DeviceGroup(self.clock, self.fabric, stage.devices) for stage in stages] for stages in self.placement
        ]
        self.engines = [self._start_engine(replica, stages) for replica, stages in enumerate(self.placement)]
        self._ready = self.engines
        deployment = resolved.scenario.deployment
        if deployment.cold_start:
            self._start_cold(deployment.start_interval_s)
        self._router = self._make_router()
        self._tokenize_s = resolved.scenario.performance.tokenize_us_per_token * 1e-6
        self._order: dict[str, int] = {}
        self._in_system = 0
        self._expected = 0
        self._feed: Iterator[Request] | None = None

    # ------------------------------------------------------------------ putting the parts together

    def _memory(self) -> CacheBudget:
        """Work out the KV-cache blocks of a replica."""
        resolved, options = self.resolved, self.resolved.options
        budget = kv_blocks(
            resolved.model,
            resolved.plan,
            (),
            resolved.device,
            block_size=options.block_size,
            gpu_memory_utilization=options.gpu_memory_utilization,
            weight_format=self._weight_format(),
            cache_format=options.cache_format,
            max_num_batched_tokens=options.max_num_batched_tokens,
            max_num_seqs=options.max_num_seqs,
            cuda_graphs=options.cudagraph_sizes or False,
            num_gpu_blocks_override=options.num_gpu_blocks_override,
            kv_cache_memory_bytes=options.kv_cache_memory_bytes,
        )
        if budget.tokens < options.max_model_len:
            self.warnings.append(
                f"the KV cache holds {budget.tokens} tokens, less than max_model_len {options.max_model_len}: vLLM "
                "would refuse to start; requests that need more are rejected"
            )
        return budget

    def _weight_format(self) -> str | None:
        """Return the format that the user wants instead of the checkpoint's own, which may mix several."""
        wanted = self.resolved.options.weight_format
        return None if wanted == self.resolved.model.weight_format else wanted

    def _start_hosts(self) -> dict[str, CpuHost]:
        """Make the CPU hosts of the cluster."""
        nodes = self.resolved.cluster.nodes
        return {f"n{index}.cpu": CpuHost(self.clock, f"n{index}.cpu", node.host.cores) for index, node in enumerate(nodes)}

    def _start_engine(self, replica: int, stages: tuple[Stage, ...]) -> Engine:
        """Make one replica on its devices, and let it keep its host's cores busy."""
        options = self.resolved.options
        groups = tuple(BlockGroup(window, copies) for window, copies in self.budget.groups)
        pool = BlockPool(self.budget.usable, options.block_size, groups, max_chunk=options.max_num_batched_tokens)
        costs = self._stage_costs(stages, 1.0)
        depth = options.max_concurrent_batches
        timeline = SingleStage(costs[0], depth) if len(costs) == 1 else Pipeline(costs, depth)
        scheduler = self._scheduler()(options, pool, **self._scheduler_options())
        engine = Engine(replica, self.clock, scheduler, timeline, pool, options, self._finish)
        for group in self.groups[replica]:
            group.lease()
        cores = CORES_BESIDE_WORKERS + self.resolved.plan.devices
        self._host_of(stages).register(replica, cores, lambda stretch: engine.reprice(self._stage_costs(stages, stretch)))
        return engine

    def _start_cold(self, interval_s: float) -> None:
        """Let the replicas load their weights before they serve; groups that talk keep their part of the links."""
        resolved = self.resolved
        self._ready = []
        start = ColdStart(self.clock, interval_s)
        self.fabric.listen(self._share_links)
        for engine, stages, groups in zip(self.engines, self.placement, self.groups, strict=True):
            sizes = [
                stage_weight_bytes(
                    resolved.model,
                    stage.first_layer,
                    stage.last_layer,
                    tensor=resolved.plan.tensor,
                    weight_format=self._weight_format(),
                )
                for stage in stages
            ]
            start.begin(engine, groups, sizes, self._serve)

    def _serve(self, engine: Engine) -> None:
        """Route requests to a replica from now on; what it says between its devices takes a part of the links."""
        self._ready.append(engine)
        self._ready.sort(key=lambda other: other.replica)
        for cost, group in zip(engine.costs, self.groups[engine.replica], strict=True):
            self.fabric.stand(group.links(), cost.communication_share())

    def _share_links(self) -> None:
        """Reprice the replicas that serve over links with more or less of others' bytes than before."""
        for engine in self._ready:
            groups = self.groups[engine.replica]
            left = tuple(min((self.fabric.part_left(link) for link in group.links()), default=1.0) for group in groups)
            if left != self._left.get(engine.replica, (1.0,) * len(left)):
                self._left[engine.replica] = left
                stages = self.placement[engine.replica]
                engine.reprice(self._stage_costs(_narrowed(stages, left), self._host_of(stages).stretch))

    def _host_of(self, stages: tuple[Stage, ...]) -> CpuHost:
        """Return the host on which a replica's engine runs: that of its first device."""
        return self.hosts[stages[0].devices[0].split(".")[0] + ".cpu"]

    def _scheduler(self) -> Callable[..., Any]:
        """Return the scheduler's class: one of our own by name, or the user's as ``module:Class``."""
        from llmsim.schema.plugins import find

        name = self.resolved.scheduler
        return SCHEDULERS[name] if name in SCHEDULERS else find(name)  # type: ignore[no-any-return]

    def _make_router(self) -> Router:
        """Return the router: one of our own by name, or the user's callable as ``module:name``."""
        from llmsim.schema.plugins import find

        name = self.resolved.router
        if name in ROUTERS:
            return ROUTERS[name](stream(self.resolved.seed, "router"))
        router = find(name)
        return router() if isinstance(router, type) else router  # type: ignore[no-any-return]

    def _scheduler_options(self) -> dict[str, Any]:
        return {"leap": self._leap} if self.resolved.scheduler in SCHEDULERS else {}

    def _stage_costs(self, stages: tuple[Stage, ...], stretch: float) -> list[StepCost]:
        """Return the cost of a step on each stage; replicas that are placed alike share them."""
        return [self._stage_cost(stage, stretch) for stage in stages]

    def _stage_cost(self, stage: Stage, stretch: float) -> StepCost:
        resolved, options = self.resolved, self.resolved.options
        nodes = len({device.split(".")[0] for device in stage.devices})
        key = (stage.first_layer, stage.last_layer, stage.collective, stage.onward, nodes, stretch)
        if key not in self._costs:
            prices = StagePrices(
                resolved.model,
                resolved.plan,
                stage,
                resolved.device,
                stack=resolved.performance.stack,
                weight_format=self._weight_format(),
                cache_format=options.cache_format,
                static_quant=resolved.performance.static_quant,
                eager=options.enforce_eager,
            )
            self.warnings += [warning for warning in prices.warnings if warning not in self.warnings]
            windows = tuple(sorted(window for window, _ in self.budget.groups if window is not None))
            self._costs[key] = StepCost(
                prices, options, host=stage.index == 0, host_stretch=stretch, windows=windows
            )
        return self._costs[key]

    # ------------------------------------------------------------------ running

    def run(self, progress: Progress | None, time_limit_s: float | None) -> str | None:
        """Let the clock run until every request has ended; return why it stopped before that, or None."""
        self._feed = self.workload.start()
        self._feed_next()
        step = self.clock.step
        started = time.monotonic()
        try:
            while self._expected or self._in_system:
                for _ in range(EVENTS_PER_LOOK):
                    step()
                    if not self._expected and not self._in_system:
                        break
                if progress is not None:
                    progress(len(self.records), self.workload.expected_requests, self.clock.now)
                if time_limit_s is not None and time.monotonic() - started > time_limit_s:
                    return self._stop("time limit")
        except KeyboardInterrupt:
            return self._stop("interrupted")
        except EmptySchedule:
            raise StalledError(self._standstill()) from None
        return None

    def _stop(self, reason: str) -> str:
        """End the requests that are under way as cancelled records."""
        for engine in self.engines:
            engine.withdraw(f"run stopped: {reason}")
        return reason

    def _standstill(self) -> str:
        waiting = [f"replica {engine.replica}: {engine.load} requests" for engine in self.engines if engine.load]
        return (
            f"nothing can happen any more at {self.clock.now:.6f} s, but requests are left ({'; '.join(waiting)})\n"
            "hint: the scheduler has stopped forming batches"
        )

    def _feed_next(self) -> None:
        """Set the alarm for the next arrival of the open part of the workload."""
        assert self._feed is not None
        request = next(self._feed, None)
        if request is not None:
            self._expected += 1
            self.clock.alarm(request.arrival_s, lambda _: self._arrive_and_feed(request))

    def _arrive_and_feed(self, request: Request) -> None:
        self._feed_next()
        self._arrive(request)

    def _arrive(self, request: Request) -> None:
        """Route a request; its prompt has been tokenized when it reaches the engine."""
        self._expected -= 1
        self._in_system += 1
        if request.id in self._order:
            raise InputError(f"workload: two requests have the id {request.id!r}")
        self._order[request.id] = len(self._order)
        engines = self._ready or self.engines
        engine: Any = engines[0] if len(engines) == 1 else self._router(request, engines)
        if self._tokenize_s:
            host = self._host_of(self.placement[engine.replica])
            host.work(request.prompt_tokens * self._tokenize_s, lambda: engine.submit(request))
        else:
            engine.submit(request)

    def _finish(self, record: Record) -> None:
        """Keep a record, and let the workload answer to it."""
        self.records.append(record)
        self._in_system -= 1
        for request in self.workload.on_end(record):
            self._expected += 1
            moment = max(request.arrival_s, self.clock.now)
            self.clock.alarm(moment, lambda _, request=request: self._arrive(request))

    # ------------------------------------------------------------------ results

    def result(self, scenario: Any, stopped: str | None) -> Run:
        """Return the run: records in the order of arrival, logs, odometers and facts."""
        resolved = self.resolved
        for engine, stages in zip(self.engines, self.placement, strict=True):
            engine.costs = self._stage_costs(stages, self._host_of(stages).stretch)
        kinds, lanes = read_odometers(self.engines, self.clock.now)
        self.records.sort(key=lambda record: self._order[record.id])
        unserved = sum(record.status == "rejected" for record in self.records)
        if unserved:
            self.warnings.append(f"{unserved} requests were rejected: the first because {self._first_rejection()}")
        from llmsim.schema import resolved_yaml

        return Run(
            records=self.records,
            steps=[engine.log for engine in self.engines],
            scenario=scenario,
            resolved_yaml=resolved_yaml(resolved),
            warnings=[*self.warnings, *self.workload.warnings],
            stopped=stopped,
            seed=resolved.seed,
            setup=self._setup(),
            bill_kinds=kinds,
            lane_totals=lanes,
            clock_hz=resolved.device.clock_hz,
            percentiles=resolved.percentiles,
            goodput=resolved.goodput or None,
            slo=resolved.slo or None,
            warmup_requests=resolved.warmup_requests,
            warmup_s=resolved.warmup_s,
        )

    def _first_rejection(self) -> str | None:
        return next(record.reason for record in self.records if record.status == "rejected")

    def _setup(self) -> Setup:
        """Return the facts that head the results."""
        from llmsim import __version__

        resolved, options = self.resolved, self.resolved.options
        prices = next(iter(self._costs.values())).prices
        plan = resolved.plan
        devices = plan.devices * resolved.replicas
        arrival = resolved.workload.arrival or {}
        rate = arrival.get("request_rate")
        formats = [options.weight_format]
        if options.cache_format != options.weight_format:
            formats.append(f"cache {options.cache_format}")
        return Setup(
            version=__version__,
            name=resolved.name,
            scenario_sha256=resolved.scenario.sha256,
            engine=resolved.preset,
            model=resolved.model.name,
            devices=f"{devices}x {resolved.device.title}",
            plan=f"TP{plan.tensor}" + (f" PP{plan.pipeline}" if plan.pipeline > 1 else ""),
            formats=", ".join(formats),
            replicas=resolved.replicas,
            blocks=self.budget.usable,
            block_tokens=options.block_size,
            blocks_origin=self.budget.source,
            performance=getattr(prices, "label", None),
            expected_error=getattr(prices, "expected_error", None),
            workload=self.workload.description,
            request_rate=float(rate) if rate is not None else None,
            burstiness=arrival.get("burstiness"),
            max_concurrency=self._max_concurrency(),
        )


    def _max_concurrency(self) -> int | None:
        """Return how many requests the client has under way at most, however the scenario says so."""
        workload = self.resolved.workload
        for section, key in (
            (workload.closed_loop, "concurrency"),
            (workload.arrival, "max_concurrency"),
            (workload.trace, "max_concurrency"),
        ):
            if section and section.get(key) is not None:
                return int(section[key])
        return None


def _narrowed(stages: tuple[Stage, ...], left: tuple[float, ...]) -> tuple[Stage, ...]:
    """Return stages whose collective links have only the part that flows have left."""
    return tuple(
        stage
        if stage.collective is None or part == 1.0
        else replace(stage, collective=replace(stage.collective, bandwidth=stage.collective.bandwidth * part))
        for stage, part in zip(stages, left, strict=True)
    )


def _folder(resolved: Resolved) -> Any:
    """Return the folder that relative paths in the scenario start from."""
    return getattr(resolved.scenario, "base", None)
