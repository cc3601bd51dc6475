"""The routed experts of a stage: where they lie, what they compute, and how tokens come to them and back.

Without attention data parallelism every rank has every token, so nothing is sent: the sum behind the block, which
every layer has, brings the parts together.  With it each rank has tokens of its own, and before the experts they are
dispatched, behind them combined:

- ``allgather_reducescatter`` (vLLM's default; SGLang and TensorRT-LLM without an all-to-all): every rank gets all
  tokens with what their router chose, and afterwards the sums of its own (vLLM,
  ``device_communicators/all2all.py``, ``AgRsAll2AllManager``; SGLang, ``dp_gather`` and ``dp_reduce_scatter``;
  TensorRT-LLM, ``fused_moe_cutlass.py``, which gathers nvfp4 activations quantised);
- ``deepep_low_latency``, ``deepep_high_throughput``: each token goes to its experts' devices only (performance model
  2.7); in fp8 on the way there, in 16 bit on the way back.  ``deepep_auto`` is SGLang's: the first up to 128 tokens a
  rank (``SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK``), the second beyond.
"""

from dataclasses import dataclass, replace

import numpy as np

from llmsim.model.shape import FeedForward
from llmsim.parallel import Plan
from llmsim.performance import kernels
from llmsim.performance.coefficients import Coefficients, Known
from llmsim.performance.collectives import Group
from llmsim.performance.fits import ExchangeFit, ExpertsFit
from llmsim.performance.kernels import Array
from llmsim.performance.kinds import Tally
from llmsim.performance.operators import ACTIVATION_BYTES, Matrices, Operators

DEFAULT_EXCHANGE = "allgather_reducescatter"
# Name of an exchange -> DeepEP's kernels: for few tokens, and for many.
DEEPEP = {
    "deepep_low_latency": ("ll", "ll"), "deepep_high_throughput": ("normal", "normal"), "deepep_auto": ("ll", "normal"),
}  # fmt: skip
MOST_LOW_LATENCY = 128  # tokens of a rank for which ``deepep_auto`` takes the low-latency kernels
EXCHANGES = (DEFAULT_EXCHANGE, *DEEPEP)
_CHOICE_BYTES = 8.0  # of each expert chosen by a token: its number and its weight
# Rows that an expert computes at least where 4-bit weights are unpacked: the smallest tile of the matrix units, which
# such kernels choose for small batches (Frantar et al., "MARLIN", 2024).  Kernels of 16 bit take larger ones, whose
# padding hides behind four times the bytes.
LEAST_ROWS = 16.0
_MEASURED_NODES = (1, 2, 4, 8)
_NODE = 8  # devices a node, as DeepEP was measured
_DISPATCH_BYTES, _COMBINE_BYTES = 1.0, 2.0  # DeepEP sends fp8 and takes 16 bit back


@dataclass(slots=True)
class ExpertLayers:
    """Prices the routed experts of a stage.

    Args:
        known: constants of the device and stack.
        fit: those of the expert kernels.
        plan: how the replica is cut.
        operators: the kernels of a rank.
        matrices: how experts are multiplied.
        group: all devices of the stage.
        exchange: one of `EXCHANGES`.
        row_cost: the stack's factor on a row that is routed to an expert.
        unpacking: one more, where weights are unpacked.
    """

    known: Coefficients
    fit: Known[ExpertsFit]
    plan: Plan
    operators: Operators
    matrices: Matrices
    group: Group
    exchange: str = DEFAULT_EXCHANGE
    row_cost: float = 1.0
    unpacking: float = 1.0

    @property
    def unpacked(self) -> bool:
        """Whether the experts' weights are unpacked to 16 bit before the product."""
        return self.matrices.number.unpacked

    @property
    def warnings(self) -> list[str]:
        """What is priced as something else."""
        if self.plan.data == 1 or self.exchange == DEFAULT_EXCHANGE or self._deepep() is not None:
            return []
        return [f"all2all_backend {self.exchange}: not measured on this device, priced as {DEFAULT_EXCHANGE}"]

    def add(self, tally: Tally, block: FeedForward, tokens: Array, count: int) -> None:
        """Add the experts of ``count`` layers for ``tokens`` tokens of all ranks."""
        plan = self.plan
        spread = None if plan.data == plan.expert == 1 else (plan.expert_tensor, plan.expert)
        fit, row_cost = self.fit.fit, self.row_cost
        if self.unpacked:
            fit, row_cost = replace(fit, mh=min(fit.mh, LEAST_ROWS)), row_cost * self.unpacking
        self.operators.experts(tally, block, fit, self.matrices, tokens, count, spread=spread, row_cost=row_cost)

    def add_gathering(self, tally: Tally, block: FeedForward, tokens: Array, count: int) -> None:
        """Add what depends on the ``tokens`` of all ranks while they are gathered and their sums scattered."""
        if self.plan.data == 1 or self._deepep() is not None:
            return
        hidden = self.operators.hidden
        told = _CHOICE_BYTES * block.experts_per_token
        tally.add_communication(self.group.all_gather((hidden * self._gathered_bytes() + told) * tokens), count)
        tally.add_communication(self.group.reduce_scatter(hidden * ACTIVATION_BYTES * tokens), count)

    def add_sending(self, tally: Tally, block: FeedForward, tokens: Array, count: int) -> None:
        """Add what depends on a rank's own ``tokens``, which go to the devices of their experts and back."""
        fits = None if self.plan.data == 1 else self._deepep()
        if fits is None:
            return
        few, many = (
            sum(
                kernels.expert_exchange(fit, tokens, self.operators.hidden, block.experts_per_token, element_bytes=size)
                for fit, size in zip(ways, (_DISPATCH_BYTES, _COMBINE_BYTES), strict=True)
            )
            for ways in fits
        )
        tally.add_communication(np.where(tokens <= MOST_LOW_LATENCY, few, many), count)

    def _gathered_bytes(self) -> float:
        """Return the bytes of an activation while tokens are gathered."""
        number = self.matrices.number
        quantised = self.known.stack == "trtllm" and number.kernel == "nvfp4"
        return number.activation_bytes if quantised else ACTIVATION_BYTES

    def _deepep(self) -> list[list[ExchangeFit]] | None:
        """Return DeepEP's constants for few and for many tokens, there and back; None: not used, or never measured."""
        if self.exchange not in DEEPEP:
            return None
        wanted = -(-self.plan.group // _NODE)
        nodes = next((count for count in _MEASURED_NODES if count >= wanted), _MEASURED_NODES[-1])
        known = [
            [self.known.expert_exchange(mode, way, nodes) for way in ("dispatch", "combine")]
            for mode in DEEPEP[self.exchange]
        ]
        if any(one is None for ways in known for one in ways):
            return None
        return [[one.fit for one in ways if one is not None] for ways in known]
