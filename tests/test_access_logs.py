"""Access logs as gateways write them: names of their own, nested records, and requests that failed."""

import csv
import json

import pytest
from click.testing import CliRunner

from llmsim.cli.app import cli
from llmsim.errors import TraceError
from llmsim.workload.readers import Reading, ReadOptions, detect, format_named
from llmsim.workload.readers.failures import has_failed

LOG = [
    ("2025-03-11T09:00:00.067Z", 200, 976, 217),
    ("2025-03-11T09:00:00.571Z", 429, "", 0),
    ("2025-03-11T09:00:01.067Z", 503, "", ""),
    ("2025-03-11T09:00:02.067Z", 200, 284, 428),
]
KEPT = [(976, 217, 0), (284, 428, 2_000_000_000)]  # prompt, output, nanoseconds after the first


@pytest.fixture
def log(tmp_path):
    def write(status="status_code"):
        path = tmp_path / "access.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["received_at", status, "usage.prompt_tokens", "usage.completion_tokens", "latency_ms"])
            rows.writerows((*row, 20) for row in LOG)
        return path

    return write


@pytest.fixture
def nested(tmp_path):
    """The same as JSON lines whose counts stand in an object; the first request failed and has none."""
    path = tmp_path / "access.jsonl"
    told = [("2025-03-11T09:00:00.001Z", 500, "", ""), *LOG]
    usage = [{"prompt_tokens": prompt, "completion_tokens": output} if code == 200 else None
             for _, code, prompt, output in told]  # fmt: skip
    lines = [{"ts": time, "status": code, "usage": used} for (time, code, _, _), used in zip(told, usage, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rows_of(path, **options):
    reading = Reading(path, ReadOptions(**options))
    rows = list(format_named("auto", path, options.get("columns")).read(reading))
    first = rows[0].time_ns
    return [(row.prompt_tokens, row.output_tokens, row.time_ns - first) for row in rows], reading


def test_names_with_dots_and_failed_requests_are_understood(log):
    found, reading = rows_of(log())
    assert found == KEPT
    assert reading.failed_rows == 2


def test_so_are_nested_records_though_the_first_one_failed(nested):
    assert detect(nested).name == "jsonl"
    found, reading = rows_of(nested)
    assert found == KEPT
    assert reading.failed_rows == 3


def test_a_status_of_another_name_can_be_told(log):
    path = log(status="rc")
    with pytest.raises(TraceError, match=r"row 3: column usage.prompt_tokens: .. is not a whole.*\nhint: .*status"):
        rows_of(path)
    found, _ = rows_of(path, columns={"status": "rc"})
    assert found == KEPT


@pytest.mark.parametrize(("status", "failed"), [
    (200, False), ("204", False), ("400", True), (429, True), ("503", True), (599, True), (600, False),
    ("finished", False), ("error", False), (None, False), ("", False), (0, False),
])  # fmt: skip
def test_a_failure_is_an_http_error(status, failed):
    assert has_failed(status) is failed


def test_the_command_says_how_many_it_left_out(log):
    path = str(log(status="rc"))
    columns = "time=received_at,prompt=usage.prompt_tokens,output=usage.completion_tokens,status=rc"
    said = CliRunner().invoke(cli, ["simulate", "--trace", path, "--trace-columns", columns, "--no-output"])
    assert said.exit_code == 0, said.output
    assert "access.csv: left out 2 rows with an HTTP status from 400 on" in said.stderr
    assert "Successful requests:                     2 " in said.stdout
    told = CliRunner().invoke(cli, ["trace", "info", path, "--columns", columns])
    assert "left out 2 rows" in told.stdout


def test_columns_that_mean_nothing_are_named(log):
    said = CliRunner().invoke(cli, ["simulate", "--trace", str(log()), "--trace-columns", "when=received_at"])
    assert said.exit_code == 2
    assert "--trace-columns: wants time, prompt, output" in said.stderr
