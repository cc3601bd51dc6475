"""`llmsim compare`: runs, summaries and measured files side by side, and gates."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner

import llmsim
from llmsim.cli.app import cli
from llmsim.errors import InputError
from llmsim.gates import Difference, Result, differences, more_is_better, parse_gate, read_result, unlike


def call(*words):
    return CliRunner().invoke(cli, ["compare", *map(str, words)], prog_name="llmsim")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folders of a run and of the same load on a slower machine."""
    home = tmp_path_factory.mktemp("runs")
    base = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=20, num_prompts=60)
    for name, scenario in (("a", base), ("b", base.with_(gpu="a100-sxm"))):
        llmsim.simulate(scenario).save(home / name, formats=["llmsim", "vllm-bench"])
    return home / "a", home / "b"


@pytest.fixture
def measured(tmp_path):
    """Return a file as `vllm bench serve --save-result` writes it: flat, with texts and lists among the numbers."""
    file = tmp_path / "vllm.json"
    content = {"date": "20260101-000000", "backend": "vllm", "model_id": "x", "num_prompts": 60, "request_rate": 20.0,
               "completed": 60, "total_input_tokens": 61440, "total_output_tokens": 7680, "request_throughput": 10.0,
               "request_goodput": None, "output_throughput": 1280.0, "mean_ttft_ms": 40.0, "p99_ttft_ms": 100.0,
               "ttfts": [0.04], "errors": [""], "mean_tpot_ms": 8.0}  # fmt: skip
    file.write_text(json.dumps(content))
    return file


def test_two_runs_stand_side_by_side_with_the_change_in_percent(folders):
    said = call(*folders, "--metrics", "p99_ttft_ms,output_throughput")
    assert said.exit_code == 0, said.output
    one, other = (json.loads((folder / "summary.json").read_text())["metrics"] for folder in folders)
    percent = 100 * (other["p99_ttft_ms"] / one["p99_ttft_ms"] - 1)
    line = next(line for line in said.stdout.splitlines() if line.startswith("p99_ttft_ms"))
    assert line.split()[-1] == f"{percent:+.2f}"
    assert percent > 0
    usual = call(*folders)
    assert "median_tpot_ms" in usual.stdout
    assert "request_goodput" not in usual.stdout  # neither has it


@pytest.mark.parametrize(("file", "kind"), [("", "simulated"), ("summary.json", "simulated"),
                                            ("vllm_bench.json", "simulated")])  # fmt: skip
def test_folders_summaries_and_vllm_files_say_the_same(folders, file, kind):
    result = read_result(folders[0] / file)
    assert result.kind == kind
    assert result.metrics["p99_ttft_ms"] == read_result(folders[0]).metrics["p99_ttft_ms"]


def test_a_run_beside_a_measurement(folders, measured):
    said = call(measured, folders[0], "--json")
    told = json.loads(said.stdout)
    assert said.exit_code == 0
    rows = {row["metric"]: row for row in told["metrics"]}
    assert rows["p99_ttft_ms"]["a"] == 100.0
    assert rows["p99_ttft_ms"]["percent"] == pytest.approx(rows["p99_ttft_ms"]["b"] - 100.0)
    assert "p99_e2el_ms" not in rows  # the measurement lacks it
    assert read_result(measured).kind == "measured"
    assert told["pass"] is True


@pytest.mark.parametrize(
    ("gate", "code"),
    [
        ("p99_ttft_ms>+5%", 1),
        ("p99_ttft_ms > 90000%", 0),
        ("output_throughput<-0.001%", 1),
        ("output_throughput<-90%", 0),
        ("p99_ttft_ms>1", 1),
        ("p99_ttft_ms>=1e9", 0),
        ("completed<60", 0),
        ("completed<=60", 1),
    ],
)
def test_gates_decide_the_exit_code(folders, gate, code):
    said = call(*folders, "--fail-on", gate, "--metrics", "mean_ttft_ms")
    assert said.exit_code == code, said.output
    assert f"{'FAIL' if code else 'pass'}  {gate}" in said.stdout
    assert gate.split(">")[0].split("<")[0].strip() in said.stdout


def test_a_result_is_no_worse_than_itself_and_one_failed_gate_is_enough(folders):
    assert call(folders[0], folders[0], "--fail-on", "p99_ttft_ms>+0%", "--fail-on", "mean_tpot_ms>0%").exit_code == 0
    said = call(*folders, "--fail-on", "completed<60", "--fail-on", "p99_ttft_ms>+5%", "--json")
    assert said.exit_code == 1
    assert json.loads(said.stdout)["failed"] == ["p99_ttft_ms>+5%"]


def test_changes_of_nothing_and_to_nothing():
    assert Difference("x", 0, 5).percent == math.inf
    assert Difference("x", 0, 0).percent == 0.0
    assert Difference("x", -2.0, -1.0).percent == 50.0
    assert Difference("x", None, 5).percent is None
    assert parse_gate("x>+5%").fails(Difference("x", 1.0, None))
    assert parse_gate("x>+5%").fails(Difference("x", 0, 0.1))
    assert not parse_gate("x>+5%").fails(Difference("x", 100, 105))
    assert parse_gate("x>=+5%").fails(Difference("x", 100, 105))


def test_loads_that_differ_are_warned_about(measured, folders):
    content = json.loads(measured.read_text())
    measured.write_text(json.dumps(content | {"total_input_tokens": 70000}))
    assert "not the same load" in call(measured, folders[0]).output
    assert unlike(read_result(folders[0]), read_result(folders[1])) == []


def test_what_is_better():
    assert more_is_better("output_throughput")
    assert more_is_better("request_goodput")
    assert not more_is_better("p99_ttft_ms")


def test_a_metric_that_one_lacks_is_an_error():
    with pytest.raises(InputError, match=r"two: has no metric 'p99_ttft_ms'"):
        differences(Result("one", "", {"p99_ttft_ms": 1}), Result("two", "", {"p95_ttft_ms": 1}), ["p99_ttft_ms"])


@pytest.mark.parametrize("gate", ["p99_ttft_ms", "p99_ttft_ms=5", ">5%", "p99_ttft_ms>five", "p99_ttft_ms>+5%%"])
def test_gates_that_make_no_sense(folders, gate):
    said = call(*folders, "--fail-on", gate)
    assert said.exit_code == 3
    assert "not of the form" in said.stderr


def test_files_that_are_no_results(folders, tmp_path):
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text('{"a": 1}')
    for name, message in (("none.json", "cannot be read"), ("text.json", "not JSON"), ("list.json", "not the result"),
                          ("other.json", "neither a summary.json")):  # fmt: skip
        said = call(folders[0], tmp_path / name)
        assert said.exit_code == 3
        assert message in said.stderr
