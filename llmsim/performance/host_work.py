"""What the host does for a step: schedule, prepare, launch, read the samples, detokenise.

With CUDA graphs and asynchronous scheduling this hides under the device's time: measured decode steps leave no
residual beyond the kernels (-0.5 to +0.7 ms in the median by device, 225 points), so the figure serves
utilisation, and it is assumed.  Without graphs the host launches every kernel, and small steps take as long as that.
For vLLM of 2023 the floor is fitted: 30.2 ms (H100 host) and 44.5 ms (A100 host) a step of Llama-2-70B's 80
layers, plus 0.30-0.38 ms a sequence.
"""

import numpy as np

from llmsim.performance.coefficients import Coefficients
from llmsim.performance.correction import NEUTRAL, StackCorrection
from llmsim.performance.kernels import Array


class HostWork:
    """Seconds of host work a step for a stage of ``layers`` layers.

    ``bounds`` says that host and device run side by side, so that a step takes the longer of the two.  What
    ``correction`` says replaces what the tables say, which are ``table_us``: microseconds a step, a layer, a sequence.
    """

    def __init__(
        self, known: Coefficients, layers: float, *, eager: bool, correction: StackCorrection = NEUTRAL
    ) -> None:
        old = known.stack == "vllm-2023"
        self.bounds = eager or old
        name = "vllm-2023" if old else "eager" if eager else "graph"
        row = known.own("host", name) or known.default("host", name)
        self.table_us = (float(row["step_us"]), float(row["layer_us"]), float(row["sequence_us"]))
        own = (correction.step_us, correction.layer_us, correction.sequence_us)
        step_us, layer_us, sequence_us = (
            told if said is None else said for told, said in zip(self.table_us, own, strict=True)
        )
        self.step_s = (step_us + layers * layer_us) * 1e-6
        self.sequence_s = sequence_us * 1e-6

    def seconds(self, sequences: Array, tokens: Array) -> Array:
        """Return the seconds of a step; ``tokens`` do not matter on any stack that was measured."""
        return np.asarray(self.step_s + self.sequence_s * np.asarray(sequences, dtype=np.float64) + 0.0 * tokens)
