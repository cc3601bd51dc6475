"""The cheapest plan that meets the objectives: tensor x pipeline x replicas, on each kind of device with a price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmsim.errors import InfeasibleError, LlmsimError, ScenarioError
from llmsim.parallel import Plan, check
from llmsim.planning.answer import Capacity, PlanRow
from llmsim.planning.searching import Runner, about, fewest

if TYPE_CHECKING:
    from llmsim.model.shape import ModelShape
    from llmsim.schema import Resolved, Scenario

# Replicas tried where the cluster sets no limit.
MOST_REPLICAS = 64


def cheapest(
    runner: Runner,
    scenario: Scenario,
    resolved: Resolved,
    *,
    find: str,
    price: float | Mapping[str, float] | None,
    most: int | None,
    notes: Sequence[str] = (),
) -> Capacity:
    """Return the plan with the fewest devices, or the lowest price an hour, that meets the objectives.

    Plans come in the order of what one replica costs.  Of each, only as many replicas are tried as cost less than the
    best so far: this leaves out no better plan.

    Args:
        runner: of the probes.
        scenario: what is asked about, with its objectives.
        resolved: the same, resolved.
        find: ``gpus`` or ``plan``, for the texts.
        price: of one device an hour, the same for all or by kind of device; None: a device counts as one.
        most: devices in all; None: what the cluster holds, or 64 replicas.
        notes: what is known about the answer before.

    Raises:
        ScenarioError: prices of kinds of devices are given, but the scenario's cluster is not one kind of device.
        InfeasibleError: no plan can run at all.
    """
    prices = _prices(scenario, resolved, price)
    plans = sorted(_plans(scenario, resolved, prices), key=lambda one: (one[0], one[1].devices, one[1].pipeline))
    best: PlanRow | None = None
    found: Capacity | None = None
    rows = []
    for each_cost, plan, gpu in plans:
        room = _room(resolved, plan, most)
        affordable = room if best is None or best.cost is None else _below(best.cost, each_cost)
        row = PlanRow(gpu=gpu, tensor=plan.tensor, pipeline=plan.pipeline, status="dearer")
        count = min(room, affordable)
        if count >= 1:
            try:
                answer = fewest(runner, _point(scenario, plan, gpu), most=count)
            except InfeasibleError as error:
                row = replace(row, status="infeasible", reason=str(error))
            else:
                row = _row(row, answer, each_cost, plan, exhausted=count == room)
                if row.status == "ok":
                    best, found = row, answer
        elif room < 1:
            row = replace(row, status="too little", reason="there is no room for it")
        rows.append(row)
    if all(row.reason for row in rows):
        raise InfeasibleError(f"capacity: no plan can run; {rows[0].name}: {rows[0].reason}")
    unit = "GPUs" if price is None else "an hour"
    plain = Capacity(find=find, key="plan", unit=unit, answer=None, outcome="never", probes=tuple(runner.probes),
                     plans=tuple(rows), notes=tuple(notes))  # fmt: skip
    if best is None or found is None:
        return replace(plain, binding=next((row.binding for row in rows if row.binding), None))
    return replace(
        plain, answer=best.cost, outcome="found", best=best, each=found.each, binding=found.binding,
        waits=found.waits, notes=tuple(dict.fromkeys((*notes, *found.notes, *about(runner.probes)))),
    )  # fmt: skip


def most_replicas(resolved: Resolved) -> int:
    """Return how many replicas the cluster of a scenario holds; where it grows with them, `MOST_REPLICAS`."""
    section = resolved.scenario.cluster
    if section.gpu is not None and section.num_gpus is None:
        return MOST_REPLICAS
    return resolved.cluster.devices // resolved.plan.devices


def _plans(scenario: Scenario, resolved: Resolved, prices: Mapping[str, float]) -> Iterator[tuple[float, Plan, str]]:
    """Yield (cost of one replica, plan, device) for all plans of a node into which the model can be cut."""
    from llmsim.schema import resolve

    for gpu, price in prices.items():
        whole = resolved
        if gpu != resolved.device.name:
            one = {"cluster": {"gpu": gpu}, "engine.tensor_parallel_size": 1, "engine.pipeline_parallel_size": 1}
            whole = resolve(scenario.with_(one))
        room = min(_node_devices(whole), whole.cluster.devices if not _grows(whole) else _node_devices(whole))
        for tensor in _sizes(whole.model, room):
            pipeline = 1
            while tensor * pipeline <= room and pipeline <= len(whole.model.layers):
                plan = Plan(tensor, pipeline)
                yield price * plan.devices, plan, gpu
                pipeline *= 2


def _sizes(model: ModelShape, room: int) -> list[int]:
    """Return the tensor-parallel sizes up to ``room`` that divide the model."""
    sizes = []
    for size in range(1, room + 1):
        try:
            check(model, Plan(size, 1))
        except InfeasibleError:
            continue
        sizes.append(size)
    return sizes


def _grows(resolved: Resolved) -> bool:
    """Whether the cluster has as many devices as are wanted."""
    section = resolved.scenario.cluster
    return section.gpu is not None and section.num_gpus is None


def _node_devices(resolved: Resolved) -> int:
    """Return the devices of the node in which the device usually comes; of a given cluster, its own node's."""
    if not _grows(resolved):
        return max(node.devices for node in resolved.cluster.nodes)
    from llmsim.hardware import load_node

    return load_node(resolved.device.node).devices if resolved.device.node else resolved.node.devices


def _room(resolved: Resolved, plan: Plan, most: int | None) -> int:
    """Return how many replicas of a plan there may be."""
    if most is not None:
        return most // plan.devices
    return most_replicas(resolved) if _grows(resolved) else resolved.cluster.devices // plan.devices


def _below(cost: float, each: float) -> int:
    """Return how many times ``each`` is less than ``cost``: never as much."""
    count = int(cost / each)
    return count - 1 if count * each >= cost * (1 - 1e-9) else count


def _point(scenario: Scenario, plan: Plan, gpu: str) -> dict[str, Any]:
    point: dict[str, Any] = {
        "engine.tensor_parallel_size": plan.tensor,
        "engine.pipeline_parallel_size": plan.pipeline,
    }
    if scenario.cluster.gpu is not None:
        point["cluster.gpu"] = gpu
    return point


def _row(row: PlanRow, answer: Capacity, each_cost: float, plan: Plan, *, exhausted: bool) -> PlanRow:
    """Return the row of a plan whose replicas have been searched."""
    if answer.answer is None:
        return replace(row, status="too little" if exhausted else "dearer", binding=answer.binding)
    count = int(answer.answer)
    return replace(row, status="ok", replicas=count, devices=count * plan.devices, cost=count * each_cost,
                   binding=answer.binding)  # fmt: skip


def _prices(scenario: Scenario, resolved: Resolved, price: float | Mapping[str, float] | None) -> dict[str, float]:
    """Return the price of one device of each kind that is searched."""
    from llmsim.hardware import load_device

    if price is None or isinstance(price, int | float):
        prices = {resolved.device.name: 1.0 if price is None else float(price)}
    else:
        if scenario.cluster.gpu is None or scenario.cluster.num_gpus is not None:
            raise ScenarioError("capacity: price by device needs a scenario with cluster.gpu and no num_gpus")
        try:
            prices = {load_device(name).name: float(value) for name, value in price.items()}
        except LlmsimError as error:
            raise ScenarioError(f"capacity: price: {error}") from None
    if not prices or any(value <= 0.0 for value in prices.values()):
        raise ScenarioError(f"capacity: price: not positive (got {price})")
    return prices
