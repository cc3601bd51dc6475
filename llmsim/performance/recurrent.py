"""What passes from token to token in recurrent layers: a state that is read and written, whatever the length.

These groups stand beside those of attention (`llmsim.performance.attention.GroupAttention`) and have their methods.
Nothing here was fitted to measured kernels of such layers: the work of a chunked scan runs at the rate at which this
device's prefill attention runs, states are streamed as element-wise kernels are, and an LSTM's steps are products.
"""

from collections.abc import Sequence

import numpy as np

from llmsim.model.shape import Lstm, Recurrent
from llmsim.performance import formats, kernels
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.kernels import Array, Price
from llmsim.performance.operators import ACTIVATION_BYTES, Matrices

# Tokens of a chunk of the scan: Mamba-2's kernels (Dao and Gu 2024, section 6) and those of the delta rule (Yang et
# al. 2024) as vLLM ships them.
SCAN_CHUNK = {"mamba2": 256, "delta": 64}
# Kernels of a prefill: the convolution, and the parts of the scan (states, passing, inside the chunk, output).
SCAN_KERNELS = 6
# A selective scan's operations on each element of the state: discretise, multiply, add, project (Gu and Dao 2023).
SELECTIVE_WORK = 9


class RecurrentGroup:
    """Prices of the scans of ``layers`` equal recurrent layers on one of ``tensor`` ranks.

    A token of a prompt costs the same wherever it stands; a generated one reads and writes its sequence's state.
    """

    bidirectional = False
    window = None

    def __init__(self, known: Coefficients, block: Recurrent, layers: int, tensor: int) -> None:
        self.layers = layers
        self.number = formats.cache("bf16")
        self._chip = known.chip
        self._stream = known.stream("act")
        heads = block.heads / tensor
        self._state = block.state_elements * block.state_bytes / tensor
        self._row = ACTIVATION_BYTES * 2 * (block.inner + block.channels) / tensor
        if block.kind == "mamba":
            # No matrix units: a scan runs on plain fp32 units, an eighth of the 16-bit peak where no sheet tells.
            peak = known.chip.flops.get("fp32", known.chip.bf16 / 8)
            self._token_s = SELECTIVE_WORK * block.inner * block.state_size / tensor / peak
            self._chunk = 0
        else:
            chunk = SCAN_CHUNK[block.kind]
            inside = 2 * chunk * (block.state_size + block.head_dim) * (2 if block.kind == "delta" else 1)
            work = heads * (inside + 4 * block.state_size * block.head_dim)
            self._token_s = work / (known.chip.bf16 * known.prefill("bfloat16").fit.e)
            self._chunk = chunk

    def decode(self, batch: Array, context: Array) -> Price:
        """Price one layer's step for ``batch`` sequences; their contexts do not matter."""
        batch = np.asarray(batch, dtype=np.float64) + 0.0 * np.asarray(context)
        # Two kernels: the convolution and the state's update.
        price = kernels.stream(self._stream, self._chip, batch * (2 * self._state + self._row))
        return Price(2 * price.launch, price.compute, price.memory)

    def mixed(
        self,
        chunks: Sequence[tuple[int, int]],
        decodes: int,
        context_sum: float,
        longest: float,
        queries: float = 1.0,
    ) -> tuple[float, float]:
        """Price all layers for prefill ``chunks`` beside ``decodes`` sequences: seconds, and the share of compute."""
        tokens = sum(new for new, _ in chunks)
        launches = (SCAN_KERNELS if chunks else 0) + (2 if decodes else 0)
        states = decodes * 2 * queries
        for new, _ in chunks:
            states += 2 if not self._chunk else 2 * -(-new // self._chunk)
        rate = self._chip.bandwidth * self._stream.e_bw
        compute = tokens * self._token_s
        memory = (states * self._state + (tokens + decodes) * self._row) / rate
        seconds = launches * self._stream.t0_us * 1e-6 + max(compute, memory)
        return seconds * self.layers, (compute / seconds if compute > memory else 0.0)


class LstmGroup:
    """Prices of the steps of ``layers`` equal LSTM layers: a product for each token of the longest prompt, in a row.

    The matrix of a step is read again by the next one, so it comes from the cache where it fits: the formula's own term
    for warm weights.  The product with the inputs is made for all tokens at once and priced with them.
    """

    bidirectional = False
    window = None

    def __init__(self, known: Coefficients, block: Lstm, layers: int, tensor: int, matrices: Matrices) -> None:
        self.layers = layers
        self.number = formats.cache("bf16")
        self._chip = known.chip
        self._stream = known.stream("act")
        self._block, self._matrices = block, matrices
        self._columns = -(-block.directions * 4 * block.hidden_size // tensor)
        self._step: dict[int, tuple[float, float]] = {}

    def decode(self, batch: Array, context: Array) -> Price:
        """Price one step of one layer for ``batch`` sequences; their contexts do not matter."""
        batch = np.asarray(batch, dtype=np.float64) + 0.0 * np.asarray(context)
        return self._price(batch, cold=True)

    def _price(self, batch: Array, *, cold: bool) -> Price:
        number = self._matrices.number
        product = kernels.gemm(
            self._matrices.known.fit,
            self._chip,
            batch,
            self._columns,
            self._block.hidden_size,
            compute=number.compute,
            weight_bytes=number.weight_bytes,
            activation_bytes=number.activation_bytes,
            cold=cold,
        )
        gates = kernels.stream(self._stream, self._chip, ACTIVATION_BYTES * 2 * self._columns * batch)
        return Price(product.launch + gates.launch, product.compute, product.memory + gates.memory)

    def _walk(self, sequences: int) -> tuple[float, float]:
        """Return seconds of one step for ``sequences`` at once, and those of them that compute bounds."""
        if sequences not in self._step:
            price = self._price(np.array([float(sequences)]), cold=False)
            self._step[sequences] = float(price.total[0]), float(price.compute[0])
        return self._step[sequences]

    def mixed(
        self,
        chunks: Sequence[tuple[int, int]],
        decodes: int,
        context_sum: float,
        longest: float,
        queries: float = 1.0,
    ) -> tuple[float, float]:
        """Price all layers for prefill ``chunks`` beside ``decodes`` sequences: seconds, and the share of compute.

        Step i computes the i-th token of every chunk that has so many; decoding sequences join the first step.
        """
        lengths = sorted((new for new, _ in chunks), reverse=True)
        if decodes:
            lengths += [1] * decodes
        seconds = compute = 0.0
        done = 0
        for sequences in range(len(lengths), 0, -1):
            steps = lengths[sequences - 1] - done
            if steps > 0:
                step, busy = self._walk(sequences)
                seconds += steps * step
                compute += steps * busy
                done += steps
        return seconds * self.layers, compute / seconds if seconds else 0.0
