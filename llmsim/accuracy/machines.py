"""Scenarios that differ in their workload alone share what was looked up, filled in and tabulated for them."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmsim.accuracy.setups import Setup
from llmsim.model.shape import ModelShape
from llmsim.performance.correction import StackCorrection, stack_of
from llmsim.workload.spec import WorkloadSpec

if TYPE_CHECKING:
    from llmsim.schema import Resolved

# Tables of so many machines are kept: a few megabytes each.
MOST_KEPT = 8
# How the labels of prices begin -> what a prediction says.
LAYERS = {"fitted": "fitted stack", "other stack": "fitted stack"}


@dataclass(slots=True)
class Machine:
    """A resolved scenario without its workload, and the costs of its steps as they were tabulated so far."""

    resolved: "Resolved"
    costs: dict[Any, Any]

    def with_workload(self, workload: Mapping[str, Any], seed: int) -> "Resolved":
        """Return the scenario with a workload."""
        return replace(self.resolved, workload=WorkloadSpec(**workload), seed=seed)


class Machines:
    """The machines that were used last.

    Args:
        overrides: numbers by stack that replace those of the catalogue.
    """

    def __init__(self, overrides: Mapping[str, StackCorrection] | None = None) -> None:
        self._overrides = overrides
        self._kept: OrderedDict[tuple[object, ...], Machine] = OrderedDict()

    def correction(self, setup: Setup) -> StackCorrection:
        """Return the numbers of a set-up's stack."""
        return stack_of(setup.stack, self._overrides).correction

    def layer(self, setup: Setup, label: str) -> str:
        """Return the layer of knowledge behind a prediction by the prices' label: data sheet, fitted, or calibrated."""
        if self.correction(setup).free_numbers:
            return "calibrated"
        return next((layer for start, layer in LAYERS.items() if label.startswith(start)), "data sheet")

    def find(self, setup: Setup) -> Machine:
        """Return the machine of a set-up.

        Raises:
            LlmsimError: the scenario is wrong, or the model does not fit.
        """
        if setup.machine not in self._kept:
            self._kept[setup.machine] = Machine(self._resolve(setup), {})
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(setup.machine)
        return self._kept[setup.machine]

    def _resolve(self, setup: Setup) -> "Resolved":
        from llmsim.schema import load, resolve

        stack = stack_of(setup.stack, self._overrides)
        scenario: dict[str, Any] = {
            "model": setup.model,
            "cluster": {"nodes": {"type": setup.node, "count": 1}} if setup.node else {"gpu": setup.device},
            "engine": {
                **json.loads(setup.engine),
                "preset": setup.preset,
                "tensor_parallel_size": setup.tensor,
                "pipeline_parallel_size": setup.pipeline,
            },
            "deployment": {"replicas": setup.replicas},
            "performance": {"stack": stack.kernels},
            "workload": {"dataset": {"name": "fixed", "prompt": {"value": 1}, "output": {"value": 1}}},
        }
        if not setup.served:
            # Token ids go straight into the engine.
            scenario["performance"]["tokenize_us_per_token"] = 0
        if setup.scheduler is not None:
            scenario["scheduler"] = setup.scheduler
        resolved = resolve(load(scenario))
        performance = replace(resolved.performance, correction=stack.correction)
        context = setup.prompt + setup.output if setup.kind == "batch" else 0
        if not context:
            return replace(resolved, performance=performance)
        options, longest = resolved.options, max(resolved.options.max_model_len, context)
        # Measured beyond the trained context: random tokens, on engines that were built for it.
        budget = {
            name: max(getattr(options, name), 0 if options.enable_chunked_prefill else longest)
            for name in ("max_num_batched_tokens", "max_num_scheduled_tokens")
        }
        options = replace(options, max_model_len=longest, **budget)
        model = _without_windows(resolved.model, context)
        return replace(resolved, performance=performance, options=options, model=model)


def _without_windows(model: ModelShape, context: int) -> ModelShape:
    """Return a model without the windows that no text of this run outgrows."""
    layers = tuple(
        replace(layer, attention=replace(layer.attention, window=None, chunked=False))
        if layer.attention is not None and layer.attention.window is not None and layer.attention.window >= context
        else layer
        for layer in model.layers
    )
    return replace(model, layers=layers)
