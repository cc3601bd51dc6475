"""What a scenario takes of its devices' memory, without simulating it: `memory`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmsim.performance.drafts import draft_memory

if TYPE_CHECKING:
    from llmsim.performance.memory_report import Memory
    from llmsim.schema import Resolved, Scenario


def memory(scenario: Scenario | Resolved) -> Memory:
    """Return what the weights, the activations, the libraries and the cache of a scenario take; nothing is simulated.

    A model that does not fit is an answer here, not an error: ``fits`` is False, ``problems`` say by how much, and
    ``fewest_tensor`` is the smallest tensor-parallel size that would do.

    Raises:
        InputError: the scenario is wrong.
        InfeasibleError: the plan does not divide the model, or the cluster has too few devices for it.
    """
    from llmsim.performance.memory_report import report
    from llmsim.schema import Resolved, resolve

    resolved = scenario if isinstance(scenario, Resolved) else resolve(scenario)
    options = resolved.options
    return report(
        resolved.model,
        resolved.plan,
        resolved.device,
        preset=resolved.preset,
        max_model_len=options.max_model_len,
        cache_options=cache_options(resolved),
    )


def cache_options(resolved: Resolved) -> dict[str, Any]:
    """Return the arguments of `llmsim.performance.memory.kv_blocks` that a scenario's options make."""
    options = resolved.options
    draft = draft_memory(options.speculation, options.cache_format)
    graphs_count = options.graphs_in_budget or options.memory_rule != "total"
    return {
        "block_size": options.block_size,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "weight_format": weight_format(resolved),
        "cache_format": options.cache_format,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "max_num_seqs": options.max_num_seqs,
        "cuda_graphs": options.cudagraph_sizes if graphs_count else False,
        "num_gpu_blocks_override": options.num_gpu_blocks_override,
        "kv_cache_memory_bytes": options.kv_cache_memory_bytes,
        "memory_rule": options.memory_rule,
        "null_block": options.null_block,
        "max_cache_tokens": options.max_cache_tokens,
        "draft_weight_bytes": draft.weight_bytes,
        "draft_cache_bytes": draft.cache_bytes_per_token,
    }


def weight_format(resolved: Resolved) -> str | None:
    """Return the format that the user wants instead of the checkpoint's own, which may mix several."""
    wanted = resolved.options.weight_format
    return None if wanted == resolved.model.weight_format else wanted
