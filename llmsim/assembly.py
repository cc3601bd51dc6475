"""Puts the parts of a run together: memory, placement, hosts, links, prices, engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsim.engine import Engine
from llmsim.engine_options import Speculation
from llmsim.fleet.startup import ColdStart
from llmsim.footprint import cache_options, weight_format
from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.kvcache.prefix import PrefixCache
from llmsim.machine.clock import Clock
from llmsim.machine.devices import DeviceGroup
from llmsim.machine.fabric import Fabric
from llmsim.machine.host import CpuHost
from llmsim.model.weights import stage_weight_bytes
from llmsim.parallel import Stage, place
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.drafts import DraftPrices
from llmsim.performance.ggml_prices import prices_of_stage
from llmsim.performance.kernel_file import read_kernels
from llmsim.performance.memory import CacheBudget, kv_blocks
from llmsim.performance.ranked_cost import RankedStepCost
from llmsim.performance.residuals import Residuals, residuals_of
from llmsim.performance.speculative_cost import SpeculativeCost
from llmsim.performance.step_cost import StepCost
from llmsim.results.records import Record
from llmsim.results.setup import Setup
from llmsim.timeline import Pipeline, SingleStage

if TYPE_CHECKING:
    from llmsim.schema import Resolved

# Processes of one vLLM server that keep a core busy: the API server, the engine core, and one worker for
# each device (vLLM documentation, "CPU Resources for GPU Deployments": 2 + N cores at least).
CORES_BESIDE_WORKERS = 2


class Parts:
    """The machine of one run and the engines on it.

    Args:
        resolved: the scenario with every default filled in.
        clock: the simulated clock.
        finish: called with the record of every request that ends.
        leap: whether to leap.
        costs: a dict that keeps what steps cost from one run to the next, of scenarios that differ in their
            workload alone; it is filled here.

    Attributes:
        engines: the replicas.
        ready: those that serve; all of them unless they start cold.
        prices: what the steps of the first stage cost; for what is said about them.
    """

    def __init__(
        self,
        resolved: Resolved,
        clock: Clock,
        finish: Callable[[Record], None],
        *,
        leap: bool = True,
        costs: dict[Any, StepCost] | None = None,
    ) -> None:
        self.resolved = resolved
        self.clock = clock
        self.warnings = list(resolved.warnings)
        self.budget = self._memory()
        self._residuals = self._measured_kernels()
        if resolved.options.enable_prefix_caching and any(window is not None for window, _ in self.budget.groups):
            self.warnings.append("prefix caching is not modelled with windowed layers: every prompt token is computed")
        self.placement = place(resolved.model, resolved.plan, resolved.cluster, resolved.replicas)
        self._finish = finish
        self._leap = leap
        self._costs: dict[Any, StepCost] = {} if costs is None else costs
        self._left: dict[int, tuple[float, ...]] = {}
        self.hosts = self._start_hosts()
        self.fabric = Fabric(clock, resolved.cluster.graph())
        self.groups = [
            [DeviceGroup(clock, self.fabric, stage.devices) for stage in stages] for stages in self.placement
        ]
        self.engines = [self._start_engine(replica, stages) for replica, stages in enumerate(self.placement)]
        self.ready = self.engines
        deployment = resolved.scenario.deployment
        if deployment.cold_start:
            self._start_cold(deployment.start_interval_s)

    @property
    def prices(self) -> Any:
        """The prices of the first stage."""
        return next(iter(self._costs.values())).prices

    def host_of(self, replica: int) -> CpuHost:
        """Return the host on which a replica's engine runs: that of its first device."""
        return self.hosts[self.placement[replica][0].devices[0].split(".")[0] + ".cpu"]

    def _memory(self) -> CacheBudget:
        """Work out the KV-cache blocks of a replica."""
        resolved, options = self.resolved, self.resolved.options
        budget = kv_blocks(resolved.model, resolved.plan, (), resolved.device, **cache_options(resolved))
        if budget.short_bytes:
            self.warnings.append(
                f"the KV cache leaves {budget.short_bytes / 2**30:.1f} GiB less than activations and CUDA graphs take "
                "by our estimate: a real server might run out of memory"
            )
        pool = self._pool(budget)
        if pool.most_held(options.max_model_len) > budget.usable:
            self.warnings.append(
                f"the KV cache of {budget.usable} blocks cannot hold one request of max_model_len "
                f"{options.max_model_len} tokens: vLLM would refuse to start; requests that need more are rejected"
            )
        return budget

    def _measured_kernels(self) -> Residuals | None:
        """Return what measured kernels say beside the formulas, if the scenario names a file of them."""
        performance = self.resolved.performance
        if performance.residuals is None:
            return None
        known = Coefficients(self.resolved.device, performance.stack)
        found = residuals_of(read_kernels(performance.residuals), known, Path(performance.residuals).name)
        self.warnings += found.warnings
        return found

    def _pool(self, budget: CacheBudget) -> BlockPool:
        """Return the free blocks of one replica."""
        options = self.resolved.options.together()
        blocks = budget.usable * options.ranks
        groups = tuple(BlockGroup(window, copies) for window, copies in budget.groups)
        if options.enable_prefix_caching and len(groups) == 1 and groups[0].window is None:
            return PrefixCache(blocks, options.block_size, max_chunk=options.max_num_batched_tokens)
        return BlockPool(
            blocks,
            options.block_size,
            groups,
            max_chunk=options.max_num_batched_tokens,
            constant=budget.state_blocks,
        )

    def _weight_format(self) -> str | None:
        """Return the format that the user wants instead of the checkpoint's own, which may mix several."""
        return weight_format(self.resolved)

    def _start_hosts(self) -> dict[str, CpuHost]:
        """Make the CPU hosts of the cluster."""
        nodes = self.resolved.cluster.nodes
        return {
            f"n{index}.cpu": CpuHost(self.clock, f"n{index}.cpu", node.host.cores) for index, node in enumerate(nodes)
        }

    def _start_engine(self, replica: int, stages: tuple[Stage, ...]) -> Engine:
        """Make one replica on its devices, and let it keep its host's cores busy."""
        options = self.resolved.options.together()
        pool = self._pool(self.budget)
        costs = self._stage_costs(stages, 1.0)
        depth = options.max_concurrent_batches
        timeline = SingleStage(costs[0], depth) if len(costs) == 1 else Pipeline(costs, depth)
        scheduler = self.resolved.make_scheduler(options, pool, leap=self._leap, seed=self.resolved.seed)
        engine = Engine(replica, self.clock, scheduler, timeline, pool, options, self._finish)
        for group in self.groups[replica]:
            group.lease()
        cores = CORES_BESIDE_WORKERS + self.resolved.plan.devices
        self.host_of(replica).register(
            replica, cores, lambda stretch: engine.reprice(self._stage_costs(stages, stretch))
        )
        return engine

    def _start_cold(self, interval_s: float) -> None:
        """Let the replicas load their weights before they serve; groups that talk keep their part of the links."""
        resolved = self.resolved
        self.ready = []
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
                    experts_over=resolved.plan.group,
                )
                for stage in stages
            ]
            start.begin(engine, groups, sizes, self._serve)

    def _serve(self, engine: Engine) -> None:
        """Route requests to a replica from now on; what it says between its devices takes a part of the links."""
        self.ready.append(engine)
        self.ready.sort(key=lambda other: other.replica)
        for cost, group in zip(engine.costs, self.groups[engine.replica], strict=True):
            self.fabric.stand(group.links(), cost.communication_share())

    def _share_links(self) -> None:
        """Reprice the replicas that serve over links with more or less of others' bytes than before."""
        for engine in self.ready:
            groups = self.groups[engine.replica]
            left = tuple(min((self.fabric.part_left(link) for link in group.links()), default=1.0) for group in groups)
            if left != self._left.get(engine.replica, (1.0,) * len(left)):
                self._left[engine.replica] = left
                stages = self.placement[engine.replica]
                engine.reprice(self._stage_costs(_narrowed(stages, left), self.host_of(engine.replica).stretch))

    def _stage_costs(self, stages: tuple[Stage, ...], stretch: float) -> list[StepCost]:
        """Return the cost of a step on each stage; replicas that are placed alike share them."""
        return [self._stage_cost(stage, stretch) for stage in stages]

    def _stage_cost(self, stage: Stage, stretch: float) -> StepCost:
        resolved, options = self.resolved, self.resolved.options
        nodes = len({device.split(".")[0] for device in stage.devices})
        key = (stage.first_layer, stage.last_layer, stage.collective, stage.onward, nodes, stretch)
        if key not in self._costs:
            prices = prices_of_stage(
                resolved.model,
                resolved.plan,
                stage,
                resolved.device,
                stack=resolved.performance.stack,
                weight_format=self._weight_format(),
                cache_format=options.cache_format,
                static_quant=resolved.performance.static_quant,
                eager=options.enforce_eager,
                correction=resolved.performance.correction,
                residuals=self._residuals,
                exchange=options.all2all_backend,
            )
            self.warnings += [warning for warning in prices.warnings if warning not in self.warnings]
            windows = tuple(sorted(window for window, _ in self.budget.groups if window is not None))
            ranks = resolved.plan.data
            if ranks > 1:
                cost: StepCost = RankedStepCost(
                    prices, options, ranks=ranks, host=stage.index == 0, host_stretch=stretch, windows=windows
                )
            elif options.speculation is None:
                cost = StepCost(prices, options, host=stage.index == 0, host_stretch=stretch, windows=windows)
            else:
                draft = self._draft_prices(options.speculation, stage)
                cost = SpeculativeCost(prices, options, draft=draft, host_stretch=stretch, windows=windows)
            self._costs[key] = cost
        return self._costs[key]

    def _draft_prices(self, speculation: Speculation, stage: Stage) -> DraftPrices | None:
        """Return the prices of what makes drafts on the devices of ``stage``; None if nothing runs there."""
        resolved, options = self.resolved, self.resolved.options
        if speculation.draft is None:
            return None
        prices = DraftPrices(
            speculation,
            resolved.device,
            stage,
            stack=resolved.performance.stack,
            cache_format=options.cache_format,
            static_quant=resolved.performance.static_quant,
            eager=options.enforce_eager,
            correction=resolved.performance.correction,
        )
        said = [f"draft: {warning}" for warning in prices.warnings if warning not in self.warnings]
        self.warnings += [warning for warning in said if warning not in self.warnings]
        return prices


def describe(resolved: Resolved, parts: Parts, workload: str) -> Setup:
    """Return the facts that head the results."""
    from llmsim import __version__

    options = resolved.options
    prices, calibration = parts.prices, resolved.performance.calibration
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
        scheduler=resolved.scheduler if resolved.own_scheduler else None,
        model=resolved.model.name,
        devices=f"{devices}x {resolved.device.title}",
        plan=plan.told,
        formats=", ".join(formats),
        replicas=resolved.replicas,
        blocks=parts.budget.usable,
        block_tokens=options.block_size,
        blocks_origin=parts.budget.source,
        performance=_label(resolved, prices),
        calibrated=calibration is not None or getattr(prices, "calibrated", False),
        expected_error=calibration.expected_error if calibration else getattr(prices, "expected_error", None),
        workload=workload,
        request_rate=float(rate) if rate is not None else None,
        burstiness=arrival.get("burstiness"),
        max_concurrency=_max_concurrency(resolved),
    )


def _label(resolved: Resolved, prices: Any) -> str | None:
    """Return where prices come from, in words."""
    label: str | None = getattr(prices, "label", None)
    return f"calibrated, over {label}" if resolved.performance.calibration is not None else label


def _max_concurrency(resolved: Resolved) -> int | None:
    """Return how many requests the client has under way at most, however the scenario says so."""
    workload = resolved.workload
    for section, key in (
        (workload.closed_loop, "concurrency"),
        (workload.sessions, "users"),
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
