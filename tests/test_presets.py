"""Presets: each can be built, says where it comes from, and looks like what it was fitted to."""

from itertools import islice, pairwise

import numpy as np
import pytest

from llmsim.catalog import folder
from llmsim.errors import CatalogError, ScenarioError
from llmsim.workload.build import build
from llmsim.workload.presets import load_preset, preset_names
from llmsim.workload.spec import WorkloadSpec
from llmsim.workload.statistics import PrefixReuse
from llmsim.workload.tables import load_record, load_table, table_names


def made(count=2000, seed=0, **fields):
    spec = WorkloadSpec(num_prompts=count, **fields)
    workload = build(spec, seed=seed, max_model_len=10**7)
    return workload, list(workload.start())


@pytest.mark.parametrize("name", preset_names())
def test_presets_say_where_they_come_from_and_what_they_are_not(name):
    preset = load_preset(name)

    assert min(len(preset.title), len(preset.origin), len(preset.note)) > 10
    assert bool(preset.slo) == ("slo_source" in load_record(name, "workloads/presets"))


@pytest.mark.parametrize("name", preset_names())
def test_presets_give_requests(name):
    workload, requests = made(preset=name)

    assert requests
    assert all(request.prompt_tokens >= 1 and request.output_tokens >= 1 for request in requests)
    assert all(b.arrival_s >= a.arrival_s for a, b in pairwise(requests))
    assert workload.description


@pytest.mark.parametrize("name", [name for name in table_names() if name != "daily-profiles"])
def test_tables_name_their_origin_and_give_their_own_quantiles(name):
    table = load_table(name)
    draws = np.linspace(0.0, 1.0, 2001)[:-1]

    assert {"origin", "fit", "unit"} <= set(load_record(name))
    assert np.percentile(table.prompt.quantile(draws), 50) == pytest.approx(table.prompt.values[12], rel=0.02)
    assert np.percentile(table.output.quantile(draws), 50) == pytest.approx(table.output.values[12], rel=0.02)


def test_profiles_of_a_day_name_their_origin_and_have_mean_one():
    for profile in load_record("daily-profiles")["profiles"].values():
        assert profile["origin"]
        assert len(profile["hourly"]) == 24
        assert np.mean(profile["hourly"]) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("preset", "name"),
    [("chat", "AzureLLMInferenceTrace_conv.csv"), ("code", "AzureLLMInferenceTrace_code.csv")],
)
def test_lengths_are_those_of_the_trace_they_were_fitted_to(shared, preset, name):
    path = str(shared / "data" / "traces" / "azure2023" / name)
    real = list(build(WorkloadSpec(trace={"path": path}), seed=0, max_model_len=10**7).start())
    _, ours = made(20_000, preset=preset)

    def lengths(requests):
        return (
            np.array([getattr(request, side) for request in requests]) for side in ("prompt_tokens", "output_tokens")
        )

    (real_prompts, real_outputs), (prompts, outputs) = lengths(real), lengths(ours)
    assert np.percentile(prompts, [25, 50, 75, 90, 99]) == pytest.approx(
        np.percentile(real_prompts, [25, 50, 75, 90, 99]), rel=0.06
    )
    # medians of the output in five ranges of the prompt: 104, 97, 399, 399, 78 for chat, which no correlation gives
    edges = np.percentile(real_prompts, [0, 20, 40, 60, 80, 100])
    for low, high in pairwise(edges):
        median = np.median(real_outputs[(real_prompts >= low) & (real_prompts < high)])
        assert np.median(outputs[(prompts >= low) & (prompts < high)]) == pytest.approx(median, rel=0.12)


def test_a_rate_rescales_the_arrivals_of_a_preset():
    workload, requests = made(20_000, preset="chat", arrival={"request_rate": 50.0})

    assert "mean 50.00 req/s" in workload.description
    assert len(requests) / requests[-1].arrival_s == pytest.approx(50.0, rel=0.15)


def test_another_kind_of_arrival_replaces_that_of_a_preset():
    workload, _ = made(preset="chat", arrival={"kind": "poisson", "request_rate": 3.0})

    assert "Poisson 3.00 req/s" in workload.description
    assert "chat-azure-2023" in workload.description


def test_a_closed_loop_replaces_the_arrivals_of_a_preset():
    workload, requests = made(preset="chat", closed_loop={"concurrency": 7})

    assert len(requests) == 7
    assert "closed loop" in workload.description


def test_a_preset_and_a_trace_exclude_each_other():
    with pytest.raises(ScenarioError, match=r"workload\.preset"):
        made(preset="chat", trace={"path": "x.csv"})


def test_unknown_presets_are_answered_with_the_closest():
    with pytest.raises(CatalogError, match=r"unknown name 'caht'\nhint: closest names: chat"):
        made(preset="caht")


def test_tool_agents_share_what_their_note_says():
    workload, _ = made(20_000, preset="tool-agent")
    reuse = PrefixReuse()
    for request in islice(workload.start(), 20_000):
        reuse.add(request.prefix, request.prompt_tokens)

    assert reuse.cached_tokens / reuse.prompt_tokens == pytest.approx(0.54, abs=0.01)


@pytest.mark.parametrize(
    ("name", "preset"), [("chat-200", "chat"), ("code-200", "code"), ("api-200", "short-answer-api")]
)
def test_sample_traces_are_what_their_preset_draws(name, preset):
    spec = WorkloadSpec(trace={"path": name, "origin": "first"})
    sample = list(build(spec, seed=0, max_model_len=10**6).start())
    _, drawn = made(200, preset=preset)

    assert len((folder("workloads/traces") / f"{name}.csv").read_text().splitlines()) == 201
    for ours, theirs in zip(drawn, sample, strict=True):
        assert (ours.prompt_tokens, ours.output_tokens) == (theirs.prompt_tokens, theirs.output_tokens)
        assert ours.arrival_s - drawn[0].arrival_s == pytest.approx(theirs.arrival_s, abs=1e-6)
