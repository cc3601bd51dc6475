"""Speculative decoding in a scenario: vLLM's words, what is refused, and what it does on real prices."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

import llmsim
from llmsim.cli.app import cli
from llmsim.errors import LlmsimError
from llmsim.model import load_model
from llmsim.model.weights import cache_bytes_per_token, stage_weight_bytes, weight_bytes
from llmsim.performance.drafts import draft_memory, layer_of
from llmsim.performance.step_cost import StepCost
from llmsim.schema import resolve
from llmsim.simulation import Simulation

RATES = [0.8, 0.6, 0.45, 0.3]
DRAFT = {
    "method": "draft_model",
    "model": "llama-3.2-1b",
    "num_speculative_tokens": 4,
    "rejection_sample_method": "synthetic",
    "synthetic_acceptance_rates": RATES,
}


def scenario(config, *, model="llama-3.1-8b", gpu="h100-sxm", rate=4, prompts=60, output=64, **engine):
    """Return a scenario with a speculative configuration."""
    return llmsim.load(
        {
            "model": model,
            "cluster": {"gpu": gpu},
            "engine": {"speculative_config": config, **engine},
            "workload": {
                "dataset": {"name": "random", "input_len": 256, "output_len": output},
                "arrival": {"kind": "poisson", "request_rate": rate},
                "num_prompts": prompts,
            },
        }
    )


def speculation(config, **more):
    """Return what a configuration resolves to."""
    return resolve(scenario(config, **more)).options.speculation


# ---------------------------------------------------------------------- words


def test_rates_are_taken_as_they_are():
    found = speculation(DRAFT)

    assert found.rates == tuple(RATES)
    assert (found.method, found.tokens, found.draft.name) == ("draft_model", 4, "llama-3.2-1b")
    assert found.mean_tokens == pytest.approx(3.15)


def test_a_length_becomes_the_same_rate_for_each_further_draft():
    config = {key: value for key, value in DRAFT.items() if key != "synthetic_acceptance_rates"}

    # 1 + 1/2 + 1/4 + 1/8 + 1/16 = 1.9375
    found = speculation({**config, "synthetic_acceptance_length": 1.9375})

    assert found.rates == pytest.approx([0.5, 0.25, 0.125, 0.0625])
    assert speculation({**config, "synthetic_acceptance_length": 5}).rates == pytest.approx([1.0] * 4)
    assert sum(speculation({**config, "synthetic_acceptance_length": 1}).rates) == pytest.approx(0.0, abs=1e-12)


def test_short_flags_and_dotted_keys_say_the_same_as_a_mapping(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["simulate", "--model", "llama-3.1-8b", "--num-prompts", "5"]
    dotted = [
        "--spec-method", "eagle", "--spec-tokens", "2",
        "--speculative-config.rejection_sample_method", "synthetic",
        "--speculative-config.synthetic_acceptance_length", "2",
    ]  # fmt: skip
    mapping = {"method": "eagle", "num_speculative_tokens": 2, "rejection_sample_method": "synthetic",
               "synthetic_acceptance_length": 2}  # fmt: skip
    runner = CliRunner()

    one = runner.invoke(cli, [*arguments, *dotted])
    other = runner.invoke(cli, [*arguments, "--speculative-config", json.dumps(mapping)])

    assert one.exit_code == other.exit_code == 0, one.output
    lines = [line for line in one.output.splitlines() if "TPOT" in line or "cceptance" in line]
    assert len(lines) > 5
    assert lines == [line for line in other.output.splitlines() if "TPOT" in line or "cceptance" in line]


@pytest.mark.parametrize(
    ("model", "method"),
    [("yuhuili/EAGLE-LLaMA3.1-Instruct-8B", "eagle"), ("nvidia/Eagle3-llama", "eagle3"), ("ngram", "ngram"),
     ("llama-3.2-1b", "draft_model")],
)  # fmt: skip
def test_the_method_is_guessed_from_the_drafts_name(model, method):
    assert speculation({"model": model, "num_speculative_tokens": 2}).method == method


@pytest.mark.parametrize("method", ["draft_model", "eagle", "eagle3", "ngram"])
def test_without_rates_published_ones_are_taken_with_a_warning(method):
    model = {"model": "llama-3.2-1b"} if method == "draft_model" else {}
    resolved = resolve(scenario({"method": method, "num_speculative_tokens": 2, **model}))

    (warning,) = [warning for warning in resolved.warnings if "acceptance depends on the text" in warning]
    one, both = resolved.options.speculation.rates
    assert both == pytest.approx(one * one)
    assert f"{one:g}" in warning


def test_multi_token_prediction_takes_its_tokens_from_the_model():
    found = speculation({"method": "deepseek_mtp"}, model="deepseek-v3", gpu="h200-sxm", tensor_parallel_size=8)

    assert (found.method, found.tokens) == ("mtp", 1)
    assert found.draft.layers[0].feed_forward.experts == 256


WRONG = {
    "not_a_mapping": ("four", "not a mapping"),
    "unknown_key": ({"metod": "eagle"}, "did you mean 'method'"),
    "unknown_method": ({"method": "medusa", "num_speculative_tokens": 2}, "method is not modelled (got 'medusa')"),
    "no_method": ({"num_speculative_tokens": 2}, "method is missing"),
    "no_tokens": ({"method": "eagle"}, "num_speculative_tokens is missing"),
    "no_drafts": ({"method": "eagle", "num_speculative_tokens": 0}, "at least 1 (got 0)"),
    "no_model": ({"method": "draft_model", "num_speculative_tokens": 2}, "model is missing"),
    "unknown_model": ({"model": "llama-3.2-1c", "num_speculative_tokens": 2}, "llama-3.2-1c"),
    "other_vocabulary": ({"model": "qwen3-0.6b", "num_speculative_tokens": 2}, "vocabulary of 151936 tokens"),
    "mtp_without_layers": ({"method": "mtp"}, "no multi-token-prediction layers"),
    "rate_above_one": ({**DRAFT, "synthetic_acceptance_rates": [1.2, 0.6, 0.4, 0.1]}, "between 0 and 1 (got 1.2)"),
    "rising_rates": ({**DRAFT, "synthetic_acceptance_rates": [0.5, 0.6, 0.4, 0.1]}, "never rise"),
    "too_few_rates": ({**DRAFT, "synthetic_acceptance_rates": [0.5]}, "each of the 4 num_speculative_tokens (got 1)"),
    "rates_and_length": ({**DRAFT, "synthetic_acceptance_length": 2}, "not both"),
    "rates_without_synthetic": ({**DRAFT, "rejection_sample_method": None}, "go with rejection_sample_method"),
    "length_too_long": (
        {**{key: value for key, value in DRAFT.items() if "rates" not in key}, "synthetic_acceptance_length": 6},
        "between 1 and 5",
    ),
    "draft_tensor": ({**DRAFT, "draft_tensor_parallel_size": 2}, "1 or tensor_parallel_size 1 (got 2)"),
    "look_up_of_a_model": ({**DRAFT, "prompt_lookup_max": 4}, "go with method ngram"),
    "look_up_upside_down": (
        {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2, "prompt_lookup_min": 3},
        "prompt_lookup_min 3 is above prompt_lookup_max 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name):
    config, said = WRONG[name]

    with pytest.raises(LlmsimError) as error:
        speculation(config)

    assert said in str(error.value)
    assert "engine.speculative_config" in str(error.value)


def test_what_drafts_do_not_go_with_is_said():
    with pytest.raises(LlmsimError, match="pipeline_parallel_size above 1"):
        speculation(DRAFT, pipeline_parallel_size=2)
    with pytest.raises(LlmsimError, match="between two steps"):
        speculation({"method": "ngram", "num_speculative_tokens": 2}, async_scheduling=True)
    with pytest.raises(LlmsimError, match="scheduler continuous only"):
        resolve(scenario(DRAFT).with_({"scheduler": "static"}))


# ---------------------------------------------------------------------- what it changes


def test_ngram_switches_asynchronous_scheduling_off():
    assert resolve(scenario(DRAFT)).options.async_scheduling
    assert not resolve(scenario({"method": "ngram", "num_speculative_tokens": 2})).options.async_scheduling


def test_graphs_reach_further_and_hold_whole_sequences():
    options = resolve(scenario(DRAFT, max_num_seqs=16)).options

    assert max(options.cudagraph_sizes) == 160
    assert all(size % 5 == 0 for size in options.cudagraph_sizes)


def test_a_draft_model_takes_its_weights_and_its_cache():
    with_draft, without = Simulation(resolve(scenario(DRAFT))), Simulation(resolve(scenario(None)))
    draft, target = load_model("llama-3.2-1b"), load_model("llama-3.1-8b")

    found = draft_memory(resolve(scenario(DRAFT)).options.speculation, "bf16")

    assert found.weight_bytes == weight_bytes(draft)
    # 16 layers x 2 x 8 KV heads x 64 x 2 bytes
    assert found.cache_bytes_per_token == 16 * 2 * 8 * 64 * 2
    assert with_draft.budget.weight_bytes == weight_bytes(target) + weight_bytes(draft)
    assert with_draft.budget.bytes_per_block == 16 * (cache_bytes_per_token(target) + found.cache_bytes_per_token)
    assert with_draft.budget.usable < without.budget.usable


def test_eagles_head_weighs_one_layer_and_the_matrix_in_front_of_it():
    target = load_model("llama-3.1-8b")
    found = draft_memory(speculation({"method": "eagle", "num_speculative_tokens": 2}), "bf16")

    layer = stage_weight_bytes(target) - stage_weight_bytes(replace(target, layers=target.layers[:-1]))
    assert found.weight_bytes == pytest.approx(layer + 2 * 4096 * 4096 * 2)
    assert found.cache_bytes_per_token == cache_bytes_per_token(target) / 32
    assert len(layer_of(target, "eagle").layers) == 1


def test_the_gain_falls_as_batches_grow():
    # Verification is free while a step reads weights and costs its arithmetic once it does not (Leviathan et al. 2023,
    # section 3.4; every published measurement of speculation over batch sizes).
    cost = Simulation(resolve(scenario(DRAFT))).parts.engines[0].costs[0]
    plain = StepCost(cost.prices, replace(cost.options, speculation=None))

    def gain(count):
        (seconds, *_), _ = cost.verify_step([], count, (count * 1004,), 1004, verified=5 * count, rows=5 * count)
        return 3.15 * plain.decode_step(count, (count * 1000,)) / seconds

    gains = [gain(count) for count in (1, 16, 64, 256, 1024)]

    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 1.5
    assert gains[-1] < 1.4


def test_attention_of_a_lone_query_is_priced_as_before():
    prices = Simulation(resolve(scenario(DRAFT))).parts.engines[0].costs[0].prices

    plain = prices.mixed_attention(0, [], 8, 8000, 1000)
    assert prices.verify_attention(0, [], 8, 8000, 1000, 1.0) == plain
    assert plain[0] <= prices.verify_attention(0, [], 8, 8000, 1000, 5.0)[0] < 5 * plain[0]


@pytest.mark.parametrize(
    "config",
    [DRAFT, {"method": "eagle", "num_speculative_tokens": 3}, {"method": "eagle3", "num_speculative_tokens": 3},
     {"method": "ngram", "num_speculative_tokens": 3}],
    ids=["draft_model", "eagle", "eagle3", "ngram"],
)  # fmt: skip
def test_a_run_keeps_its_books(config, tmp_path):
    run = llmsim.simulate(scenario(config))

    assert run.counts["finished"] == 60
    assert run.metrics["total_output_tokens"] == 60 * 64
    assert run.lane_totals.sum() == pytest.approx(max(record.finished_s for record in run.records))
    for record in run.records:
        assert sum(record.bill) == pytest.approx(record.finished_s - record.arrival_s)
    assert ("draft" in run.time_by_operator()) == (config["method"] != "ngram")
    run.save(tmp_path, formats=("llmsim", "vllm-bench"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    bench = json.loads((tmp_path / "vllm_bench.json").read_text())
    found = run.speculation
    assert summary["speculative_decoding"] == found
    assert bench["spec_decode_num_drafts"] == found["spec_decode_num_drafts"] > 0
    assert found["spec_decode_accepted_tokens"] <= found["spec_decode_draft_tokens"]
    assert "Acceptance length:" in run.summary()
    assert llmsim.simulate(llmsim.load(tmp_path / "scenario.resolved.yaml")).metrics == run.metrics


def test_without_drafts_nothing_is_said_of_them():
    run = llmsim.simulate(scenario(None, prompts=5))

    assert run.speculation == {}
    assert "Speculative" not in run.summary()
    assert "speculative_decoding" not in json.loads(run.to_json())


def test_tokens_come_faster_and_in_larger_gaps():
    fast, slow = llmsim.simulate(scenario(DRAFT)), llmsim.simulate(scenario(None))

    assert fast.metrics["mean_tpot_ms"] < 0.7 * slow.metrics["mean_tpot_ms"]
    assert fast.metrics["mean_itl_ms"] > slow.metrics["mean_itl_ms"]
