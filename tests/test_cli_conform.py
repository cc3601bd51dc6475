"""``llmsim conform``: a scripted workload in, one line for each decision out."""

import json

import pytest
from click.testing import CliRunner

from llmsim.cli.app import cli
from llmsim.testing.conformance import decisions

WORKLOAD = {
    "engine": {"num_blocks": 20, "block_size": 4, "max_num_batched_tokens": 16},
    "requests": [
        {"id": "a", "arrival_step": 0, "prompt_tokens": 12, "prompt": [["s", 12]], "output_tokens": 2},
        {"id": "b", "arrival_step": 1, "prompt_tokens": 10, "prompt": [["s", 8], ["t", 2]], "output_tokens": 1},
    ],
}
TINY = {"num_blocks": 3, "block_size": 4, "max_model_len": 99}


def conform(*arguments):
    return CliRunner().invoke(cli, ["conform", *map(str, arguments)], prog_name="llmsim")


@pytest.fixture
def workload(tmp_path):
    path = tmp_path / "w.json"
    path.write_text(json.dumps(WORKLOAD))
    return path


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_one_line_for_each_step_goes_to_stdout(workload):
    result = conform(workload)

    assert result.exit_code == 0
    assert result.stderr == ""
    log = lines(result.stdout)
    assert log == list(decisions(WORKLOAD))
    assert [line["step"] for line in log] == [0, 1]
    assert log[0]["scheduled"] == {"a": 12}
    assert log[1]["scheduled"] == {"a": 1, "b": 2}  # eight tokens of b are those of a
    assert log[1]["cached_tokens"] == {"b": 8}
    assert log[1]["finished"] == ["a", "b"]
    assert log[1]["free_blocks_end"] == 19


def test_the_log_goes_to_a_file(workload, tmp_path):
    result = conform(workload, "-o", tmp_path / "log.jsonl")

    assert result.exit_code == 0
    assert result.stdout == f"2 steps written to {tmp_path / 'log.jsonl'}\n"
    assert lines((tmp_path / "log.jsonl").read_text()) == list(decisions(WORKLOAD))


def test_with_json_and_a_file_the_summary_is_json(workload, tmp_path):
    result = conform(workload, "--json", "-o", tmp_path / "log.jsonl")

    assert json.loads(result.stdout) == {"steps": 2, "path": str(tmp_path / "log.jsonl")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", ":1:2: not JSON"),
        ("[]", ": not a mapping"),
        ("{}", ": key 'engine' is missing"),
        (json.dumps(WORKLOAD | {"engine": {}}), ": key 'num_blocks' is missing"),
        (json.dumps({"engine": WORKLOAD["engine"]}), ": key 'requests' is missing"),
        (json.dumps(WORKLOAD | {"requests": [{"id": "a"}]}), ": key 'arrival_step' is missing"),
        (json.dumps(WORKLOAD | {"requests": [1]}), ": a value is of the wrong kind"),
        (json.dumps(WORKLOAD | {"engine": {"num_blocks": "x"}}), ": a value is of the wrong kind"),
        (json.dumps(WORKLOAD | {"engine": TINY}), "nothing can serve"),
    ],
)  # fmt: skip
def test_a_broken_workload_is_named_in_the_error(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text)

    result = conform(path)

    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: {path}:")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_that_is_not_there_and_one_that_cannot_be_written(workload, tmp_path):
    assert conform(tmp_path / "none.json").exit_code == 3
    assert "cannot be read" in conform(tmp_path / "none.json").stderr
    result = conform(workload, "-o", tmp_path / "none" / "log.jsonl")
    assert result.exit_code == 3
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize("name", ["prefix_eviction", "async_prefix"])
def test_the_log_of_a_recorded_workload_is_the_recorded_one(shared, name):
    folder = shared / "data" / "vllm_decisions"

    mine = lines(conform(folder / f"{name}.workload.json").stdout)

    recorded = lines((folder / f"{name}.log.jsonl").read_text())
    assert len(mine) == len(recorded)
    for line, real in zip(mine, recorded, strict=True):
        assert list(line["scheduled"].items()) == list(real["scheduled"].items())
        # Behind the last step with work vLLM's queue of two hands on empty steps too, and names them.
        assert {**line, "updated": None} == {key: real.get(key) for key in line} | {"updated": None}
