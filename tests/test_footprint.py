"""What a scenario takes of its devices' memory: by hand, against the simulation, and in the page."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import llmsim
from llmsim.cli.app import cli
from llmsim.errors import InfeasibleError
from llmsim.model import load_model, model_names
from llmsim.model.weights import stage_weight_bytes
from llmsim.parallel import Plan, check
from llmsim.performance.weight_lines import weight_lines
from llmsim.simulation import Simulation

GIB = 2**30
PAGE = Path(__file__).parents[1] / "docs" / "memory.md"


def report(model="llama-3.1-70b", gpu="h100-sxm", **values):
    return llmsim.memory(llmsim.scenario(model=model, gpu=gpu, **values))


@pytest.mark.parametrize("name", model_names())
def test_the_parts_of_the_weights_add_up_on_every_rank_of_every_model(name):
    model = load_model(name)
    half = max(1, len(model.layers) // 2)
    for tensor in (1, 2, 4, 8):
        try:
            check(model, Plan(tensor))
        except InfeasibleError:
            continue
        for first, last in ((0, len(model.layers)), (0, half), (half, len(model.layers))):
            lines = weight_lines(model, first, last, tensor=tensor)
            held = stage_weight_bytes(model, first, last, tensor=tensor)
            assert sum(line.value for line in lines) == pytest.approx(held, abs=1)
            assert not [line for line in lines if line.part == "weights: other"]


def test_llama_70b_on_four_devices_by_hand():
    found = report(tensor_parallel_size=4)
    # 8192 hidden, 64 heads and 8 KV heads of 128, feed-forward 28672, 80 layers, vocabulary 128256, 2 bytes.
    assert found.bytes_of("weights: attention") == 80 * (2 * 8192 * 128 * (64 + 8)) * 2 / 4
    assert found.bytes_of("weights: feed-forward") == 80 * (3 * 8192 * 28672) * 2 / 4
    assert found.bytes_of("weights: embedding") == found.bytes_of("weights: output matrix") == 128256 * 8192 * 2 / 4
    assert found.bytes_of("weights: norms, biases") == (80 * 2 + 1) * 8192 * 2
    token = next(line for line in found.lines if line.part == "cache a token: full attention")
    assert token.value == 80 * 2 * 2 * 128 * 2  # layers, keys and values, 2 of 8 KV heads, width, bytes
    assert found.concurrency[131072] == found.blocks / (131072 / 16)
    assert (found.fits, found.problems) == (True, ())


@pytest.mark.parametrize("preset", ["vllm@0.33", "vllm@0.10", "sglang@0.5", "trtllm@1"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt-oss-20b", "gemma-3-4b", "nemotron-h-8b"])
def test_the_items_fill_the_device_and_the_blocks_are_those_of_a_run(model, preset):
    found = report(model=model, preset=preset)
    assert sum(line.value for line in found.lines if line.unit == "bytes") == pytest.approx(80 * GIB, abs=1)
    run = Simulation(llmsim.schema.resolve(llmsim.scenario(model=model, gpu="h100-sxm", preset=preset)))
    assert (found.blocks, found.tokens) == (run.budget.usable, run.budget.tokens)
    assert all(line.formula and line.source for line in found.lines)


def test_each_kind_of_layer_has_its_own_bytes_a_token():
    def parts(model, **values):
        return {line.part: line.value for line in report(model=model, **values).lines if line.unit != "bytes"}

    # gpt-oss-20b: 24 layers, every other one with a window of 128; 8 KV heads of 64, 2 bytes.
    oss = parts("gpt-oss-20b")
    assert oss["cache a token: full attention"] == oss["cache a token: windows of 128"] == 12 * 2 * 8 * 64 * 2
    # DeepSeek-V3: 61 layers with a latent of 512 and a rotary key of 64, whole on every rank.
    latent = parts("deepseek-v3", gpu="h200-sxm", tensor_parallel_size=8)
    assert latent["cache a token: latent attention"] == 61 * 576 * 2
    # Nemotron-H-8B: 24 Mamba-2 layers keep 128 heads x 64 x 128 of state and 3 x (8192 + 2 x 8 x 128) of convolution.
    assert parts("nemotron-h-8b")["state a sequence: recurrent"] == 24 * (128 * 64 * 128 + 3 * 10240) * 2


def test_what_does_not_fit_is_told_with_how_much_is_missing_and_what_would_do():
    found = report()
    assert not found.fits
    # All weights are 131.4 GiB; 0.92 of the 79.2 that CUDA shows, less activations, libraries and graphs, are left.
    others = sum(found.bytes_of(part) for part in ("activations", "libraries", "CUDA graphs"))
    two_blocks = 2 * 16 * 80 * 4096
    assert found.short_bytes == pytest.approx(
        found.bytes_of("weights") + others + two_blocks - 0.92 * 0.99 * 80 * GIB, abs=1
    )
    assert f"{found.short_bytes / GIB:.2f} GiB short of one block" in found.problems[0]
    assert (found.fewest_tensor, found.fewest_tensor_longest) == (2, 4)
    assert report(tensor_parallel_size=2).fits
    tight = report(tensor_parallel_size=2)
    assert tight.concurrency[131072] < 1
    assert "one request of max_model_len 131,072 tokens does not fit" in tight.problems[0]


def test_a_draft_model_takes_its_part():
    draft = {"method": "draft_model", "model": "llama-3.2-1b", "num_speculative_tokens": 3}
    plain = report(model="llama-3.1-8b")
    with_draft = report(model="llama-3.1-8b", speculative_config=draft)
    assert with_draft.bytes_of("weights: draft") == stage_weight_bytes(load_model("llama-3.2-1b"))
    assert any(line.part == "cache a token: draft" for line in with_draft.lines)
    assert with_draft.blocks < plain.blocks


def test_an_encoder_keeps_no_cache():
    found = report(model="bert-base")
    assert found.fits
    assert not [line for line in found.lines if line.unit != "bytes"]


def test_the_command_prints_the_report_and_exits_with_4_where_nothing_fits(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    runner = CliRunner()
    asked = ["memory", "--model", "llama-3.1-70b", "--gpu", "h100-sxm"]
    told = runner.invoke(cli, [*asked, "-tp", "4", "--json"])
    assert told.exit_code == 0
    content = json.loads(told.stdout)
    assert content["blocks"] == report(tensor_parallel_size=4).blocks
    assert {line["part"] for line in content["lines"]} >= {"weights: attention", "activations", "cache"}
    short = runner.invoke(cli, asked)
    assert short.exit_code == 4
    assert "GiB short of one block a device" in short.stdout
    assert "fewest tensor-parallel devices that fit: 2" in short.stdout


def test_the_example_of_the_page_is_what_the_command_prints():
    text = PAGE.read_text(encoding="utf-8")
    command, block = re.search(r"```\n\$ llmsim (memory .*)\n((?:.*\n)+?)```", text).groups()
    told = CliRunner().invoke(cli, command.split())
    assert block.rstrip() == told.stdout.rstrip()
