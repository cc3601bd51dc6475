"""Streams of (prompt tokens, output tokens, shared prefix): what is asked, apart from when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmsim.random import stream
from llmsim.workload.distributions import ConditionalTable, Length, whole_tokens
from llmsim.workload.normal import normal_probability, normal_quantile
from llmsim.workload.request import Prefix

Floats = NDArray[np.float64]
Body = tuple[int, int, Prefix | None]

CHUNK = 4096
PREFIX_BLOCK_TOKENS = 16  # vLLM's default block; shared prefixes are cut down to whole blocks of this size


class Lengths(Protocol):
    """A source of lengths."""

    @property
    def label(self) -> str:
        """Name for a header."""
        ...

    def bodies(self, seed: int, count: int | None) -> Iterator[Body]:
        """Yield (prompt tokens, output tokens, shared prefix); may end before ``count``."""
        ...


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Beginnings that requests have in common: ``count`` of them, the k-th chosen with weight k ** -``zipf``."""

    count: int
    tokens: int
    zipf: float = 0.0

    def choose(self, uniform: Floats) -> NDArray[np.int64]:
        """Return the number of the prefix for each draw."""
        weights = np.arange(1, self.count + 1, dtype=np.float64) ** -self.zipf
        cumulative = np.cumsum(weights) / weights.sum()
        return np.minimum(np.searchsorted(cumulative, uniform, side="right"), self.count - 1)

    def all(self) -> list[Prefix]:
        """Return every prefix, in whole blocks."""
        blocks = self.tokens // PREFIX_BLOCK_TOKENS
        return [
            Prefix(tuple(range(number * blocks, (number + 1) * blocks)), PREFIX_BLOCK_TOKENS)
            for number in range(self.count)
        ]


@dataclass(frozen=True, slots=True)
class SampledLengths:
    """Prompts and outputs drawn from distributions, each side from a random stream of its own.

    Outputs depend on prompts through a ``conditional`` table, or through the rank ``correlation`` of a Gaussian
    copula, or not at all.  Shared prefixes lie inside the drawn prompt length, or, ``prefix_added``,
    in front of it.
    """

    label: str
    prompt: Length
    output: Length
    conditional: ConditionalTable | None = None
    correlation: float = 0.0
    prefixes: SharedPrefixes | None = None
    prefix_added: bool = False
    chunk: int = CHUNK

    def bodies(self, seed: int, count: int | None) -> Iterator[Body]:
        """Yield for ever."""
        prompt_draws, output_draws = stream(seed, "lengths", "prompt"), stream(seed, "lengths", "output")
        prefix_draws = stream(seed, "lengths", "prefix")
        size = self.chunk if count is None else max(1, min(self.chunk, count))
        while True:
            u, v = prompt_draws.random(size), output_draws.random(size)
            prompts = self.prompt.tokens(u)
            outputs = self._outputs(u, v, prompts)
            if self.prefixes is None:
                yield from zip(prompts.tolist(), outputs.tolist(), repeat(None))
            else:
                chosen = self.prefixes.choose(prefix_draws.random(size)).tolist()
                yield from self._prefixed(prompts.tolist(), outputs.tolist(), chosen, self.prefixes)

    def _outputs(self, u: Floats, v: Floats, prompts: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.conditional is not None:
            values = self.conditional.quantile(v, prompts.astype(np.float64))
            return whole_tokens(values, self.output.low, self.output.high)
        if self.correlation:
            rest = (1.0 - self.correlation**2) ** 0.5
            v = normal_probability(self.correlation * normal_quantile(u) + rest * normal_quantile(v))
        return self.output.tokens(v)

    def _prefixed(
        self, prompts: list[int], outputs: list[int], chosen: Sequence[int], prefixes: SharedPrefixes
    ) -> Iterator[Body]:
        known = prefixes.all()
        for prompt, output, number in zip(prompts, outputs, chosen, strict=True):
            prefix = known[number]
            if self.prefix_added:
                prompt += prefixes.tokens
            whole = min(prompt, prefixes.tokens) // PREFIX_BLOCK_TOKENS  # whole blocks of text in common
            if whole < len(prefix.hash_ids):
                prefix = Prefix(prefix.hash_ids[:whole], PREFIX_BLOCK_TOKENS)
            yield prompt, output, prefix
