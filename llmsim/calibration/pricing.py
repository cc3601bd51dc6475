"""Forward passes and kernels that were timed alone, held against prices; nothing is simulated."""

from __future__ import annotations

import numpy as np

from llmsim.assembly import Parts
from llmsim.calibration.measured import Kernel, Kernels, Pass, Passes
from llmsim.calibration.source import Played, Score, Values, with_values
from llmsim.errors import InputError
from llmsim.machine.clock import Clock
from llmsim.model.weights import attention_groups
from llmsim.parallel import place
from llmsim.performance import formats
from llmsim.performance.attention import GroupAttention
from llmsim.performance.calibration import Range
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.collectives import Group
from llmsim.performance.kernels import Price
from llmsim.performance.operators import Matrices, Operators
from llmsim.performance.scales import scaled_attention
from llmsim.performance.stage_prices import StagePrices
from llmsim.performance.step_cost import StepCost
from llmsim.schema import Resolved


class PassesSource:
    """Forward passes of exact batches: the device's time alone, without the host."""

    def __init__(self, passes: Passes, resolved: Resolved) -> None:
        if resolved.plan.pipeline > 1:
            raise InputError(f"{passes.name}: forward passes of a pipeline have no price of their own (got PP above 1)")
        self.name, self._passes, self._resolved = passes.name, passes, resolved
        self.kinds = ["step"] * len(passes.cases)
        self.blocks = list(range(len(passes.cases)))
        self.notes: list[str] = []
        for case in passes.cases:
            if len(case.sequences) > resolved.options.max_num_seqs:
                raise InputError(
                    f"{passes.name}: {case.label}: {len(case.sequences)} sequences, more than max_num_seqs "
                    f"{resolved.options.max_num_seqs}"
                )

    def play(self, values: Values) -> Played:
        """Price every pass."""
        cost = _step_cost(with_values(self._resolved, values))
        cases = self._passes.cases
        residuals = np.log([seconds_of(cost, case) / case.seconds for case in cases])
        scores = [Score("step", block, residuals[block : block + 1]) for block in range(len(cases))]
        counts = [len(case.sequences) for case in cases]
        contexts = [sum(sequence) for case in cases for sequence in case.sequences]
        ranges = {"sequences": Range(min(counts), max(counts)), "context_tokens": Range(min(contexts), max(contexts))}
        return Played(residuals, scores, ranges)


def _step_cost(resolved: Resolved) -> StepCost:
    parts = Parts(resolved, Clock(), lambda record: None)
    prices: StagePrices = parts.prices
    windows = tuple(sorted(window for window, _ in parts.budget.groups if window is not None))
    return StepCost(prices, resolved.options, host=False, windows=windows)


def seconds_of(cost: StepCost, case: Pass) -> float:
    """Return the price of a forward pass; a sequence with one new token behind others decodes."""
    decoding = [before + 1 for new, before in case.sequences if new == 1 and before]
    chunks = [(new, before) for new, before in case.sequences if new > 1 or not before]
    contexts = (sum(decoding), *(sum(min(one, window) for one in decoding) for window in cost.windows))
    if not chunks:
        return cost.decode_step(len(decoding), contexts)
    return cost.step(chunks, len(decoding), contexts, max(decoding, default=0), len(case.sequences))[0]


class KernelsSource:
    """Kernels that were timed alone, for the shapes of one rank."""

    def __init__(self, kernels: Kernels, resolved: Resolved) -> None:
        self.name, self._kernels, self._resolved = kernels.name, kernels, resolved
        self.kinds = [row.operator for row in kernels.rows]
        self.blocks = list(range(len(kernels.rows)))
        self.notes = list(kernels.notes)
        talk = next((row for row in kernels.rows if row.operator.startswith("all_")), None)
        if talk is not None and resolved.plan.tensor == 1:
            raise InputError(
                f"{kernels.name}:{talk.line}: {talk.operator}: between how many devices? the plan is TP1\n"
                "hint: --tensor-parallel-size of the group that was measured"
            )

    def play(self, values: Values) -> Played:
        """Price every kernel."""
        prices = _Prices(with_values(self._resolved, values))
        residuals = np.log([prices.seconds(row) / row.seconds for row in self._kernels.rows])
        scores = [Score("kernel", block, residuals[block : block + 1]) for block in range(len(residuals))]
        return Played(residuals, scores)


class _Prices:
    """Prices of single kernels on one rank of a scenario."""

    def __init__(self, resolved: Resolved) -> None:
        performance, plan, model = resolved.performance, resolved.plan, resolved.model
        self._correction = performance.correction
        known = Coefficients(resolved.device, performance.stack)
        number = formats.weights(resolved.options.weight_format, known.chip.flops)
        self._wide = Matrices(known.gemm(number.kernel), number)
        self._operators = Operators(known, model.hidden_size, plan.tensor, self._wide)
        stage = place(model, plan, resolved.cluster, resolved.replicas)[0][0]
        self._collectives = Group(known, plan.tensor, stage.collective)
        groups = attention_groups(layer.attention for layer in model.layers)
        cache = resolved.options.cache_format
        self._attention = GroupAttention(known, groups[0], plan.tensor, cache) if groups else None

    def seconds(self, row: Kernel) -> float:
        """Return the seconds of one kernel."""
        sizes, correction = row.sizes, self._correction
        if row.operator == "gemm":
            price = self._operators.gemm(self._wide, np.array([sizes["m"]]), sizes["n"], sizes["k"])
            return self._scaled(price, correction.launch, correction.products)
        if row.operator in ("all_reduce", "all_gather"):
            size = np.array([sizes["bytes"]])
            talk = self._collectives.all_reduce if row.operator == "all_reduce" else self._collectives.all_gather
            return float(talk(size)[0]) * correction.communication
        group = self._attention
        if group is None:
            raise InputError(f"{row.operator}: the model has no attention")
        if row.operator == "decode_attention":
            price = group.decode(np.array([sizes["batch"]]), np.array([sizes["context"]]))
            return self._scaled(price, correction.attention, correction.attention)
        chunks = [(int(sizes["tokens"]), int(sizes["prefix"]))] * int(sizes["batch"])
        seconds, compute = group.mixed(chunks, 0, 0.0, 0.0)
        return scaled_attention(correction, seconds, compute)[0] / group.layers

    def _scaled(self, price: Price, launch: float, kernel: float) -> float:
        rest = price.compute * self._correction.compute + price.memory * self._correction.memory
        return float(np.ravel(price.launch * launch + rest * kernel)[0])
