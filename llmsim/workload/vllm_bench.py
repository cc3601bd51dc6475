"""The arrivals and lengths of `vllm bench serve`, number for number from the same seed.

Rules read in vLLM 0.33.0, `vllm/benchmarks/serve.py` (get_request) and `vllm/benchmarks/datasets/utils.py`
(get_sampling_params).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsim.random import stream
from llmsim.workload.arrivals import ramp
from llmsim.workload.lengths import PREFIX_BLOCK_TOKENS, Body, SharedPrefixes
from llmsim.workload.request import Prefix

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class VllmArrivals:
    """Gamma gaps of shape ``burstiness`` from NumPy's legacy generator, rescaled to end at n / rate.

    With a ramp the rate depends on the request's number and nothing is rescaled.  An infinite rate sends
    everything at once; an infinite burstiness makes the gaps constant.
    """

    rate: float
    burstiness: float = 1.0
    ramp_up_strategy: str | None = None
    ramp_up_start_rps: float = 0.0
    ramp_up_end_rps: float = 0.0

    @property
    def label(self) -> str:
        """Name and rate."""
        if self.ramp_up_strategy is not None:
            ends = f"{self.ramp_up_start_rps:g} to {self.ramp_up_end_rps:g} req/s"
            return f"vllm bench {self.ramp_up_strategy} ramp {ends}"
        if math.isinf(self.rate):
            return "all at once (vllm bench)"
        return f"vllm bench {self.rate:.2f} req/s, burstiness {self.burstiness:g}"

    def chunks(self, seed: int, count: int | None) -> Iterator[Floats]:
        """Yield all ``count`` arrival times as one array.

        Raises:
            ValueError: ``count`` is None; the rescaling needs to know the number of requests.
        """
        if count is None:
            raise ValueError("vLLM's arrivals need the number of requests")
        if count:
            yield self._times(seed, count)

    def _times(self, seed: int, count: int) -> Floats:
        if self.ramp_up_strategy is None and math.isinf(self.rate):
            return np.zeros(count)
        if self.ramp_up_strategy is None:
            rates = np.full(count, self.rate)
        else:
            rates = ramp(self.ramp_up_start_rps, self.ramp_up_end_rps, self.ramp_up_strategy, count)
        if math.isinf(self.burstiness):
            gaps = 1.0 / rates
        else:
            # numpy.random.seed(seed) and numpy.random.gamma, without touching the global generator
            gaps = np.random.RandomState(seed).gamma(self.burstiness, 1.0 / (rates * self.burstiness))
        sums: Floats = np.cumsum(gaps)
        if self.ramp_up_strategy is None and sums[-1] != 0.0:
            sums = sums * (count / self.rate / sums[-1])
        return sums


@dataclass(frozen=True, slots=True)
class VllmRandomLengths:
    """`--dataset-name random`: whole numbers around ``input_len`` and ``output_len``, all inputs drawn first.

    ``special_tokens`` are those the tokenizer adds to a prompt: vLLM draws without them and the server adds
    them again, so they are part of the prompt here.  ``prefix_len`` tokens, the same for all, come in front.
    """

    input_len: int = 1024
    output_len: int = 128
    input_range_ratio: float = 0.0
    output_range_ratio: float = 0.0
    prefix_len: int = 0
    special_tokens: int = 0

    @property
    def label(self) -> str:
        """Name and bounds."""
        (low, high), (output_low, output_high) = self.bounds
        return f"vllm bench random, prompt {low}-{high}, output {output_low}-{output_high} tokens"

    @property
    def bounds(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Lowest and highest drawn input, lowest and highest drawn output; all included."""
        real = max(0, self.input_len - self.special_tokens)
        inputs = (math.floor(real * (1 - self.input_range_ratio)), math.ceil(real * (1 + self.input_range_ratio)))
        low = math.floor(self.output_len * (1 - self.output_range_ratio))
        high = math.ceil(self.output_len * (1 + self.output_range_ratio))
        return inputs, (max(low, 1), max(high, 1))

    def bodies(self, seed: int, count: int | None) -> Iterator[Body]:
        """Yield ``count`` lengths.

        Raises:
            ValueError: ``count`` is None; vLLM draws all inputs before the first output.
        """
        if count is None:
            raise ValueError("vLLM's random dataset needs the number of requests")
        (low, high), (output_low, output_high) = self.bounds
        random = np.random.default_rng(seed)
        inputs = random.integers(low, high + 1, size=count) + (self.prefix_len + self.special_tokens)
        outputs = random.integers(output_low, output_high + 1, size=count)
        prefix = SharedPrefixes(1, self.prefix_len).all()[0] if self.prefix_len >= PREFIX_BLOCK_TOKENS else None
        return ((prompt, output, prefix) for prompt, output in zip(inputs.tolist(), outputs.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class PrefixRepetition:
    """`--dataset-name prefix_repetition`: ``num_prefixes`` beginnings, each with as many suffixes, shuffled.

    vLLM's own order depends on its tokenizer; lengths and shares are the same, the order is drawn here.
    """

    prefix_len: int = 256
    suffix_len: int = 256
    num_prefixes: int = 10
    output_len: int = 128

    @property
    def label(self) -> str:
        """Name and lengths."""
        return f"{self.num_prefixes} prefixes of {self.prefix_len} + {self.suffix_len} tokens, output {self.output_len}"

    def bodies(self, seed: int, count: int | None) -> Iterator[Body]:
        """Yield ``count`` lengths, less what does not divide by the number of prefixes.

        Raises:
            ValueError: ``count`` is None or less than the number of prefixes.
        """
        if count is None or count < self.num_prefixes:
            raise ValueError(f"needs at least {self.num_prefixes} requests, one for each prefix")
        each = count // self.num_prefixes
        order = np.repeat(np.arange(self.num_prefixes), each)
        stream(seed, "lengths", "prefix").shuffle(order)
        known: list[Prefix] = SharedPrefixes(self.num_prefixes, self.prefix_len).all()
        prompt = self.prefix_len + self.suffix_len
        return ((prompt, self.output_len, known[number]) for number in order.tolist())
