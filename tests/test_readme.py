"""What the README promises: every command and every line of Python in it runs, and the gate runs the same commands."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import llmsim
from llmsim.catalog import find
from llmsim.schema.flags import FLAGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRESH = "python3 -m venv .venv && "


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
SET_UP = [line for line in COMMANDS if line.startswith(FRESH)]
CALLS = [line for line in COMMANDS if line not in SET_UP]
SCHEDULER = next(block for block in blocks("python") if "class ShortestFirst" in block)
TESTS = next(block for block in blocks("python") if "def test_chat" in block)
LINES = next(block for block in blocks("python") if block.startswith("import llmsim\n"))
SCENARIO = "model: llama-3.1-8b\ncluster: {gpu: h100-sxm}\n"


def llmsim_command(call: str, folder: Path) -> str:
    """Return what a call of the command line prints; it must succeed."""
    words = [sys.executable, "-m", "llmsim.cli", *shlex.split(call)[1:]]
    done = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{call}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_one_command_sets_up_and_runs_each_of_the_main_job_and_the_tests():
    main, tests = SET_UP
    assert main.endswith("&& .venv/bin/pip install --quiet . && .venv/bin/llmsim simulate")
    assert "pip install --quiet -e '.[dev]' && .venv/bin/pytest" in tests


def test_the_gate_runs_the_command_of_the_readme():
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in gate if line.startswith(FRESH)] == SET_UP[1:]


def test_the_gate_can_be_run():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=False).returncode == 0


@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_the_command_line_works_as_written(call, tmp_path):
    assert call.startswith("llmsim ")
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    (tmp_path / "my_scheduler.py").write_text(SCHEDULER)
    # A sample in Azure's format stands in for the trace that a reader fetches.
    sample = find("workloads/traces", "code-200", ".csv").read_bytes()
    (tmp_path / "AzureLLMInferenceTrace_conv.csv").write_bytes(sample)
    said = llmsim_command(call, tmp_path)
    if " simulate " in call:
        assert "Failed requests:                         0" in said
        assert list(tmp_path.glob("runs/*/requests.csv"))


def test_the_lines_of_python_run_and_are_ten(tmp_path, monkeypatch, capsys):
    lines = [line for line in LINES.splitlines() if line]
    assert len(lines) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(LINES, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "Serving Benchmark Result" in said
    assert "a100-sxm" in said
    assert (tmp_path / "runs" / "first" / "plots" / "latency_cdf.png").is_file()


def test_the_test_in_the_readme_passes_once_its_baseline_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    (tmp_path / "test_chat.py").write_text(TESTS)
    pytest_here = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    for extra, code in (([], 1), (["--llmsim-update"], 0), ([], 0)):
        done = subprocess.run([*pytest_here, *extra], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stdout


def test_the_scheduler_in_the_readme_does_what_is_said_of_it(tmp_path, monkeypatch):
    (tmp_path / "my_scheduler.py").write_text(SCHEDULER)
    monkeypatch.syspath_prepend(tmp_path)
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=40).with_(
        {"workload.dataset": {"name": "random", "input_len": 1024, "output_len": 128, "range_ratio": 0.9}}
    )
    vllm = llmsim.simulate(scenario).metrics
    own = llmsim.simulate(scenario.with_(scheduler="my_scheduler:ShortestFirst")).metrics
    assert own["completed"] == vllm["completed"] == 1000
    assert own["total_output_tokens"] == vllm["total_output_tokens"]
    assert 0.4 < own["median_ttft_ms"] / vllm["median_ttft_ms"] < 0.65
    assert 2.4 < own["p99_ttft_ms"] / vllm["p99_ttft_ms"] < 4


def test_the_result_in_the_readme_is_that_of_the_demonstration(tmp_path):
    shown = figures(blocks("text")[0])
    said = figures(llmsim_command("llmsim simulate --no-output", tmp_path))
    assert len(shown) >= 8
    assert shown == pytest.approx({label: said[label] for label in shown}, rel=0.01)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("enable_prefix_caching", "prefix caching"),
        ("speculative_config", "speculative decoding"),
        ("kv_transfer_config", "prefill and decode on separate engines"),
        ("enable_eplb", "experts that get unequal load over time"),
        ("enable_lora", "LoRA"),
    ],
)
def test_what_the_readme_leaves_out_is_what_the_engine_flags_leave_out(flag, words):
    section = README.split("## What it does not model")[1].split("\n## ")[0]
    assert (words in section) == (FLAGS[flag].status == "not modelled")


def two_turns(folder: Path) -> llmsim.Scenario:
    """Return a chat of two turns as Mooncake writes it: the second prompt holds the first one and its answer."""
    rows = [
        {"timestamp": 0, "input_length": 1024, "output_length": 512, "hash_ids": [1, 2]},
        {"timestamp": 60_000, "input_length": 2048, "output_length": 16, "hash_ids": [1, 2, 3, 4]},
    ]
    path = folder / "turns.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", trace=str(path))


def test_the_next_turn_finds_the_prompt_before_it_but_not_the_answer(tmp_path):
    chat = two_turns(tmp_path)
    assert llmsim.simulate(chat).counts["prefix_hit_tokens"] == 1024
    assert llmsim.simulate(chat.with_(enable_prefix_caching=False)).counts["prefix_hit_tokens"] == 0


def test_a_model_with_windowed_layers_finds_nothing_and_says_so(tmp_path):
    run = llmsim.simulate(two_turns(tmp_path).with_(model="gpt-oss-20b"))
    assert run.counts["prefix_hit_tokens"] == 0
    assert any("prefix caching is not modelled with windowed layers" in warning for warning in run.warnings)


@pytest.mark.parametrize(
    "dataset",
    [
        {"name": "fixed", "input_len": 512, "output_len": 16, "shared_prefix": {"tokens": 256, "count": 2}},
        {"name": "random", "input_len": 512, "output_len": 16, "prefix_len": 128},
        {"name": "prefix_repetition", "prefix_len": 256, "suffix_len": 256, "num_prefixes": 10, "output_len": 16},
    ],
    ids=lambda dataset: dataset["name"],
)
def test_generated_beginnings_are_found_also_in_a_pipeline_step_by_step(dataset):
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=40)
    scenario = scenario.with_({"workload.dataset": dataset})
    plain = llmsim.simulate(scenario)
    piped = llmsim.simulate(scenario.with_(pipeline_parallel_size=2))
    assert plain.counts["prefix_hit_tokens"] > 0
    assert plain.counts["batches"] < plain.counts["steps"]
    assert piped.counts["prefix_hit_tokens"] > 0
    assert piped.counts["batches"] == piped.counts["steps"]


def figures(block: str) -> dict[str, float]:
    """Return the figures of a result block by their labels."""
    return {label: float(value) for label, value in re.findall(r"^(\S.*?):\s+([\d.]+)\s*$", block, re.MULTILINE)}


def test_what_the_readme_links_to_is_there():
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert len(targets) >= 10
    assert not [target for target in targets if not (ROOT / target).exists()]


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_what_the_docs_link_to_is_there(path):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (path.parent / target).exists()]
