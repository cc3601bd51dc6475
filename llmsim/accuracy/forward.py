"""One forward pass of a batch: encoders, segments, and prompts that nothing follows."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsim.accuracy.machines import Machines
from llmsim.accuracy.outcome import Outcome
from llmsim.accuracy.parts import RESOURCES, WEIGHTS, factors_of
from llmsim.accuracy.setups import Setup
from llmsim.errors import ScenarioError
from llmsim.performance.correction import StackCorrection, stack_of

if TYPE_CHECKING:
    from llmsim.performance.stage_prices import StagePrices


def predict_forward(setup: Setup, machines: Machines) -> Outcome:
    """Return what one pass over ``batch`` prompts takes; the stages of a pipeline one after the other.

    Raises:
        LlmsimError: the model cannot be cut so, or a format is not known.
    """
    stages, layers = _prices(setup, machines)
    correction = machines.correction(setup)
    chunks = [(setup.prompt, 0)] * setup.batch
    tokens = np.array([float(setup.batch * setup.prompt)])
    rows = np.array([float(setup.batch)])
    device = host = 0.0
    classes = []
    for prices in stages:
        outside = (prices.linear(tokens) + prices.head(rows))[:, 0]
        kinds = np.array([resource for resource, _ in prices.kinds])
        mixed = [prices.mixed_attention(group, chunks, 0, 0.0, 0.0) for group in range(len(prices.windows))]
        compute = sum(spent * share for spent, share in mixed)
        memory = sum(spent for spent, _ in mixed) - compute
        parts = [float(outside[kinds == resource].sum()) for resource in RESOURCES]
        parts += [0.0, compute, memory, float(outside[kinds == "communication"].sum())]
        device += sum(parts)
        host += float(prices.host(rows, tokens)[0])
        plain = (np.array(parts) / factors_of(correction)).tolist()
        classes.append([*[1.0] * len(WEIGHTS), *plain, float(setup.batch)])
    seconds = max(device, host)
    base = [float(stages[0].host(np.array([float(count)]), np.ones(1))[0]) for count in (0, 1)]
    told = {"layers": layers, "beside": True, "host_us": [1e6 * base[0], 1e6 * (base[1] - base[0])],
             "classes": [[float(f"{value:.6g}") for value in row] for row in classes]}  # fmt: skip
    numbers = {
        "e2e_ms:batch": 1e3 * seconds,
        "ttft_ms:batch": 1e3 * seconds,
        "total_tok_s": float(tokens[0]) / seconds,
        "output_tok_s": float(tokens[0]) / seconds,
        "req_s": setup.batch / seconds,
    }
    return Outcome(numbers, layer=machines.layer(setup, stages[0].label), parts=told)


def _prices(setup: Setup, machines: Machines) -> tuple[list["StagePrices"], int]:
    """Return the prices of each stage, and the layers of the first."""
    from llmsim.hardware import cluster_of, load_device, load_node
    from llmsim.model import load_model
    from llmsim.parallel import Plan, place
    from llmsim.performance.stage_prices import StagePrices
    from llmsim.schema.engine import choose

    device = load_device(setup.device)
    flags: dict[str, Any] = json.loads(setup.engine)
    wanted = ("quantization", "dtype", "kv_cache_dtype")
    formats: dict[str, Any] = {name: flags[name] for name in wanted if name in flags}
    choice = choose(formats, setup.preset, load_model(setup.model), device)
    problems = [what for name, what in choice.problems if name in formats]
    if problems:
        raise ScenarioError(problems[0])
    plan = Plan(setup.tensor, setup.pipeline)
    node = load_node(device.node or "")
    cluster = cluster_of(node, -(-plan.devices // node.devices))
    stack = stack_of(setup.stack)
    correction: StackCorrection = machines.correction(setup)
    stages = place(choice.model, plan, cluster)[0]
    made = [
        StagePrices(
            choice.model, plan, stage, device, stack=stack.kernels, cache_format=choice.options.cache_format,
            eager=bool(flags.get("enforce_eager")), correction=correction,
        )
        for stage in stages
    ]  # fmt: skip
    return made, stages[0].layers
