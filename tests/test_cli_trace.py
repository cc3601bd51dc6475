"""`llmsim trace`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmsim.cli.app import cli


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{index / 2},{100 + index},{10 + index}\n" for index in range(20))
    Path("t.csv").write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")


def trace(*arguments):
    return CliRunner().invoke(cli, ["trace", *map(str, arguments)], prog_name="llmsim")


def test_info_says_what_is_in_a_trace():
    result = trace("info", "t.csv")

    assert result.exit_code == 0
    assert "20" in result.stdout
    assert "9.5" in result.stdout
    told = json.loads(trace("info", "t.csv", "--json").stdout)
    assert told["rows"] == 20
    assert told["timing"]["rate"] == pytest.approx(2.0)
    assert told["prompt"]["smallest"] == 100


def test_convert_changes_the_format_and_the_times():
    result = trace("convert", "t.csv", "t.jsonl", "--to", "mooncake", "--speedup", "2", "--limit", "3")

    assert result.exit_code == 0
    assert "3 requests written to t.jsonl (mooncake)" in result.stdout
    rows = [json.loads(line) for line in Path("t.jsonl").read_text().splitlines()]
    assert [row["timestamp"] for row in rows] == [0, 250, 500]
    assert json.loads(trace("info", "t.jsonl", "--json").stdout)["rows"] == 3


def test_generate_writes_the_load_of_the_options():
    result = trace("generate", "g.csv", "--request-rate", "4", "--arrival", "constant", "--num-prompts", "6",
                   "--random-input-len", "50")  # fmt: skip

    assert result.exit_code == 0, result.output
    lines = Path("g.csv").read_text().splitlines()
    assert len(lines) == 7
    assert [line.split(",")[1:] for line in lines[1:]] == [["50", "128"]] * 6
    told = json.loads(trace("info", "g.csv", "--json").stdout)
    assert told["timing"]["rate"] == pytest.approx(4.0)


def test_generate_takes_a_scenario_too():
    Path("s.yaml").write_text(
        "cluster: {gpu: h100}\nmodel: llama-3.1-8b\nworkload: {arrival: {request_rate: 4}, num_prompts: 5}\n"
    )

    told = json.loads(trace("generate", "g.jsonl", "s.yaml", "--to", "vllm", "--json").stdout)

    assert told == {"requests": 5, "path": "g.jsonl", "format": "vllm"}


def test_what_was_generated_is_simulated_as_it_was():
    trace("generate", "g.csv", "--request-rate", "20", "--num-prompts", "30", "--seed", "5")
    runner = CliRunner()
    direct = ["simulate", "--request-rate", "20", "--num-prompts", "30", "--seed", "5", "--no-output", "--json"]
    replayed = ["simulate", "--trace", "g.csv", "--no-output", "--json"]

    first, second = (json.loads(runner.invoke(cli, one).stdout)["metrics"] for one in (direct, replayed))

    assert first["completed"] == second["completed"] == 30
    assert first["mean_tpot_ms"] == pytest.approx(second["mean_tpot_ms"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "no.csv"], 3, "no such file 'no.csv'"),
        (["convert", "t.csv", "x", "--to", "xml"], 3, "unknown name 'xml'"),
        (["generate", "g.csv", "--max-concurrency", "4"], 3, "closed loop"),
        (["info"], 2, "Missing argument"),
    ],
)
def test_what_is_wrong_is_said(arguments, code, words):
    result = trace(*arguments)

    assert result.exit_code == code
    assert words in result.stderr


def test_a_broken_row_is_named_by_its_number_and_column():
    Path("b.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,2\n1,many,3\n")

    result = trace("info", "b.csv")

    assert result.exit_code == 3
    assert "3" in result.stderr
    assert "prompt_tokens" in result.stderr
