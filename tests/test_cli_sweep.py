"""`llmsim sweep`: axes, tables, files, exit codes."""

from __future__ import annotations

import json
import re

import click
import pandas
import pytest
from click.testing import CliRunner

from llmsim.cli.app import cli
from llmsim.cli.axes import parse_axis

SMALL = ["--model", "llama-3.1-8b", "--gpu", "h100-sxm", "--request-rate", "20", "--num-prompts", "30", "-j", "1"]


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli, ["sweep", *words], prog_name="llmsim")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1,2,4", [1, 2, 4]),
        ("a=0.5", [0.5]),
        ("a=x,y", ["x", "y"]),
        ("a=2:32:10", [2, 12, 22, 32]),
        ("a=1:9:3", [1, 4, 7]),
        ("a=0.1:0.3:0.1", [0.1, 0.2, 0.3]),
        ("a=1:64:x4", [1, 4, 16, 64]),
        ("a=[fair, {name: adaptive, tpot_target_ms: 30}]", ["fair", {"name": "adaptive", "tpot_target_ms": 30}]),
        ("a=static,{name: fair, output_weight: 2}", ["static", {"name": "fair", "output_weight": 2}]),
        ("a=my.module:Class,static", ["my.module:Class", "static"]),
        ("a='1,2',3", ["1,2", 3]),
        ("a=[1,2],[1, 4]", [[1, 2], [1, 4]]),
    ],
)
def test_axes(text, values):
    assert parse_axis(text) == ("a", values)


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=3:1:1", "a=1:3:0", "a=1:3:x1", "a=0:3:x2", "a=0:1e9:1", "a=[1"])
def test_axes_that_make_no_sense(text):
    with pytest.raises(click.UsageError, match="--set"):
        parse_axis(text)


def test_a_sweep_prints_and_writes_its_tables(call):
    said = call(*SMALL, "--set", "scheduler=continuous,static", "--compare", "scheduler", "-o", "out")
    assert said.exit_code == 0, said.output
    assert "95 % interval" in said.output
    assert "continuous" in said.output
    runs = pandas.read_csv("out/sweep.csv")
    assert len(runs) == 6
    assert list(runs["status"]) == ["ok"] * 6
    paired = pandas.read_csv("out/paired.csv")
    assert set(paired["scheduler"]) == {"static"}
    assert set(pandas.read_csv("out/summary.csv")["replications"]) == {3}


def test_the_baseline_may_be_named_and_json_is_for_machines(call):
    words = ("--set", "max_num_seqs=4,8", "--compare", "max_num_seqs", "--baseline", "8", "--replications", "2")
    said = call(*SMALL, *words, "--metrics", "mean_ttft_ms", "--json", "-q")
    assert said.exit_code == 0, said.output
    told = json.loads(said.stdout)
    assert [row["max_num_seqs"] for row in told["paired"]] == [4]
    assert told["paired"][0]["difference"] > 0
    assert len(told["sweep"]) == 4


def test_infeasible_points_are_warned_about(call):
    said = call(*SMALL, "--set", "tensor_parallel_size=1,3")
    assert said.exit_code == 0, said.output
    assert "3 runs: " in said.output
    assert "3 does not divide" in said.output


def test_resume_repeats_nothing(call, tmp_path):
    words = (*SMALL, "--set", "max_num_seqs=4,8", "--replications", "2", "-o", "out")
    assert call(*words).exit_code == 0
    before = (tmp_path / "out/sweep.jsonl").read_text()
    assert len(before.splitlines()) == 4
    assert call(*words, "--resume", "--set", "max_num_seqs=4,8,16").exit_code == 0
    after = (tmp_path / "out/sweep.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 6
    assert call(*words).exit_code == 0
    assert (tmp_path / "out/sweep.jsonl").read_text() == before


def test_dry_run_prints_the_points(call, tmp_path):
    said = call("--set", "max_num_seqs=4,8", "--set", "scheduler=static,{name: continuous}", "--dry-run")
    assert said.exit_code == 0
    assert "4 points x 3 replications = 12 runs" in said.output
    assert not list(tmp_path.iterdir())


def test_a_run_out_of_time_is_an_exit_code(call):
    said = call(*SMALL, "--num-prompts", "200000", "--set", "max_num_seqs=4,8", "--replications", "1",
                "--time-limit", "0.05")  # fmt: skip
    assert said.exit_code == 5, said.output


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--set", "max_num_seqs=4"], "nothing is swept", 2),
        (["--set", "max_num_sequences=4,5"], "max_num_sequences", 3),
        (["--set", "max_num_seqs=4,8", "--metrics", "speed"], "no metric 'speed'", 2),
        (["--set", "max_num_seqs=4,8", "--compare", "model"], "'model' is not swept", 2),
    ],
)
def test_mistakes_are_named(call, words, message, code):
    said = call(*SMALL, *words)
    assert message in said.output
    assert said.exit_code == code


def test_points_that_cannot_run_have_dashes_and_a_status(call):
    said = call(*SMALL, "--set", "tensor_parallel_size=1,3", "--replications", "2", "--compare", "tensor_parallel_size")
    assert said.exit_code == 0, said.output
    assert "nan" not in said.stdout
    assert re.search(r"^ *3 +0 +infeasible +- ", said.stdout, re.MULTILINE)
    assert re.search(r"^ *1 +2 +ok ", said.stdout, re.MULTILINE)


def test_a_sweep_of_which_nothing_can_run_is_infeasible(call):
    assert call(*SMALL, "--set", "tensor_parallel_size=3,5", "--replications", "1").exit_code == 4


def test_saturated_replications_are_counted_in_the_table(call):
    said = call(*SMALL[:4], "--num-prompts", "400", "-j", "1", "--set", "request_rate=4,80", "--replications", "2",
                "--set", "max_num_seqs=16")  # fmt: skip
    assert re.search(r"^ *4 +2 +- ", said.stdout, re.MULTILINE)
    assert re.search(r"^ *80 +2 +2 of 2 ", said.stdout, re.MULTILINE)
    assert "2 runs are saturated" in said.output
