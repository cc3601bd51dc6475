"""The scenarios of the catalogue: each says what it is and where its limits come from, resolves, and runs."""

import re

import pytest
from click.testing import CliRunner

import llmsim
from llmsim import catalog
from llmsim.cli.app import cli
from llmsim.errors import ScenarioError
from llmsim.schema import resolve
from llmsim.schema.build import SCENARIOS

NAMES = catalog.names(SCENARIOS)
TEMPLATES = {"minimal"}


def command(*arguments, **options):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="llmsim", **options)


def test_the_named_uses_are_there():
    assert set(NAMES) - TEMPLATES == {
        "chatbot", "classification-llm", "code-completion", "coding-agents", "customer-service", "document-generation",
        "news-monitoring", "rag", "reasoning", "recommendation", "sentiment-analysis", "summarisation",
        "text-classification", "translation", "voice-assistant",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_says_what_it_is_and_where_its_numbers_come_from(name):
    text = catalog.find(SCENARIOS, name).read_text(encoding="utf-8")
    assert re.match(r"# [A-Z]", text)
    assert len(text.split("\n", 1)[0]) <= 110
    if name not in TEMPLATES:
        assert "\n# Load: " in text
        assert "\n# Limits: " in text
        assert llmsim.load(name).name == name
    assert llmsim.load(name).slo


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_runs_and_its_limits_are_metrics(name):
    scenario = llmsim.load(name).with_({"num_prompts": 25})
    assert resolve(scenario).scenario == scenario
    run = llmsim.simulate(scenario)
    assert run.counts["finished"] == run.counts["requests"] > 0
    assert all(result["value"] is not None for result in run.slo_results().values())
    assert not any("no effect" in warning for warning in run.warnings)


# What each shows as it stands: its limits are met, with the deployment that it names. Long ones are left to the eye.
@pytest.mark.parametrize("name", sorted({*NAMES} - {"document-generation", "coding-agents", "voice-assistant"}))
def test_the_deployment_of_a_scenario_meets_its_limits(name):
    results = llmsim.simulate(llmsim.load(name)).slo_results()
    assert {key: result["value"] for key, result in results.items() if not result["pass"]} == {}


def test_a_file_of_the_same_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rag").write_text("model: gpt2\ncluster: l4\n".replace("l4", "{gpu: l4}"))
    assert llmsim.load("rag").model == "gpt2"


def test_an_unknown_name_lists_the_closest():
    with pytest.raises(ScenarioError, match=r"^voice-asistant: no such file.*\nhint: closest names: voice-assistant"):
        llmsim.load("voice-asistant")
    assert command("simulate", "nothing").exit_code == 3


def test_list_and_show_know_the_scenarios():
    listed = command("list", "scenarios")
    assert listed.exit_code == 0
    assert all(f"\n{name} " in listed.output for name in NAMES)
    assert "# workloads/scenarios/rag.yaml" in command("show", "rag").output


def test_init_prints_a_scenario_that_checks(tmp_path):
    for template in ([], ["voice-assistant"]):
        answer = command("init", *template)
        (tmp_path / "s.yaml").write_text(answer.output)
        assert command("check", tmp_path / "s.yaml").exit_code == 0
    assert "# or one of these instead" in command("init").output
    assert command("init", "nothing").exit_code == 3


def test_init_never_writes_over_a_file(tmp_path):
    target = tmp_path / "s.yaml"
    assert command("init", "rag", "-o", target).exit_code == 0
    before = target.read_text()
    again = command("init", "chatbot", "-o", target)
    assert again.exit_code == 3
    assert "there is such a file already" in again.output
    assert target.read_text() == before


def test_simulate_takes_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = command("simulate", "rag", "--num-prompts", 10, "--no-output")
    assert answer.exit_code == 0, answer.output
    assert "next: llmsim simulate rag" in answer.output
