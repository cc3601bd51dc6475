"""How an engine's flags cut a replica: tensor, pipeline, attention data and expert parallelism, in each engine's words.

- vLLM: ``data_parallel_size`` ranks of ``tensor_parallel_size`` devices; ``enable_expert_parallel`` deals the experts
  whole over all of them (EP = TP x DP), without it each expert is cut over all of them (``FusedMoEParallelConfig``).
- SGLang: ``tp_size`` devices in all; with ``enable_dp_attention`` ``dp_size`` ranks of ``tp_size / dp_size``; experts
  over ``ep_size`` devices.  ``chunked_prefill_size`` and ``max_running_requests`` are those of all ranks together
  (``ServerArgs``: both are divided by ``dp_size``; from memory of 0.5).
- TensorRT-LLM: ``tensor_parallel_size`` devices in all; with ``enable_attention_dp`` each is a rank; experts over
  ``moe_expert_parallel_size`` devices.

A model without experts gains nothing from ranks that move together: for it such flags are warned about, and one rank
runs.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmsim.engine_options import EngineOptions
from llmsim.model.shape import ModelShape
from llmsim.parallel import Plan, fewest_experts
from llmsim.performance.expert_layers import DEFAULT_EXCHANGE
from llmsim.schema.engine import EngineChoice
from llmsim.schema.other_flags import engine_of

Problem = tuple[str, str]

_OF_EXPERTS = (
    "enable_expert_parallel",
    "ep_size",
    "moe_expert_parallel_size",
    "enable_dp_attention",
    "enable_attention_dp",
)
_EXCHANGE_FLAGS = {"vllm": "all2all_backend", "sglang": "moe_a2a_backend"}
# What the flags may say -> what is priced; anything else is priced as the default, with a warning.
_EXCHANGES = {
    DEFAULT_EXCHANGE: DEFAULT_EXCHANGE, "none": DEFAULT_EXCHANGE, "deepep": "deepep_auto",
    "deepep_low_latency": "deepep_low_latency", "deepep_high_throughput": "deepep_high_throughput",
}  # fmt: skip


def plan_of(given: Mapping[str, Any], preset: str, model: ModelShape | None) -> tuple[Plan, list[Problem]]:
    """Return the plan that flags ask for, and what is wrong with them as (flag, what).

    Args:
        given: what the user said, by flag; None means nothing.
        preset: engine and version.
        model: whether it has experts decides what the flags mean; None: it is not known, taken as one without.
    """
    tensor, pipeline = given.get("tensor_parallel_size") or 1, given.get("pipeline_parallel_size") or 1
    plain = Plan(tensor, pipeline)
    mixture = model is not None and fewest_experts(model) > 0
    if not mixture:
        return plain, []
    engine = engine_of(preset)
    if engine == "vllm":
        data = given.get("data_parallel_size") or 1
        expert = tensor * data if given.get("enable_expert_parallel") else 1
        return Plan(tensor, pipeline, data, expert), []
    if engine == "trtllm":
        data = tensor if given.get("enable_attention_dp") else 1
        name, expert = "moe_expert_parallel_size", given.get("moe_expert_parallel_size") or 1
    else:
        data = (given.get("data_parallel_size") or 1) if given.get("enable_dp_attention") else 1
        name, expert = "ep_size", given.get("ep_size") or 1
    if tensor % data:
        return plain, [("data_parallel_size", f"{data} ranks do not divide tensor_parallel_size {tensor}\n"
                        "hint: with enable_dp_attention tensor_parallel_size counts all devices")]  # fmt: skip
    if tensor % expert:
        return plain, [(name, f"{expert} does not divide tensor_parallel_size {tensor}")]
    return Plan(tensor // data, pipeline, data, expert), []


def of_ranks(choice: EngineChoice, plan: Plan, given: Mapping[str, Any], preset: str) -> EngineChoice:
    """Return the options as those of one rank of ``plan``, with what cannot be simulated together with ranks."""
    engine = engine_of(preset)
    options = replace(
        choice.options, tensor_parallel_size=plan.tensor, data_parallel_size=plan.data,
        enable_expert_parallel=plan.expert > 1,
    )  # fmt: skip
    warnings = [*choice.warnings, *_unused(given, choice.model, plan, engine)]
    if plan.data == 1:
        return replace(choice, options=options, warnings=warnings)
    name = _EXCHANGE_FLAGS.get(engine, "")
    wanted = str(given.get(name) or DEFAULT_EXCHANGE)
    exchange = _EXCHANGES.get(wanted)
    if exchange is None:
        warnings.append(f"engine.{name}: {wanted} is priced as {DEFAULT_EXCHANGE}")
    options = replace(options, all2all_backend=exchange or DEFAULT_EXCHANGE)
    problems = list(choice.problems)
    if options.speculation is not None:
        problems.append(("speculative_config", "drafts are not simulated together with attention data parallelism"))
    if engine == "sglang":
        options = _divided(options, plan.data)
    if options.enable_prefix_caching:
        warnings.append("engine: ranks of attention share one prefix cache here; a real rank finds only its own")
    return replace(choice, options=options, problems=problems, warnings=warnings)


def _divided(options: EngineOptions, ranks: int) -> EngineOptions:
    """Return the options of one of SGLang's ranks, among which the limits of all are divided."""
    seqs = max(options.max_num_seqs // ranks, 1)
    tokens = max(options.max_num_batched_tokens // ranks, seqs)
    return replace(
        options, max_num_seqs=seqs, max_num_active_seqs=seqs, max_num_batched_tokens=tokens,
        max_num_scheduled_tokens=tokens,
    )  # fmt: skip


def _unused(given: Mapping[str, Any], model: ModelShape, plan: Plan, engine: str) -> list[str]:
    """Return a warning for each flag of ranks and experts that changes nothing here."""
    said = []
    copies = given.get("data_parallel_size") or 1
    if copies > 1 and plan.data == 1:
        hint = "give enable_dp_attention, or use" if engine == "sglang" else "use"
        said.append(
            f"engine.data_parallel_size: {copies} copies share nothing here, one runs; {hint} deployment.replicas"
        )
    if not fewest_experts(model):
        wanted = [name for name in _OF_EXPERTS if given.get(name) is True or (given.get(name) or 1) > 1]
        said += [f"engine.{name}: changes nothing, {model.name} has no experts" for name in wanted]
    return said
