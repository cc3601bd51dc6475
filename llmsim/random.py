"""Random streams: one per purpose, all from one seed.

A draw that is added to one stream moves nothing in another, so two schedulers that are compared
face the very same arrivals (common random numbers).
"""

import zlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of the purpose ``names``, for example ``stream(0, "arrivals")``.

    The same seed and names give the same draws in every process and on every machine.
    """
    key = tuple(name if isinstance(name, int) else zlib.crc32(name.encode()) for name in names)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
