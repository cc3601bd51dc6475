"""The kinds of work that time is attributed to: what it is spent on, and for which part of the model."""

import numpy as np

from llmsim.performance.kernels import Array, Price

RESOURCES = ("launch", "compute", "memory")
OPERATORS = ("embedding", "attention", "feed_forward", "experts", "head", "sampler")

# (resource, operator), in the order of the rows of every array of prices.  Host time is charged by the engine.
KINDS: tuple[tuple[str, str], ...] = (
    *((resource, operator) for operator in OPERATORS for resource in RESOURCES),
    ("communication", "collective"),
    ("host", "none"),
)

_COMMUNICATION = KINDS.index(("communication", "collective"))


class Tally:
    """Seconds by kind for ``size`` alternatives side by side: [len(KINDS), size]."""

    def __init__(self, size: int) -> None:
        self.seconds: Array = np.zeros((len(KINDS), size))

    def add(self, operator: str, price: Price, times: float = 1.0) -> None:
        """Add ``times`` kernels of one operator."""
        first = len(RESOURCES) * OPERATORS.index(operator)
        self.seconds[first] += times * price.launch
        self.seconds[first + 1] += times * price.compute
        self.seconds[first + 2] += times * price.memory

    def add_communication(self, seconds: Array, times: float = 1.0) -> None:
        """Add ``times`` transfers between devices."""
        self.seconds[_COMMUNICATION] += times * seconds
