"""What the steps of a prediction were made of, so few that other numbers of a stack can be tried without simulating.

A step takes the launches, computing and memory of its products, those of its attention, and what devices say to each
other, each times factors of the stack, and ``step + layers x layer + sequences x sequence`` microseconds of the host,
beside it or after it.  Steps
that are alike are put together.  A prediction under other numbers is the prediction that was simulated times the ratio
of its weighted step times: exact for batches in lockstep, and to first order where the batch itself follows from
the speed.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmsim.performance.correction import StackCorrection

if TYPE_CHECKING:
    from llmsim.performance.step_cost import StepCost
    from llmsim.results.steps import StepLog

Floats = NDArray[np.float64]

# Columns of a class of steps: its weight in each kind of quantity, then seconds, then sequences.
WEIGHTS = ("time", "request", "token", "first")
SECONDS = (
    "launch", "compute", "memory", "attention_launch", "attention_compute", "attention_memory", "communication",
    "experts", "unpacked",
)  # fmt: skip
RESOURCES = ("launch", "compute", "memory")
COLUMNS = (*WEIGHTS, *SECONDS, "sequences")
MOST_CLASSES = 12  # of each of the two kinds of steps, with prompts and without


def parts_of(
    logs: Sequence["StepLog"], cost: "StepCost", correction: StackCorrection, layers: float
) -> dict[str, Any] | None:
    """Return the parts of a simulation's steps as plain data; None when nothing ran."""
    tables = [_table(log, cost, correction) for log in logs if len(log)]
    if not tables:
        return None
    mixed = np.concatenate([table for table, _ in tables])
    has_prompts = np.concatenate([prompts for _, prompts in tables])
    kept = [*_classes(mixed[has_prompts]), *_classes(mixed[~has_prompts])]
    return told([[float(f"{value:.6g}") for value in row] for row in kept], cost, layers)


def told(classes: list[list[float]], cost: "StepCost", layers: float) -> dict[str, Any]:
    """Return classes of steps with what the host's part needs: layers, and what the tables say of the host."""
    beside = bool(cost.options.async_scheduling or cost.prices.host_bound)
    return {"layers": layers, "beside": beside, "host_us": list(cost.prices.host_table_us), "classes": classes}


def _table(log: "StepLog", cost: "StepCost", correction: StackCorrection) -> tuple[Floats, NDArray[np.bool_]]:
    """Return one row of `COLUMNS` for each row of a log, and which rows hold prompts."""
    columns = log.columns()
    if log.speculation is not None:
        columns = {**columns, "draft_s": log.speculation.draft_s()}
    outside = cost.outside_kinds(columns)
    every = cost.kind_seconds(columns)
    kinds = np.array([resource for resource, _ in cost.kinds])
    plain = [outside[kinds == resource].sum(axis=0) for resource in RESOURCES]
    attention = [
        np.maximum(every[kinds == resource].sum(axis=0) - here, 0.0)
        for resource, here in zip(RESOURCES, plain, strict=True)
    ]
    talk = outside[kinds == "communication"].sum(axis=0)
    prompts = columns["prefill_sequences"] > 0
    # Rows of prompts are what the experts' unpacking costs most of; where all decode, reading the weights bounds.
    computed = outside[cost.kinds.index(("compute", "experts"))]
    unpacked = np.where(prompts & bool(getattr(cost.prices, "unpacked_experts", False)), computed, 0.0)
    plain[RESOURCES.index("compute")] = plain[RESOURCES.index("compute")] - computed
    seconds = np.stack([*plain, *attention, talk, computed - unpacked, unpacked]) / factors_of(correction)[:, None]
    steps = columns["steps"]
    sequences = columns["decodes"] + columns["prefill_sequences"]
    first = np.where(prompts, columns["prefill_sequences"] + columns["waiting"], 0.0)
    weights = (steps, steps * sequences, steps * columns["regular"], first)
    return np.stack([*weights, *seconds, sequences], axis=1), prompts


def _classes(rows: Floats) -> list[list[float]]:
    """Return classes of rows that take about as long, each with its summed weights and its mean seconds."""
    if not len(rows):
        return []
    first = len(WEIGHTS)
    order = np.argsort(rows[:, first : first + len(SECONDS)].sum(axis=1), kind="stable")
    made = []
    for members in np.array_split(rows[order], min(MOST_CLASSES, len(rows))):
        steps = members[:, :1]
        mean = (members[:, first:] * steps).sum(axis=0) / steps.sum()
        made.append([*members[:, :first].sum(axis=0).tolist(), *mean.tolist()])
    return made


# ---------------------------------------------------------------------- other numbers


def factors_of(correction: StackCorrection) -> Floats:
    """Return the factor of each of `SECONDS`."""
    own, products, attention = correction, correction.products, correction.attention
    return np.array([
        own.launch, products * own.compute, products * own.memory,
        attention, attention * own.compute, attention * own.memory, own.communication,
        products * own.experts, products * own.experts * own.unpacking,
    ])  # fmt: skip


def host_us_of(tables: Sequence[Any], correction: StackCorrection) -> tuple[Any, Any, Any]:
    """Return the host's microseconds a step, a layer and a sequence: a stack's own, else what the tables say."""
    own = (correction.step_us, correction.layer_us, correction.sequence_us)
    step, layer, each = (told if said is None else said for told, said in zip(tables, own, strict=True))
    return step, layer, each


def weight_of(quantity: str) -> str:
    """Return which weight the steps have in a quantity such as ``ttft_ms:mean``."""
    name = quantity.split(":")[0]
    return {"ttft_ms": "first", "tpot_ms": "token", "itl_ms": "token", "e2e_ms": "request"}.get(name, "time")


def step_seconds(parts: Mapping[str, Any], classes: Floats, correction: StackCorrection) -> Floats:
    """Return the seconds of a step of each class under the numbers of a stack."""
    first = len(WEIGHTS)
    device = classes[:, first : first + len(SECONDS)] @ factors_of(correction)
    step, layer, each = host_us_of(parts["host_us"], correction)
    host = 1e-6 * (step + parts["layers"] * layer + each * classes[:, -1])
    return np.asarray(np.maximum(device, host) if parts["beside"] else device + host)


def ratio(parts: Mapping[str, Any], quantity: str, before: StackCorrection, after: StackCorrection) -> float:
    """Return by what a predicted quantity changes when a stack's numbers change from ``before`` to ``after``."""
    classes = np.array(parts["classes"], dtype=np.float64).reshape(-1, len(COLUMNS))
    weights = classes[:, WEIGHTS.index(weight_of(quantity))]
    if not weights.sum():
        weights = classes[:, 0]
    old = float(weights @ step_seconds(parts, classes, before))
    new = float(weights @ step_seconds(parts, classes, after))
    change = new / old if old > 0 else 1.0
    return 1.0 / change if quantity.split(":")[0] in ("output_tok_s", "total_tok_s", "req_s") else change
