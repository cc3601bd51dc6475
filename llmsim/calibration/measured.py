"""What somebody measured: a load with its latencies, single forward passes, single kernels."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A run under load with a record for each request, in order of arrival; seconds, not known: nan.

    ``rate`` is inf where all came at once; ``concurrency`` limits what was under way; ``at_engine`` says that the
    stamps were taken inside the server, behind its tokenizer and before the network.
    """

    name: str
    arrivals: Floats
    prompts: NDArray[np.int64]
    outputs: NDArray[np.int64]
    first_token: Floats
    end_to_end: Floats
    rate: float | None = None
    concurrency: int | None = None
    at_engine: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """A run under load of which only means and medians are known.

    ``metrics`` have the names of ``vllm bench serve``, such as ``mean_ttft_ms``; ``prompt`` and ``output`` are mean
    tokens of a request.
    """

    name: str
    requests: int
    prompt: float
    output: float
    rate: float
    burstiness: float
    concurrency: int | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: new tokens and tokens before them, for each sequence; seconds."""

    label: str
    sequences: tuple[tuple[int, int], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Passes:
    """Forward passes of exact batches, each timed alone."""

    name: str
    cases: tuple[Pass, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: operator, its sizes by name, seconds."""

    operator: str
    sizes: Mapping[str, float]
    seconds: float
    line: int


@dataclass(frozen=True, slots=True)
class Kernels:
    """Kernels that were timed alone."""

    name: str
    rows: tuple[Kernel, ...]
    notes: tuple[str, ...] = field(default=())


Measured = Load | Totals | Passes | Kernels
