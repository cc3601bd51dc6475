"""From a scenario to all that a simulation needs: names looked up, defaults filled in, everything checked."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmsim import units
from llmsim.engine_options import EngineOptions
from llmsim.hardware import Cluster, Device, Node
from llmsim.model import load_model
from llmsim.model.shape import ModelShape
from llmsim.model.transform import Transform, transformed
from llmsim.parallel import Plan, check
from llmsim.performance.calibration import Calibration
from llmsim.performance.correction import NEUTRAL, StackCorrection, correction_of
from llmsim.schema import calibrated
from llmsim.schema.document import Scenario
from llmsim.schema.engine import EngineChoice, choose, drafting
from llmsim.schema.findings import Findings
from llmsim.schema.kinds import by_kind
from llmsim.schema.machine import machine
from llmsim.schema.other_flags import engine_of
from llmsim.schema.parallelism import of_ranks, plan_of
from llmsim.schema.policies import SchedulerChoice, choose_scheduler, named_or_own, with_drafts, with_scheduler
from llmsim.schema.presets import preset_of
from llmsim.workload.spec import WorkloadSpec

_SLO = re.compile(r"(mean|median|std|p\d+(\.\d+)?)_(ttft|ttfn|tpot|itl|e2el|queue_time)_ms")


@dataclass(frozen=True, slots=True)
class PerformanceOptions:
    """Where prices come from.  ``stack`` names the software whose fitted coefficients are taken."""

    model: Literal["auto", "fitted", "data_sheet"]
    stack: str
    static_quant: bool | None
    calibration: Calibration | None = None
    correction: StackCorrection = NEUTRAL
    residuals: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A scenario with every value filled in.  ``origins`` says of each dotted key where its value came from."""

    scenario: Scenario
    name: str
    seed: int
    preset: str
    model: ModelShape
    device: Device
    node: Node
    cluster: Cluster
    plan: Plan
    replicas: int
    options: EngineOptions
    engine_values: dict[str, Any]
    scheduler: str
    scheduler_settings: dict[str, Any]
    own_scheduler: bool
    make_scheduler: Callable[..., Any]
    router: str
    performance: PerformanceOptions
    workload: WorkloadSpec
    warmup_requests: int | None  # None: found after the run
    warmup_s: float
    slo: dict[str, float]
    goodput: dict[str, float]
    first_tokens: int | None
    percentiles: tuple[float, ...]
    metrics: tuple[str, ...]
    warnings: tuple[str, ...]
    origins: dict[str, str]


def resolve(scenario: Scenario, *, scheduler: Any = None) -> Resolved:
    """Return ``scenario`` with names looked up and defaults filled in; nothing is simulated.

    Args:
        scenario: what to resolve.
        scheduler: a scheduler's class, or what makes one, in place of the scenario's: see `with_scheduler`.

    Raises:
        ScenarioError: with one line for each thing that is wrong, with file, line and column where known.
        InfeasibleError: the same, when everything is well formed but cannot run.
    """
    if scheduler is not None:
        scenario = with_scheduler(scenario, scheduler)
    findings = Findings(scenario)
    if findings.attempt(("engine", "preset"), preset_of, scenario.engine.preset) is None:
        findings.settle()
    given = scenario.engine.model_dump(exclude={"preset"}, exclude_unset=True)
    model = findings.attempt(("model",), load_model, scenario.model)
    plan, wrong = plan_of(given, scenario.engine.preset, model)
    for name, what in wrong:
        findings.add(("engine", name), what)
    replicas = scenario.deployment.replicas
    cluster = machine(scenario.cluster, findings, tensor=plan.group, groups=plan.pipeline * replicas)
    if model is not None:
        model = _transformed(scenario, model, cluster, findings)
    performance = _performance(scenario, cluster, findings)
    cluster = _priced(cluster, performance)
    engine = None
    if model is not None:
        findings.attempt(("engine",), check, model, plan)
    if cluster is not None:
        _check_cluster(scenario, plan, cluster, findings)
    if model is not None and cluster is not None:
        engine = _engine(scenario, given, model, cluster, plan, findings)
    default, settings = (engine.scheduler, engine.scheduler_settings) if engine else ("continuous", {})
    policy = choose_scheduler(scenario, default, settings, findings, given=scheduler)
    if policy is not None and engine is not None and engine.options.speculation is not None:
        policy = with_drafts(policy, findings)
    _check_router(scenario, findings)
    workload = _workload(scenario, engine, findings)
    _check_slo(scenario, findings)
    _check_first_tokens(scenario, findings)
    findings.settle()
    assert cluster is not None
    assert engine is not None
    assert policy is not None
    resolved = _assembled(
        scenario, cluster, engine, plan=plan, scheduler=policy, performance=performance, workload=workload
    )
    return calibrated.warned(resolved)


def _assembled(
    scenario: Scenario,
    cluster: Cluster,
    engine: EngineChoice,
    *,
    plan: Plan,
    scheduler: SchedulerChoice,
    performance: PerformanceOptions,
    workload: WorkloadSpec,
) -> Resolved:
    warmup = scenario.workload.warmup
    device = cluster.nodes[0].device
    notes = [f"model {engine.model.name}: {note}" for note in engine.model.notes]
    return Resolved(
        scenario=scenario,
        name=scenario.name or f"{engine.model.name}_{device.name}",
        seed=scenario.seed,
        preset=scenario.engine.preset,
        model=engine.model,
        device=device,
        node=cluster.nodes[0],
        cluster=cluster,
        plan=plan,
        replicas=scenario.deployment.replicas,
        options=engine.options,
        scheduler=scheduler.name,
        scheduler_settings=scheduler.settings,
        own_scheduler=scheduler.own,
        make_scheduler=scheduler.make,
        router=scenario.deployment.router.policy,
        performance=performance,
        workload=workload,
        warmup_requests=warmup if isinstance(warmup, int) else None if warmup == "auto" else 0,
        warmup_s=units.parse(warmup, "s") if isinstance(warmup, str) and warmup != "auto" else 0.0,
        slo=dict(scenario.slo),
        goodput={str(name): limit for name, limit in scenario.goodput.items()},
        percentiles=tuple(scenario.output.percentiles),
        metrics=_shown(scenario),
        first_tokens=scenario.output.first_tokens,
        engine_values=engine.shown,
        warnings=(*engine.warnings, *scheduler.warnings, *notes),
        origins={f"engine.{name}": origin for name, origin in engine.origins.items()} | scheduler.origins,
    )


def _transformed(
    scenario: Scenario, model: ModelShape, cluster: Cluster | None, findings: Findings
) -> ModelShape | None:
    """Return the model as it is served: pruned or distilled, if the scenario says so."""
    section = scenario.model_transform
    sizes = section.distill_to.model_dump() if section.distill_to else {}
    wanted = Transform(prune=section.prune, prune_kind=section.prune_kind, **sizes)
    if not wanted:
        return model
    if wanted.prune and wanted.prune_kind == "2:4" and scenario.gives("engine", "quantization"):
        findings.add(("engine", "quantization"), "goes with a pruned model of kind 2:4 only as the checkpoint's own")
    sparsity = cluster.nodes[0].device.sparsity if cluster is not None else None
    return findings.attempt(("model_transform",), transformed, model, wanted, sparsity=sparsity)


def _engine(
    scenario: Scenario, given: dict[str, Any], model: ModelShape, cluster: Cluster, plan: Plan, findings: Findings
) -> EngineChoice:
    choice = choose(given, scenario.engine.preset, model, cluster.nodes[0].device)
    if engine_of(scenario.engine.preset) == "vllm":  # the others' words for it are not read
        choice = drafting(choice, given, cluster.nodes[0].device)
    choice = of_ranks(by_kind(choice, given), plan, given, scenario.engine.preset)
    for name, what in choice.problems:
        findings.add(("engine", name), what)
    return choice


def _check_cluster(scenario: Scenario, plan: Plan, cluster: Cluster, findings: Findings) -> None:
    wanted = scenario.deployment.replicas * plan.devices
    if wanted > cluster.devices:
        key = ("deployment", "replicas") if cluster.devices >= plan.devices else ("engine", "tensor_parallel_size")
        findings.add(
            key,
            f"{scenario.deployment.replicas} x tensor {plan.tensor} x pipeline {plan.pipeline}"
            f"{f' x data {plan.data}' if plan.data > 1 else ''} wants {wanted} devices: "
            f"{cluster.name} has {cluster.devices}\n"
            f"hint: {cluster.devices // plan.devices} such replicas fit; or give a larger cluster",
            infeasible=True,
        )
    if len({node.device.name for node in cluster.nodes}) > 1:
        findings.add(("cluster",), f"{cluster.name} mixes kinds of devices, which one deployment cannot use yet")


def _performance(scenario: Scenario, cluster: Cluster | None, findings: Findings) -> PerformanceOptions:
    section = scenario.performance
    kind: Literal["auto", "fitted", "data_sheet"] = "data_sheet" if section.model == "roofline" else section.model
    device = cluster.nodes[0].device if cluster is not None else None
    if kind == "fitted" and device is not None and device.performance is None:
        findings.add(
            ("performance", "model"),
            f"there are no fitted coefficients of {device.name}\nhint: auto or data_sheet",
        )
    stack = section.stack or scenario.engine.preset.split("@")[0]
    correction = correction_of(stack if "@" in stack else scenario.engine.preset)
    calibration = calibrated.named(scenario, cluster, findings)
    if calibration is not None:
        correction = calibration.corrected(correction)
    if section.residuals is not None:
        from llmsim.performance.kernel_file import read_kernels

        findings.attempt(("performance", "residuals"), read_kernels, section.residuals)
    return PerformanceOptions(kind, stack, section.static_quant, calibration, correction, section.residuals)


def _priced(cluster: Cluster | None, performance: PerformanceOptions) -> Cluster | None:
    """Return ``cluster`` without its devices' fitted coefficients, when the data sheet is asked for."""
    if cluster is None or performance.model != "data_sheet":
        return cluster
    plain = tuple(replace(node, device=replace(node.device, performance=None)) for node in cluster.nodes)
    return replace(cluster, nodes=plain)


def _check_router(scenario: Scenario, findings: Findings) -> None:
    from llmsim.fleet import ROUTERS

    named_or_own(scenario.deployment.router.policy, list(ROUTERS), ("deployment", "router", "policy"), findings)


def _workload(scenario: Scenario, engine: EngineChoice | None, findings: Findings) -> WorkloadSpec:
    from llmsim.workload.build import build

    section = scenario.workload
    said = section.model_dump(exclude_unset=True, exclude={"warmup"})
    spec = WorkloadSpec(**said)
    window = engine.options.max_model_len if engine is not None else 2**31
    inner = next((name for name in ("preset", "trace") if getattr(section, name) is not None), None)
    key = ("workload", inner) if inner else ("workload",)
    findings.attempt(key, build, spec, seed=scenario.seed, max_model_len=window, base=None)
    return spec


def _shown(scenario: Scenario) -> tuple[str, ...]:
    """Return the latencies of the result block; first tokens are among the usual ones where they are asked for."""
    names = list(scenario.output.metrics)
    if scenario.output.first_tokens is not None and names == type(scenario.output).model_fields["metrics"].default:
        names.insert(1, "ttfn")
    return tuple(names)


def _check_first_tokens(scenario: Scenario, findings: Findings) -> None:
    """See that whatever limits or shows the time to the first N tokens has an N."""
    if scenario.output.first_tokens is not None:
        return
    hint = "say of how many: output: {first_tokens: 12}, or --first-tokens 12"
    for name in scenario.slo:
        if "_ttfn_" in name:
            findings.add(("slo", name), f"the first N tokens: N is not given\nhint: {hint}")
    if "ttfn" in scenario.goodput:
        findings.add(("goodput", "ttfn"), f"the first N tokens: N is not given\nhint: {hint}")
    if "ttfn" in scenario.output.metrics:
        findings.add(("output", "metrics"), f"ttfn, the first N tokens: N is not given\nhint: {hint}")


def _check_slo(scenario: Scenario, findings: Findings) -> None:
    from llmsim.results.metrics import measure

    known = list(measure([], first_tokens=True))
    for name in scenario.slo:
        if name not in known and not _SLO.fullmatch(name):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "for example p99_ttft_ms or request_throughput"
            findings.add(("slo", name), f"no such metric\nhint: {hint}")
