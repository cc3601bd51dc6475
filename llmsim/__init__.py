"""llmsim: discrete-event simulation of LLM serving on accelerator clusters.

>>> import llmsim
>>> run = llmsim.simulate(llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=50))
>>> run.metrics["completed"]
50
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from llmsim import plot
    from llmsim.errors import InfeasibleError, InputError, LlmsimError, StalledError
    from llmsim.footprint import memory
    from llmsim.fronts import pareto
    from llmsim.planning.answer import Capacity
    from llmsim.planning.capacity import capacity
    from llmsim.results.records import Record
    from llmsim.results.run import Run
    from llmsim.schema import Scenario, load, scenario
    from llmsim.simulation import simulate
    from llmsim.summaries import paired, summarise
    from llmsim.sweeps import sweep
    from llmsim.workload.request import Request

# Where each public name lives.  Nothing is imported before it is asked for: `llmsim --help` must not wait
# for NumPy.
_HOMES = {
    "Capacity": "llmsim.planning.answer",
    "capacity": "llmsim.planning.capacity",
    "InfeasibleError": "llmsim.errors",
    "InputError": "llmsim.errors",
    "LlmsimError": "llmsim.errors",
    "StalledError": "llmsim.errors",
    "Record": "llmsim.results.records",
    "Request": "llmsim.workload.request",
    "Run": "llmsim.results.run",
    "Scenario": "llmsim.schema",
    "load": "llmsim.schema",
    "scenario": "llmsim.schema",
    "memory": "llmsim.footprint",
    "paired": "llmsim.summaries",
    "pareto": "llmsim.fronts",
    "plot": "llmsim",
    "simulate": "llmsim.simulation",
    "summarise": "llmsim.summaries",
    "sweep": "llmsim.sweeps",
}

__all__ = [
    "Capacity",
    "InfeasibleError",
    "InputError",
    "LlmsimError",
    "Record",
    "Request",
    "Run",
    "Scenario",
    "StalledError",
    "__version__",
    "capacity",
    "load",
    "memory",
    "paired",
    "pareto",
    "plot",
    "scenario",
    "simulate",
    "summarise",
    "sweep",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home == __name__:  # a module of ours
        return import_module(f"{home}.{name}")
    if home is not None:
        return getattr(import_module(home), name)
    raise AttributeError(f"module 'llmsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
