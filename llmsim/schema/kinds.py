"""What the kind of a model changes in an engine's options: encoders take whole prompts, states are no prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmsim.model.weights import cache_groups, state_bytes

if TYPE_CHECKING:
    from llmsim.schema.engine import EngineChoice


def by_kind(choice: EngineChoice, given: Mapping[str, Any]) -> EngineChoice:
    """Return ``choice`` with the options that an encoder, or recurrent layers, ask for.

    An encoder's pass cannot be cut, for each token sees what comes behind it: no chunked prefill, and a step that holds
    the longest prompt (vLLM's rule for pooling models).  Neither an encoder nor a recurrent state has prefixes that
    could be found again.  Where nothing grows with the text, a block is a sequence's whole state (vLLM's
    ``MambaSpec``, whose block is as long as the context).
    """
    model, options = choice.model, choice.options
    whole = model.encoder_only or bool(model.encoder)
    states = state_bytes(model) > 0
    if not whole and not states:
        return choice
    changes: dict[str, Any] = {"enable_prefix_caching": False, "prefill_only": model.encoder_only}
    warnings, problems = list(choice.warnings), list(choice.problems)
    if given.get("enable_prefix_caching"):
        warnings.append(f"engine.enable_prefix_caching: not modelled for {model.name}, whose layers keep no prefixes")
    if whole:
        if given.get("enable_chunked_prefill"):
            problems.append(("enable_chunked_prefill", f"an encoder reads a prompt as a whole (got {model.name})"))
        tokens = max(options.max_num_batched_tokens, options.max_model_len)
        changes |= {
            "enable_chunked_prefill": False,
            "long_prefill_token_threshold": 0,
            "max_num_batched_tokens": tokens,
            "max_num_scheduled_tokens": max(options.max_num_scheduled_tokens, options.max_model_len),
        }
        problems = [(name, said) for name, said in problems if "chunked prefill is off" not in said]
    if states and not cache_groups(model):
        changes["block_size"] = options.max_model_len
    if model.encoder_only:
        warnings.append(f"model {model.name} is an encoder: output lengths are ignored, a request is one forward pass")
    if options.speculation is not None:
        problems.append(("speculative_config", f"not modelled for {model.name}"))
    if options.pipeline_parallel_size > 1 and model.encoder:
        problems.append(("pipeline_parallel_size", f"not modelled for an encoder with a decoder (got {model.name})"))
    origins = {**choice.origins, **dict.fromkeys(changes, "model config")}
    return replace(choice, options=replace(options, **changes), origins=origins, warnings=warnings, problems=problems)
