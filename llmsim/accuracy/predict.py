"""The prediction of one set-up: one forward pass, a simulation, or a search for the largest rate that meets limits."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from llmsim.accuracy import submissions
from llmsim.accuracy.forward import predict_forward
from llmsim.accuracy.machines import Machines
from llmsim.accuracy.outcome import Outcome, is_saturated, numbers_of
from llmsim.accuracy.parts import parts_of
from llmsim.accuracy.setups import Setup
from llmsim.errors import LlmsimError

SEED = 0
TIME_LIMIT_S = 600.0


def predict(setup: Setup, machines: Machines) -> Outcome:
    """Return what comes of a set-up; where it cannot run, an outcome with the reason."""
    started = time.perf_counter()
    try:
        outcome = _KINDS.get(setup.kind, _simulated)(setup, machines)
    except LlmsimError as error:
        lines = [line for line in str(error).splitlines() if not line.startswith("hint: ")]
        outcome = Outcome(reason="; ".join(lines))
    outcome.seconds = round(time.perf_counter() - started, 4)
    return outcome


def _simulated(setup: Setup, machines: Machines) -> Outcome:
    return _run(json.loads(setup.workload), setup, machines)


def _run(workload: Mapping[str, Any], setup: Setup, machines: Machines) -> Outcome:
    """Return what comes of a workload on the machine of a set-up."""
    from llmsim.simulation import Simulation

    machine = machines.find(setup)
    simulation = Simulation(machine.with_workload(workload, SEED), costs=machine.costs)
    stopped = simulation.run(None, TIME_LIMIT_S)
    if stopped:
        return Outcome(reason=f"stopped: {stopped} of {TIME_LIMIT_S:g} s")
    logs = [engine.log for engine in simulation.parts.engines]
    numbers = numbers_of(simulation.records, logs)
    rejected = [record for record in simulation.records if record.status != "finished"]
    if not numbers or (rejected and setup.kind == "batch"):
        return Outcome(reason=f"rejected: {rejected[0].reason if rejected else 'no requests'}")
    cost = simulation.parts.engines[0].costs[0]
    return Outcome(
        numbers=numbers,
        layer=machines.layer(setup, getattr(cost.prices, "label", "")),
        saturated=setup.kind in ("open", "closed") and is_saturated(simulation.records, simulation.client_s),
        parts=parts_of(logs, cost, machines.correction(setup), cost.prices.host_layers),
    )


_KINDS: dict[str, Callable[[Setup, Machines], Outcome]] = {
    "offline": lambda setup, machines: submissions.offline(setup, machines, _run),
    "limit": lambda setup, machines: submissions.largest_rate(setup, machines, _run),
    "forward": predict_forward,
}
