"""A layout with ranks of attention and dealt experts, in the flags of the engine that ran it."""

from typing import Any

from llmsim.accuracy.layouts import Layout


def flags_of(layout: Layout, preset: str) -> tuple[int, dict[str, Any]]:
    """Return ``tensor_parallel_size`` as an engine counts it, and its flags for ranks of attention and for experts.

    vLLM deals experts over all devices or over none; where a row tells something between, none is nearer.
    """
    group = layout.tensor * layout.data
    if preset.startswith("vllm"):
        flags: dict[str, Any] = {"data_parallel_size": layout.data} if layout.data > 1 else {}
        return layout.tensor, flags | ({"enable_expert_parallel": True} if layout.expert == group > 1 else {})
    if preset.startswith("sglang"):
        flags = {"data_parallel_size": layout.data, "enable_dp_attention": True} if layout.data > 1 else {}
        return group, flags | ({"ep_size": layout.expert} if layout.expert > 1 else {})
    flags = {"enable_attention_dp": True} if layout.data > 1 else {}
    return group, flags | ({"moe_expert_parallel_size": layout.expert} if layout.expert > 1 else {})
