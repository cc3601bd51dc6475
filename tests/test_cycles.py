"""`llmsim cycles`: moments add up to what the simulation says of a request alone; cycles are seconds times clocks."""

import json

import pytest
from click.testing import CliRunner

from llmsim.cli.app import cli
from llmsim.cycles import cycles
from llmsim.errors import InputError
from llmsim.schema import load, resolve
from llmsim.simulation import simulate


def scenario(model="llama-3.1-8b", gpu="h100-sxm", prompt=1024, output=128, **sections):
    return load({
        "model": model,
        "cluster": {"gpu": gpu},
        "workload": {
            "dataset": {"name": "fixed", "input": prompt, "output": output},
            "arrival": {"kind": "constant", "request_rate": 1},
            "num_prompts": 1,
        },
        **sections,
    })  # fmt: skip


def llmsim(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="llmsim")


@pytest.mark.parametrize(
    ("model", "gpu", "prompt", "output", "engine"),
    [
        ("llama-3.1-8b", "h100-sxm", 1024, 128, {}),
        ("llama-3.1-8b", "h100-sxm", 20_000, 20, {"max_num_batched_tokens": 2048}),
        ("llama-3.1-8b", "h100-sxm", 1024, 40, {"async_scheduling": False}),
        ("llama-3.1-8b", "a100-sxm-80gb", 500, 40, {"enforce_eager": True}),
        ("mixtral-8x7b", "h100-sxm", 777, 33, {"tensor_parallel_size": 4}),
        ("gemma-3-4b", "h100-sxm", 3000, 33, {}),
        ("bert-base", "t4", 384, 0, {}),
        ("t5-base", "a100-sxm-80gb", 300, 30, {}),
        ("mamba2-2.7b", "h100-sxm", 3000, 50, {}),
        ("nemotron-h-8b", "h100-sxm", 3000, 50, {}),
    ],
)
def test_moments_add_up_to_the_simulated_life_of_a_request_alone(model, gpu, prompt, output, engine):
    wanted = scenario(model, gpu, prompt, max(output, 1), engine=engine)
    life = cycles(wanted, prompt=prompt, output=output)
    record = simulate(wanted).records[0]
    assert record.status == "finished"
    # The simulation looks prices of decode attention up between 24 contexts, linearly.
    assert life.total_s == pytest.approx(record.finished_s - record.arrival_s, rel=5e-3)
    assert life.first_token_s == pytest.approx(record.first_token_s - record.arrival_s, rel=5e-3)


def test_stages_of_a_pipeline_add_up():
    wanted = scenario(engine={"pipeline_parallel_size": 2})
    life = cycles(wanted, prompt=1024, output=16)
    alone = cycles(scenario(), prompt=1024, output=16)
    assert alone.total_s < life.total_s < 1.2 * alone.total_s
    assert any(moment.name == "collective" for moment in life.moments)


def test_cycles_are_seconds_times_the_clock_of_whoever_works():
    resolved = resolve(scenario())
    life = cycles(resolved, prompt=100, output=10)
    device, host = resolved.device.clock_hz, resolved.node.host.clock_hz
    assert device != host
    for moment in life.moments:
        for resource, seconds in moment.seconds.items():
            clock = host if resource == "host" else device
            assert moment.cycles[resource] == pytest.approx(seconds * clock)
    assert life.moments[0].phase == "input"
    assert life.moments[0].seconds == {"host": pytest.approx(100 * 2e-6)}


def test_moments_are_those_of_the_model():
    def names(model, **lengths):
        return {moment.name for moment in cycles(scenario(model), **lengths).moments}

    assert "experts" in names("qwen1.5-moe-a2.7b", prompt=10, output=2)
    encoder = cycles(scenario("bert-base"), prompt=10, output=0)
    assert {moment.phase for moment in encoder.moments} == {"input", "prefill"}
    assert "sampling" not in {moment.name for moment in encoder.moments}
    assert encoder.output_tokens == 0


@pytest.mark.parametrize(("prompt", "output"), [(0, 1), (1, 0), (200_000, 1)])
def test_requests_that_cannot_be_are_refused(prompt, output):
    with pytest.raises(InputError, match="cycles: "):
        cycles(scenario(), prompt=prompt, output=output)


def test_the_command_prints_a_table_and_json():
    answer = llmsim("cycles", "--model", "llama-3.2-1b", "--gpu", "h100-sxm", "--input-len", 100, "--output-len", 5)
    assert answer.exit_code == 0
    for word in ("tokenizing", "attention", "feed-forward", "sampling", "Mcycles", "first token after"):
        assert word in answer.output
    answer = llmsim("cycles", "--model", "llama-3.2-1b", "--gpu", "h100-sxm", "--input-len", 100, "--json")
    found = json.loads(answer.stdout)
    assert found["total_s"] == pytest.approx(
        sum(value for moment in found["moments"] for value in moment["seconds"].values())
    )
