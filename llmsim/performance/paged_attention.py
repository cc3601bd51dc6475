"""Decode attention by the PagedAttention kernels of early vLLM, which builds for AMD and Intel GPUs ran through 2024.

Each query head of each sequence is a thread block of its own and reads the keys and values that it attends to itself:
query heads that share a KV head share nothing but what the cache of the chip happens to hold.  Version 2 cuts contexts
into parts of 512 tokens and keeps the memory busy at any batch.  Version 1 walks the context with one block of 128
threads, whose logits fill shared memory: it holds 4 bytes for each token that a context *may* have, so few blocks live
on a multiprocessor, and each waits for its own loads.

Version 1 is taken when sequences times heads are more than 512 and contexts may not be longer than 8,192 tokens.
Under captured graphs, the default, the longest possible context counts, not the one at hand.

DeepSpeed-FastGen decodes by an early FlashAttention-2 over blocks, which reads the cache for each query head too and
has no version 1 (``deepspeed/inference/v2/kernels/ragged_ops/blocked_flash``; from memory).

Source: vLLM 0.3-0.6, ``vllm/attention/ops/paged_attn.py`` (``PagedAttention.forward_decode``) and
``csrc/attention/attention_kernels.cu``; ``max_seq_len_to_capture`` of 8,192 is in ``vllm/config.py``; from memory.
"""

from math import inf

import numpy as np
from numpy.typing import ArrayLike

from llmsim.performance.fits import Chip, PagedFit
from llmsim.performance.kernels import Array, Price

CAPTURED_TOKENS = 8192  # longest context of captured graphs, and the longest that version 1 takes
MOST_BLOCKS_OF_VERSION_2 = 512  # sequences times heads up to which version 2 is taken
THREADS, LOAD_BYTES = 128, 16  # of a block, and of a load of one thread
LOGIT_BYTES = 4


class PagedAttention:
    """Prices of one layer's decode attention on one rank.

    Args:
        fit: the constants.
        chip: the device's figures.
        heads: query heads of the rank.
        head_dim: elements of a head.
        cache_bytes: bytes of an element of the cache.
        longest: tokens that the model's context may have.
    """

    def __init__(
        self, fit: PagedFit, chip: Chip, heads: int, head_dim: int, *, cache_bytes: float, longest: int
    ) -> None:
        self._heads = heads
        self._launch = fit.t0_us * 1e-6
        self._token_bytes = 2 * head_dim * cache_bytes  # of one head
        self._stream = chip.bandwidth * fit.e_bw
        captured = min(longest, CAPTURED_TOKENS)
        resident = max(int(fit.shared_kB * 1024 // (LOGIT_BYTES * captured)), 1)
        self._places = chip.multiprocessors * resident
        self._block_rate = THREADS * LOAD_BYTES / (fit.round_us * 1e-6) if fit.round_us else inf

    def price(self, batch: ArrayLike, context: ArrayLike) -> Price:
        """Price ``batch`` sequences at mean attended length ``context``."""
        batch, context = np.asarray(batch, dtype=np.float64), np.asarray(context, dtype=np.float64)
        blocks = batch * self._heads
        moved = blocks * context * self._token_bytes
        lone = self._block_rate * np.minimum(blocks, self._places)
        rate = np.where(blocks > MOST_BLOCKS_OF_VERSION_2, np.minimum(lone, self._stream), self._stream)
        seconds: Array = moved / rate
        return Price(np.full_like(seconds, self._launch), np.zeros_like(seconds), seconds)

    def seconds(self, decodes: int, context_sum: float) -> float:
        """Return the time of ``decodes`` sequences that attend to ``context_sum`` tokens in all, launch left out."""
        return float(self.price(decodes, context_sum / decodes).memory)
