"""A model beside its pruned or distilled self: one table of latency, memory and cost."""

import json

import pytest
from click.testing import CliRunner

import llmsim
from llmsim.cli.app import cli
from llmsim.comparison import compare
from llmsim.model import load_model
from llmsim.model.weights import weight_bytes


def rows(price=None, **values):
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=4, num_prompts=40, **values)
    found, warnings = compare(scenario, price_per_hour=price)
    return {row.what: row for row in found}, warnings


def test_half_a_model_is_faster_smaller_and_cheaper():
    table, warnings = rows(prune=0.5)
    for what in (
        "parameters",
        "weights of a device",
        "mean TTFT",
        "mean TPOT",
        "mean latency",
        "cost of 1M output tokens",
    ):
        assert -0.6 < table[what].change < -0.25, what
    assert table["cache of a token on a device"].change == -0.5
    assert table["output throughput at full load"].change > 0.3
    assert table["weights of a device"].before == weight_bytes(load_model("llama-3.1-8b")) / 2**30
    assert any("quality is not modelled" in warning for warning in warnings)
    assert "price of 1M output tokens" not in table


def test_unstructured_zeros_change_no_figure():
    table, _ = rows(prune=0.5, prune_kind="unstructured")
    assert {row.change for row in table.values()} == {None, 0.0}


def test_cost_is_the_devices_time_over_the_tokens_and_the_price_follows():
    table, _ = rows(price=3.6, prune=0.25, tensor_parallel_size=2)
    cost, throughput = table["cost of 1M output tokens"], table["output throughput at full load"]
    # Two devices; a million tokens at so many a second; 3.6 an hour is 0.001 a second.
    assert cost.after == pytest.approx(2 * 1e6 / throughput.after, rel=1e-9)
    assert table["price of 1M output tokens"].after == pytest.approx(cost.after * 0.001, rel=1e-12)


def test_full_load_is_the_same_requests_all_at_once():
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=4, num_prompts=40, prune=0.5)
    table = {row.what: row for row in compare(scenario)[0]}
    at_once = llmsim.simulate(scenario.with_(request_rate=float("inf")))
    assert table["output throughput at full load"].after == at_once.metrics["output_throughput"]
    assert table["mean TPOT"].after == llmsim.simulate(scenario).metrics["mean_tpot_ms"]


def test_the_command_takes_a_model_or_a_scenario_file(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("model: gpt2\ncluster: {gpu: h100-sxm}\nworkload: {num_prompts: 10, dataset: {name: fixed, "
                    "input_len: 64, output_len: 16}}\n")  # fmt: skip
    runner = CliRunner()
    told = runner.invoke(cli, ["transform", str(file), "--distill-to", "layers=6", "--json"])
    assert told.exit_code == 0, told.output
    table = {row["what"]: row for row in json.loads(told.stdout)["rows"]}
    assert table["model"]["after"] == "gpt2-distilled-6-layers"
    load = ["--num-prompts", "10", "--input-len", "64", "--output-len", "16"]
    told = runner.invoke(cli, ["transform", "gpt2", "--prune", "0.5", *load])
    assert told.exit_code == 0, told.output
    assert "transformed" in told.stdout
    nothing = runner.invoke(cli, ["transform", "gpt2"])
    assert nothing.exit_code == 2
    assert "nothing is done to the model" in nothing.output
    wrong = runner.invoke(cli, ["transform", "gpt2", "--prune", "1.5"])
    assert wrong.exit_code == 3
    assert "--prune" in wrong.output
