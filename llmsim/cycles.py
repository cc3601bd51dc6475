"""Clock cycles: one request of a scenario, moment by moment, without a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmsim.errors import InputError
from llmsim.performance.life import Life, life_of
from llmsim.performance.stage_prices import StagePrices

if TYPE_CHECKING:
    from llmsim.schema import Resolved, Scenario

PROMPT, OUTPUT = 1024, 128  # tokens, when nothing is said: `vllm bench serve`'s random data set


def cycles(scenario: Scenario | Resolved, *, prompt: int = PROMPT, output: int = OUTPUT) -> Life:
    """Return the life of one request that has an engine of the scenario to itself.

    Raises:
        InputError: a length is below 1, or the context window cannot hold the request.
        InfeasibleError: the model does not fit.
    """
    from llmsim.schema import Resolved, resolve
    from llmsim.simulation import Simulation

    resolved = scenario if isinstance(scenario, Resolved) else resolve(scenario)
    options = resolved.options
    if prompt < 1 or output < (0 if options.prefill_only else 1):
        raise InputError(f"cycles: prompt and output: at least one token each (got {prompt} and {output})")
    longest = prompt + (0 if options.prefill_only else output)
    if longest > options.max_model_len:
        raise InputError(f"cycles: {longest} tokens are more than max_model_len {options.max_model_len}")
    parts = Simulation(resolved).parts
    stages = [cost.prices for cost in parts.engines[0].costs]
    if not all(isinstance(stage, StagePrices) for stage in stages):
        raise InputError("cycles: prices of this scenario are not those of kernels")
    return life_of(
        stages,  # type: ignore[arg-type]  # looked at above
        options,
        prompt=prompt,
        output=output,
        tokenize_s=prompt * resolved.scenario.performance.tokenize_us_per_token * 1e-6,
        clock_hz=resolved.device.clock_hz,
        host_clock_hz=resolved.node.host.clock_hz,
    )
