"""From a scenario to all that a simulation needs: names looked up, defaults filled in, everything checked."""

import difflib
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmsim import units
from llmsim.engine_options import EngineOptions
from llmsim.hardware import Cluster, Device, Node
from llmsim.model import load_model
from llmsim.model.shape import ModelShape
from llmsim.parallel import Plan, check
from llmsim.schema import plugins
from llmsim.schema.document import Scenario
from llmsim.schema.engine import EngineChoice, choose
from llmsim.schema.findings import Findings
from llmsim.schema.flags import PRESETS
from llmsim.schema.machine import machine
from llmsim.workload.spec import WorkloadSpec

_SCHEDULER_ALIASES = {"vllm": "continuous", "continuous_batching": "continuous", "static_batching": "static"}
_SLO = re.compile(r"(mean|median|std|p\d+(\.\d+)?)_(ttft|tpot|itl|e2el|queue_time)_ms")


@dataclass(frozen=True, slots=True)
class PerformanceOptions:
    """Where prices come from.  ``stack`` names the software whose fitted coefficients are taken."""

    model: Literal["auto", "fitted", "data_sheet"]
    stack: str
    static_quant: bool
    calibration: str | None = None


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
    scheduler: str
    router: str
    performance: PerformanceOptions
    workload: WorkloadSpec
    warmup_requests: int
    warmup_s: float
    slo: dict[str, float]
    goodput: dict[str, float]
    percentiles: tuple[float, ...]
    metrics: tuple[str, ...]
    warnings: tuple[str, ...]
    origins: dict[str, str]


def resolve(scenario: Scenario) -> Resolved:
    """Return ``scenario`` with names looked up and defaults filled in; nothing is simulated.

    Raises:
        ScenarioError: with one line for each thing that is wrong, with file, line and column where known.
        InfeasibleError: the same, when everything is well formed but cannot run.
    """
    findings = Findings(scenario)
    if scenario.engine.preset not in PRESETS:
        known = ", ".join(PRESETS)
        findings.add(("engine", "preset"), f"unknown preset (got {scenario.engine.preset!r})\nhint: known: {known}")
        findings.settle()
    given = scenario.engine.model_dump(exclude={"preset"}, exclude_unset=True)
    plan = Plan(given.get("tensor_parallel_size") or 1, given.get("pipeline_parallel_size") or 1)
    replicas = scenario.deployment.replicas
    cluster = machine(scenario.cluster, findings, tensor=plan.tensor, groups=plan.pipeline * replicas)
    model = findings.attempt(("model",), load_model, scenario.model)
    performance = _performance(scenario, cluster, findings)
    cluster = _priced(cluster, performance)
    engine = None
    if model is not None:
        findings.attempt(("engine",), check, model, plan)
    if cluster is not None:
        _check_cluster(scenario, plan, cluster, findings)
    if model is not None and cluster is not None:
        engine = _engine(scenario, given, model, cluster, findings)
    _check_policies(scenario, findings)
    workload = _workload(scenario, engine, findings)
    _check_slo(scenario, findings)
    findings.settle()
    assert cluster is not None
    assert engine is not None
    return _assembled(scenario, cluster, engine, plan=plan, performance=performance, workload=workload)


def _assembled(
    scenario: Scenario,
    cluster: Cluster,
    engine: EngineChoice,
    *,
    plan: Plan,
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
        scheduler=_SCHEDULER_ALIASES.get(scenario.scheduler, scenario.scheduler),
        router=scenario.deployment.router.policy,
        performance=performance,
        workload=workload,
        warmup_requests=warmup if isinstance(warmup, int) else 0,
        warmup_s=units.parse(warmup, "s") if isinstance(warmup, str) else 0.0,
        slo=dict(scenario.slo),
        goodput={str(name): limit for name, limit in scenario.goodput.items()},
        percentiles=tuple(scenario.output.percentiles),
        metrics=tuple(scenario.output.metrics),
        warnings=(*engine.warnings, *notes),
        origins={f"engine.{name}": origin for name, origin in engine.origins.items()},
    )


def _engine(
    scenario: Scenario, given: dict[str, Any], model: ModelShape, cluster: Cluster, findings: Findings
) -> EngineChoice:
    choice = choose(given, scenario.engine.preset, model, cluster.nodes[0].device)
    for name, what in choice.problems:
        findings.add(("engine", name), what)
    return choice


def _check_cluster(scenario: Scenario, plan: Plan, cluster: Cluster, findings: Findings) -> None:
    wanted = scenario.deployment.replicas * plan.devices
    if wanted > cluster.devices:
        key = ("deployment", "replicas") if cluster.devices >= plan.devices else ("engine", "tensor_parallel_size")
        findings.add(
            key,
            f"{scenario.deployment.replicas} x tensor {plan.tensor} x pipeline {plan.pipeline} wants {wanted} devices: "
            f"{cluster.name} has {cluster.devices}\n"
            f"hint: {cluster.devices // plan.devices} such replicas fit; or give a larger cluster",
            infeasible=True,
        )
    if len({node.device.name for node in cluster.nodes}) > 1:
        findings.add(("cluster",), f"{cluster.name} mixes kinds of devices, which one deployment cannot use yet")


def _performance(scenario: Scenario, cluster: Cluster | None, findings: Findings) -> PerformanceOptions:
    section = scenario.performance
    if section.calibration is not None:
        findings.add(("performance", "calibration"), "calibrations are not read in this release")
    kind: Literal["auto", "fitted", "data_sheet"] = "data_sheet" if section.model == "roofline" else section.model
    device = cluster.nodes[0].device if cluster is not None else None
    if kind == "fitted" and device is not None and device.performance is None:
        findings.add(
            ("performance", "model"),
            f"there are no fitted coefficients of {device.name}\nhint: auto or data_sheet",
        )
    stack = section.stack or scenario.engine.preset.split("@")[0]
    return PerformanceOptions(kind, stack, bool(section.static_quant))


def _priced(cluster: Cluster | None, performance: PerformanceOptions) -> Cluster | None:
    """Return ``cluster`` without its devices' fitted coefficients, when the data sheet is asked for."""
    if cluster is None or performance.model != "data_sheet":
        return cluster
    plain = tuple(replace(node, device=replace(node.device, performance=None)) for node in cluster.nodes)
    return replace(cluster, nodes=plain)


def _check_policies(scenario: Scenario, findings: Findings) -> None:
    from llmsim.fleet import ROUTERS
    from llmsim.schedulers import SCHEDULERS

    scheduler = _SCHEDULER_ALIASES.get(scenario.scheduler, scenario.scheduler)
    _known_or_own(scheduler, list(SCHEDULERS), ("scheduler",), findings)
    _known_or_own(scenario.deployment.router.policy, list(ROUTERS), ("deployment", "router", "policy"), findings)


def _known_or_own(name: str, known: list[str], key: tuple[str, ...], findings: Findings) -> None:
    if ":" in name:
        findings.attempt(key, plugins.find, name)
    elif name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}, or package.module:Name"
        findings.add(key, f"unknown name (got {name!r})\nhint: {hint}")


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


def _check_slo(scenario: Scenario, findings: Findings) -> None:
    from llmsim.results.metrics import measure

    known = list(measure([]))
    for name in scenario.slo:
        if name not in known and not _SLO.fullmatch(name):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "for example p99_ttft_ms or request_throughput"
            findings.add(("slo", name), f"no such metric\nhint: {hint}")
