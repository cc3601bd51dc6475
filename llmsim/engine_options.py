"""Every option of one engine, resolved: what the simulation reads of vLLM's flags, each with its final value."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Literal

from llmsim.model.shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Speculative decoding: ``tokens`` drafts for each sequence and step, which the target model verifies together.

    ``rates[i]`` is the probability that at least ``i + 1`` drafts of a step are accepted.  ``draft`` is the shape
    of what proposes them, None for look-ups in the text (ngram); it runs on ``draft_tensor`` devices.
    """

    method: Literal["ngram", "draft_model", "eagle", "eagle3", "mtp"]
    tokens: int
    rates: tuple[float, ...]
    draft: ModelShape | None = None
    draft_tensor: int = 1

    @property
    def lookahead(self) -> int:
        """Tokens beyond those of a step for which a sequence holds blocks: the drafts of the next one.

        Source: vLLM, ``Scheduler.__init__`` (``num_lookahead_tokens``), from memory of versions before 0.33.
        """
        return 0 if self.draft is None else self.tokens

    @property
    def draft_slots(self) -> int:
        """Tokens that the draft's pass computes for a sequence beside the target's: one for a draft model.

        Source: vLLM, ``SpeculativeConfig.max_num_new_slots_for_drafting``, from memory.
        """
        return int(self.method == "draft_model")

    @property
    def rereads_last_block(self) -> bool:
        """Whether the last block found in the cache is computed anew, for the hidden states that the draft needs.

        Source: vLLM, ``FullAttentionManager.find_longest_cache_hit`` (``use_eagle``), from memory.
        """
        return self.method in ("eagle", "eagle3", "mtp")

    @property
    def mean_tokens(self) -> float:
        """Tokens that one verification yields on average, the one that is always given included."""
        return 1.0 + sum(self.rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The options of one engine under their vLLM names; sizes in tokens, sequences, blocks or bytes.

    Nothing is left open here: defaults that depend on the device, on the model or on another option are
    already filled in.  None means "no limit" or "not overridden".  ``weight_format`` and ``cache_format``
    are keys of `llmsim.model.weights.FORMAT_BYTES`; ``cudagraph_sizes`` ascends and is empty without graphs.

    ``gpu_memory_utilization`` is a share of what ``memory_rule`` says (`llmsim.performance.memory`): with
    ``graphs_in_budget`` CUDA graphs count as used; ``null_block``: one block is never used.  ``prefill_only``: the
    model is an encoder, and a request ends with its forward pass.

    With attention data parallelism (``data_parallel_size`` above 1) the limits are those of one rank; `together` gives
    those of all ``ranks``, among which sequences are spread.  ``max_chunk_tokens`` is the most that a rank computes of
    one prompt in a step.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_scheduled_tokens: int
    max_num_active_seqs: int
    max_model_len: int
    block_size: int = 16
    gpu_memory_utilization: float = 0.92
    memory_rule: Literal["total", "static", "free"] = "total"
    graphs_in_budget: bool = True
    null_block: bool = True
    max_cache_tokens: int | None = None
    max_prompt_tokens: int | None = None
    num_gpu_blocks_override: int | None = None
    kv_cache_memory_bytes: int | None = None
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0
    prefill_schedule_interval: int = 1
    async_scheduling: bool = True
    stream_interval: int = 1
    max_num_queued_reqs: int | None = None
    max_num_queued_tokens: int | None = None
    enforce_eager: bool = False
    cudagraph_sizes: tuple[int, ...] = ()
    weight_format: str = "bf16"
    cache_format: str = "bf16"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    all2all_backend: str = "allgather_reducescatter"
    ranks: int = 1
    max_chunk_tokens: int | None = None
    speculation: Speculation | None = None
    prefill_only: bool = False

    @property
    def max_concurrent_batches(self) -> int:
        """How many batches an engine keeps in flight: one a stage, and one more with asynchronous scheduling."""
        return self.pipeline_parallel_size + int(self.async_scheduling)

    def together(self) -> "EngineOptions":
        """Return the options of the one scheduler that stands for those of all ranks: their limits added up."""
        ranks = self.data_parallel_size
        if ranks == 1 or self.ranks > 1:
            return self
        names = ("max_num_seqs", "max_num_active_seqs", "max_num_batched_tokens", "max_num_scheduled_tokens",
                 "max_num_queued_reqs", "max_num_queued_tokens")  # fmt: skip
        limits = {name: value * ranks for name in names if (value := getattr(self, name)) is not None}
        return replace(self, ranks=ranks, max_chunk_tokens=self.max_num_scheduled_tokens, **limits)

    def padded(self, tokens: int) -> int:
        """Return the size that a batch of ``tokens`` runs at: the next captured CUDA graph, if one is large enough.

        Of several ranks it is the size at which each runs; they all take that of the fullest.
        """
        tokens = -(-tokens // self.ranks)
        place = bisect_left(self.cudagraph_sizes, tokens)
        return self.cudagraph_sizes[place] if place < len(self.cudagraph_sizes) else tokens


def cudagraph_sizes(largest: int) -> tuple[int, ...]:
    """Return the batch sizes, at most ``largest``, for which vLLM captures a CUDA graph.

    Source: vLLM 0.33, ``VllmConfig._set_cudagraph_sizes``: 1, 2, 4, then every 8 up to 256, then every 16.
    """
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)]
    return tuple(size for size in sizes if size <= largest)
