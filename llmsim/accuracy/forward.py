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
    """Return what one pass over ``batch`` prompts takes.

    The stages of a pipeline work one after the other on each part of the batch, and side by side on several: behind
    the first part, the others follow as fast as the slowest stage.

    Raises:
        LlmsimError: the model cannot be cut so, or a format is not known.
    """
    stages, layers = _prices(setup, machines)
    correction = machines.correction(setup)
    count = setup.batch // setup.parts
    chunks = [(setup.prompt, setup.before)] * count
    tokens = np.array([float(count * setup.prompt)])
    rows = np.array([float(count)])
    devices, hosts, classes = [], [], []
    for prices in stages:
        outside = (prices.linear(tokens) + prices.head(rows))[:, 0]
        kinds = np.array([resource for resource, _ in prices.kinds])
        mixed = [prices.mixed_attention(group, chunks, 0, 0.0, 0.0) for group in range(len(prices.windows))]
        compute = sum(spent * share for spent, share in mixed)
        memory = sum(spent for spent, _ in mixed) - compute
        parts = [float(outside[kinds == resource].sum()) for resource in RESOURCES]
        parts += [0.0, compute, memory, float(outside[kinds == "communication"].sum()), 0.0, 0.0]
        # What llama.cpp cuts into micro-batches of tokens passes the stages like parts of a batch.
        micro = max(-(-int(tokens[0]) // (prices.micro_batch or int(tokens[0]))), 1)
        parts = [part / micro for part in parts]
        devices.append(sum(parts))
        hosts.append(float(prices.host(rows, tokens)[0]))
        classes.append([*(np.array(parts) / factors_of(correction)).tolist(), float(count)])
    times = [max(pair) for pair in zip(devices, hosts, strict=True)]
    slowest = times.index(max(times))
    passes = [float(setup.parts * micro if stage == slowest else 1) for stage in range(len(times))]
    seconds = sum(time * often for time, often in zip(times, passes, strict=True))
    classes = [[*[often] * len(WEIGHTS), *row] for often, row in zip(passes, classes, strict=True)]
    told = {"layers": layers, "beside": True, "host_us": list(stages[0].host_table_us),
             "classes": [[float(f"{value:.6g}") for value in row] for row in classes]}  # fmt: skip
    numbers = {
        "e2e_ms:batch": 1e3 * seconds,
        "ttft_ms:batch": 1e3 * seconds,
        "total_tok_s": setup.batch * setup.prompt / seconds,
        "output_tok_s": setup.batch * setup.prompt / seconds,
        "req_s": setup.batch / seconds,
    }
    return Outcome(numbers, layer=machines.layer(setup, stages[0].label), parts=told)


def _prices(setup: Setup, machines: Machines) -> tuple[list["StagePrices"], float]:
    """Return the prices of each stage, and the layers of the first as the host counts them."""
    from llmsim.hardware import cluster_of, load_device, load_node
    from llmsim.model import load_model
    from llmsim.parallel import place
    from llmsim.performance.ggml_prices import prices_of_stage
    from llmsim.schema.engine import choose
    from llmsim.schema.parallelism import plan_of

    device = load_device(setup.device)
    flags: dict[str, Any] = json.loads(setup.engine)
    wanted = ("quantization", "dtype", "kv_cache_dtype")
    formats: dict[str, Any] = {name: flags[name] for name in wanted if name in flags}
    choice = choose(formats, setup.preset, load_model(setup.model), device)
    problems = [what for name, what in choice.problems if name in formats]
    if problems:
        raise ScenarioError(problems[0])
    sizes = {**flags, "tensor_parallel_size": setup.tensor, "pipeline_parallel_size": setup.pipeline}
    plan, _ = plan_of(sizes, setup.preset, choice.model)
    node = load_node(setup.node or device.node or "")
    cluster = cluster_of(node, -(-plan.devices // node.devices))
    stack = stack_of(setup.stack)
    correction: StackCorrection = machines.correction(setup)
    stages = place(choice.model, plan, cluster)[0]
    made = [
        prices_of_stage(
            choice.model, plan, stage, device, stack=stack.kernels, cache_format=choice.options.cache_format,
            eager=bool(flags.get("enforce_eager")), correction=correction,
        )
        for stage in stages
    ]  # fmt: skip
    return made, made[0].host_layers
