"""`llmsim validate` replays the recorded requests of rows that say which ones they served."""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmsim.accuracy.machines import Machines
from llmsim.accuracy.measured import Row, read_measured
from llmsim.accuracy.predict import predict
from llmsim.accuracy.replays import requests_named, settings_of, taken_at_engine
from llmsim.accuracy.run import predictions_of
from llmsim.accuracy.score import score
from llmsim.accuracy.setups import case_of
from llmsim.cli.app import cli
from llmsim.errors import InputError

# Every number here is made up.  Arrivals 2 s apart: on an H100 each of these requests is alone.
REQUESTS = [{"arrival_s": 2.0 * index, "prompt_tokens": 100 + 10 * index, "output_tokens": 5} for index in range(6)]
ROW = {
    "id": "r1", "engine": "vLLM 0.19.0", "model": "Llama-3.1-8B", "device": "H100-SXM-80GB", "num_gpus": 1, "tp": 1,
    "precision": "bf16", "isl": 120, "osl": 5, "metric": "output_tok_s", "value": 2.9, "class": "online-serving",
    "tier": "A", "request_rate": 100,
    "dataset": "6 made-up requests, exact arrivals",
}  # fmt: skip
NAME = "h100-sxm_llama-3.1-8b_vllm-0.19.requests.jsonl"


def table(folder: Path, **changes) -> Path:
    row = {**ROW, **changes}
    path = folder / "m.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return path


def recorded(path: Path, requests=REQUESTS, settings=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    if settings is not None:
        meta = path.with_name(path.name.partition(".requests.")[0] + ".meta.json")
        meta.write_text(json.dumps({"engine_kwargs": settings}))
    return path


def only(path: Path, requests=None) -> Row:
    (row,) = read_measured(path, requests)
    return row


def test_a_row_without_recorded_requests_has_none(tmp_path):
    row = only(table(tmp_path))
    assert row.requests == ""
    assert json.loads(case_of(row).setup.workload)["arrival"] == {"request_rate": 100.0}


def test_the_folder_beside_the_table_is_searched_by_device_model_engine_and_count(tmp_path):
    path = recorded(tmp_path / "replay" / NAME)
    assert only(table(tmp_path)).requests == str(path)
    assert only(table(tmp_path, dataset="the 6 requests")).requests == str(path)
    for other in (
        {"device": "H200-SXM"}, {"model": "Llama-2-7b"}, {"engine": "vLLM 0.18.0"}, {"engine": "TensorRT-LLM 1.0"},
        {"dataset": "7 made-up requests"}, {"dataset": "made-up"}, {"device": "no such"}, {"engine": "no such"},
    ):  # fmt: skip
        assert only(table(tmp_path, **other)).requests == "", other


def test_files_of_other_names_in_that_folder_are_left_alone(tmp_path):
    for name in ("notes.txt", "h100-sxm.requests.jsonl", "nothing_llama-3.1-8b_vllm-0.19.requests.jsonl"):
        recorded(tmp_path / "replay" / name)
    assert only(table(tmp_path)).requests == ""


def test_a_column_names_the_file_and_comes_before_all_else(tmp_path):
    recorded(tmp_path / "replay" / NAME)
    own = recorded(tmp_path / "own.jsonl")
    assert only(table(tmp_path, requests="own.jsonl"), {"made-up": tmp_path / "replay" / NAME}).requests == str(own)
    with pytest.raises(InputError, match=r"m\.csv:2: requests: no such file \(got 'gone\.jsonl'\)"):
        read_measured(table(tmp_path, requests="gone.jsonl"))


def test_a_text_in_the_row_names_the_file(tmp_path):
    path = recorded(tmp_path / "mine.jsonl")
    assert only(table(tmp_path), {"exact arrivals": path}).requests == str(path)
    assert only(table(tmp_path, dataset="", notes="exact arrivals"), {"exact arrivals": path}).requests == str(path)
    assert only(table(tmp_path), {"something else": path}).requests == ""
    with pytest.raises(InputError, match="--requests x: no such file"):
        read_measured(table(tmp_path), {"x": tmp_path / "gone.jsonl"})


def test_what_is_simulated_are_those_requests_at_those_times(tmp_path):
    """Six requests of 5 tokens in 10 s and the time of the last: 30 tokens over little more than 10 s."""
    recorded(tmp_path / "replay" / NAME)
    case = case_of(only(table(tmp_path)))
    assert case.assumptions == (f"requests are those of {NAME}",)
    numbers = predict(case.setup, Machines()).numbers
    span = 10.0 + numbers["e2e_ms:p99"] / 1e3
    assert numbers["output_tok_s"] == pytest.approx(30 / span, rel=1e-3)
    # 100, 110, ... 150 prompt tokens: 750 in all.
    assert numbers["total_tok_s"] == pytest.approx(780 / span, rel=1e-3)


def test_the_engine_s_settings_stand_beside_the_requests_and_the_row_has_the_last_word(tmp_path):
    settings = {"max_num_seqs": 7, "max_num_batched_tokens": 512, "max_model_len": None, "model": "x", "seed": 1}
    path = recorded(tmp_path / "replay" / NAME, settings=settings)
    assert settings_of(str(path)) == {"max_num_seqs": 7, "max_num_batched_tokens": 512}
    case = case_of(only(table(tmp_path, notes="max_num_seqs 9")))
    engine = json.loads(case.setup.engine)
    assert (engine["max_num_batched_tokens"], engine["max_num_seqs"]) == (512, 9)
    assert settings_of(str(recorded(tmp_path / "alone.requests.jsonl"))) == {}
    (tmp_path / "alone.meta.json").write_text("[1]")
    with pytest.raises(InputError, match="cannot be read as settings of an engine"):
        settings_of(str(tmp_path / "alone.requests.jsonl"))


def test_stamps_of_the_engine_leave_out_tokenizer_and_front_end(tmp_path):
    inside = [{**request, "queued_ts": request["arrival_s"]} for request in REQUESTS]
    recorded(tmp_path / "replay" / NAME, inside)
    assert not case_of(only(table(tmp_path))).setup.served
    recorded(tmp_path / "replay" / NAME)
    assert case_of(only(table(tmp_path))).setup.served
    csv_file = tmp_path / "inside.csv"
    csv_file.write_text("queued_ts,prompt_tokens,output_tokens\n0,1,1\n")
    assert taken_at_engine(str(csv_file))
    csv_file.write_text("")
    assert not taken_at_engine(str(csv_file))


def test_a_closed_loop_takes_the_lengths_and_its_own_concurrency(tmp_path):
    path = recorded(tmp_path / "mine.jsonl")
    row = only(table(tmp_path, **{"class": "closed-loop"}, concurrency=2), {"made-up": path})
    setup = case_of(row).setup
    assert json.loads(setup.workload) == {"trace": {"path": str(path)}, "closed_loop": {"concurrency": 2}}
    numbers = predict(setup, Machines()).numbers
    # Two at a time need no 10 s.
    assert numbers["output_tok_s"] > 30 / 10.0


def test_the_number_of_requests_is_read_from_the_data_set():
    assert requests_named("300 ShareGPT-derived requests, Poisson") == 300
    assert requests_named("the 40 requests") == 40
    assert requests_named("ShareGPT") is None


def test_the_command_takes_texts_and_files(tmp_path):
    path = recorded(tmp_path / "mine.jsonl")
    words = ["validate", str(table(tmp_path)), "-o", str(tmp_path / "out"), "-j", "1", "--no-plots"]
    result = CliRunner().invoke(cli, [*words, "--requests", f"made-up={path}"])
    assert result.exit_code == 0, result.output
    (line,) = csv.DictReader((tmp_path / "out" / "predictions.csv").open())
    assert float(line["predicted"]) == pytest.approx(2.9, rel=0.1)  # 30 tokens in 10 s, not in 0.06 s
    wrong = CliRunner().invoke(cli, [*words, "--requests", "made-up"])
    assert wrong.exit_code == 2
    assert "--requests: wants TEXT=FILE" in wrong.output


def test_a_published_replay_is_met_within_a_tenth(shared):
    """300 requests at their own times on vLLM 0.19 and one RTX PRO 6000; no number of the stack was fitted to them."""
    rows = [row for row in read_measured(shared / "data" / "measured" / "measured.csv.gz") if row.requests]
    assert len(rows) == 16
    found = score(predictions_of(rows, n_jobs=1))
    assert found is not None
    print(found)
    assert found.median < 5.0
    assert found.p90 < 10.0
