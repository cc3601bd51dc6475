"""What a search for capacity answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from llmsim.planning.probes import Probe

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One plan, and how many replicas of it do.

    ``cost`` is in devices, or in the currency of the prices an hour.  ``status`` is ``ok``; ``dearer``: more replicas
    than cost less than the best plan would be needed, and how many was not looked for; ``too little``: as many as
    there is room for do not do; or ``infeasible``, for ``reason``.
    """

    gpu: str
    tensor: int
    pipeline: int
    status: str
    replicas: int | None = None
    devices: int | None = None
    cost: float | None = None
    binding: str | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """The plan as one writes it: ``2 x TP4 on h100-sxm``."""
        cut = f"TP{self.tensor}" + (f" PP{self.pipeline}" if self.pipeline > 1 else "")
        return f"{self.replicas} x {cut} on {self.gpu}" if self.replicas else f"{cut} on {self.gpu}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The answer of `capacity`, and all that it rests on.

    Attributes:
        find: what was looked for.
        key: the key of the scenario that was varied.
        unit: what `answer` counts.
        answer: the mean over the replications of their own highest loads; or the fewest replicas or devices that do
            for every replication; None: there is none.
        low, high: the interval of the answer: Student's t over the replications' own loads, or the least and the
            most replicas that a replication needs; None with a single replication of a load.
        confidence: of the interval.
        outcome: ``found``; ``never``: the lowest value that was tried is too much already; ``always``: the highest one
            still does, so the answer is a lower bound (for replicas: one is enough).
        each: each replication's own answer.
        binding: the objective that breaks first, just beyond the answer; None when nothing broke.
        waits: what requests waited for there: the parts of ``seats``, ``cache`` and ``compute``.
        probes: every run.
        plans: a row for each plan, for ``gpus`` and ``plan``.
        best: the plan of the answer.
        notes: what limits the trust in the answer.
    """

    find: str
    key: str
    unit: str
    answer: float | None
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95
    outcome: str = "found"
    each: tuple[float | None, ...] = ()
    binding: str | None = None
    waits: Mapping[str, float] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()
    plans: tuple[PlanRow, ...] = ()
    best: PlanRow | None = None
    notes: tuple[str, ...] = ()

    @property
    def max_rate(self) -> float | None:
        """The highest load: requests per second, or the speedup of a trace, or users (`unit` says which)."""
        if self.find != "rate":
            raise AttributeError(f"max_rate: this search was for {self.find}; see answer")
        return self.answer

    @property
    def table(self) -> pandas.DataFrame:
        """One row for each run: what was varied, replication, seed, status, and the value of each objective."""
        import pandas

        rows = [
            {**probe.point, "replication": probe.replication, "seed": probe.seed, "devices": probe.devices,
             "status": probe.status, "reason": probe.reason or ", ".join(probe.missed), "offered": probe.offered,
             **probe.values}
            for probe in self.probes
        ]  # fmt: skip
        return pandas.DataFrame(rows)

    @property
    def objectives(self) -> list[str]:
        """The metrics that were held against a limit."""
        return list(dict.fromkeys(name for probe in self.probes for name in probe.values))

    def reached(self, plan: PlanRow) -> dict[str, float]:
        """Return the values of the objectives with the replicas of ``plan``: means over the replications.

        Empty when no number of its replicas does, or a run was cut short.
        """
        at = {"engine.tensor_parallel_size": plan.tensor, "engine.pipeline_parallel_size": plan.pipeline,
              "deployment.replicas": plan.replicas}  # fmt: skip
        probes = [
            probe for probe in self.probes
            if at.items() <= probe.point.items() and probe.point.get("cluster.gpu", plan.gpu) == plan.gpu
        ]  # fmt: skip
        found = {}
        for name in self.objectives:
            values = [value for probe in probes if (value := probe.values.get(name)) is not None]
            if values and len(values) == len(probes):
                found[name] = sum(values) / len(values)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain JSON types."""
        told = asdict(self)
        probes = [{**probe, "ratios": _finite(probe["ratios"])} for probe in told["probes"]]
        return {**_finite(told), "probes": probes}

    def __repr__(self) -> str:
        return f"Capacity({self.sentence()})"

    def sentence(self) -> str:
        """Return the answer in words."""
        if self.answer is None:
            return f"no {self.key} that was tried meets the objectives"
        told = f"{self.answer:.4g} {self.unit}"
        if self.answer == 1 and self.unit in ("GPUs", "replicas", "users"):
            told = told[:-1]
        if self.best is not None:
            told = f"{self.best.name}: {told}"
        if self.outcome == "always" and self.find == "rate":
            return f"at least {told}"
        if self.low is not None and self.high is not None and self.high > self.low:
            percent = "" if self.find != "rate" else f"{self.confidence * 100:g} % "
            told += f" ({percent}interval {max(self.low, 0.0):.4g} to {self.high:.4g})"
        return told


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` with None in place of what JSON cannot say."""
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in values.items()}
