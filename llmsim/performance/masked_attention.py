"""Decode attention by TensorRT-LLM's masked multi-head attention, the kernel of its first year.

It multiplies without tensor cores, one thread block for each query head of each sequence, and query heads that share a
KV head do not share its keys and values: each block loads and multiplies all of them itself.  The memory sees them
once, for the blocks of a group run side by side and find them in the second-level cache, but the multiprocessors do the
work of a model in which every query head has a KV head of its own.  So a step takes what the memory needs for the
cache, or what the multiprocessors need for the elements that all query heads multiply, whichever is longer.

XQA, the kernel on tensor cores, reads a KV head once for its group.  Which groups it takes is told by each stack
(``shares`` in ``stacks.yaml``): none before 0.8, groups of eight in 0.8 and 0.9, powers of two to 32 since XQA is
compiled at run time (0.10).

Source: TensorRT-LLM, ``decoderMaskedMultiheadAttentionTemplate.h``, ``decoderXQARunner.h`` (``shouldUse``, of 0.9) and
``docs/source/blogs/XQA-kernel.md``; from memory.  That XQA was compiled at run time from 0.10 on is not sure.
"""

import numpy as np
from numpy.typing import ArrayLike

from llmsim.performance.fits import Chip, MaskedFit
from llmsim.performance.kernels import Array, Price, p_norm

# How sharply the longer of the two bounds rules: blocks of many heads and sequences overlap nearly all of the other.
SHARPNESS = 8.0


class MaskedAttention:
    """Prices of one layer's decode attention on one rank.

    Args:
        fit: the constants.
        chip: the device's figures.
        clock_hz: clock of its multiprocessors.
        heads: query heads of the rank.
        kv_heads: KV heads of the rank.
        head_dim: elements of a head.
        cache_bytes: bytes of an element of the cache.
    """

    def __init__(
        self,
        fit: MaskedFit,
        chip: Chip,
        clock_hz: float,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        cache_bytes: float,
    ) -> None:
        self._launch = fit.t0_us * 1e-6
        self._read_s = 2 * kv_heads * head_dim * cache_bytes / (chip.bandwidth * fit.e_bw)
        self._multiply_s = 2 * heads * head_dim / (chip.multiprocessors * clock_hz * fit.elements)

    def price(self, batch: ArrayLike, context: ArrayLike) -> Price:
        """Price ``batch`` sequences at mean attended length ``context``."""
        tokens: Array = np.asarray(batch, dtype=np.float64) * np.asarray(context, dtype=np.float64)
        _, (memory_s, compute_s) = p_norm(SHARPNESS, tokens * self._read_s, tokens * self._multiply_s)
        return Price(np.full_like(memory_s, self._launch), compute_s, memory_s)

    def seconds(self, decodes: int, context_sum: float) -> tuple[float, float]:
        """Return the time of ``decodes`` sequences that attend to ``context_sum`` tokens, and the part that computes.

        The launch is left out.
        """
        read, multiply = (self._read_s**SHARPNESS, self._multiply_s**SHARPNESS)
        each = (read + multiply) ** (1 / SHARPNESS)
        return context_sum * each, context_sum * each * multiply / (read + multiply)
