"""`llmsim validate`: rows of measured results become scenarios, and predictions become scores."""

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from llmsim.accuracy import run, submissions, tables
from llmsim.accuracy.datasets import dataset_named, limits_of
from llmsim.accuracy.fit import fit_all, with_numbers_of
from llmsim.accuracy.folds import leave_out
from llmsim.accuracy.machines import Machines
from llmsim.accuracy.measured import Row, read_measured, select
from llmsim.accuracy.names import device_named, model_named
from llmsim.accuracy.outcome import Outcome
from llmsim.accuracy.parts import ratio
from llmsim.accuracy.predict import predict
from llmsim.accuracy.report import page, report_text
from llmsim.accuracy.score import Prediction, cells_of, reasons, score
from llmsim.accuracy.setups import case_of
from llmsim.accuracy.software import software_of
from llmsim.cli.app import cli
from llmsim.errors import CatalogError, InputError
from llmsim.performance.correction import (
    NEUTRAL,
    StackCorrection,
    correction_of,
    relatives,
    stack_names,
    stack_of,
    with_numbers,
)
from llmsim.performance.ggml import BACKENDS

COLUMNS = [
    "id", "source_key", "source", "engine", "model", "precision", "device", "num_gpus", "tp", "pp", "ep", "isl",
    "osl", "batch", "concurrency", "request_rate", "dataset", "metric", "statistic", "value", "class", "device_norm",
    "model_norm", "tier", "split", "holdout_reason", "notes",
]  # fmt: skip

# Every number here is made up.
BATCH = {
    "source_key": "OURS", "engine": "vLLM (2024)", "model": "Llama-2-7b-hf", "precision": "fp16",
    "device": "A100-80GB-SXM", "num_gpus": 1, "tp": 1, "pp": 1, "isl": 256, "osl": 32, "batch": 4, "metric": "e2e_ms",
    "statistic": "mean", "value": 500, "class": "static-batch", "tier": "A",
}  # fmt: skip
CLOSED = {**BATCH, "engine": "vllm 0.15.1", "class": "closed-loop", "batch": "", "concurrency": 4, "metric": "tpot_ms",
          "value": 12, "tier": "B"}  # fmt: skip
ONLINE = {**BATCH, "engine": "vLLM 0.19.0", "class": "online-serving", "batch": "", "request_rate": 5,
          "dataset": "30 made-up requests", "metric": "ttft_ms", "value": 30}  # fmt: skip
QUEUE = {**BATCH, "engine": "TensorRT-LLM 1.0", "class": "offline-throughput", "batch": "", "metric": "output_tok_s",
         "dataset": "40 random requests", "value": 900}  # fmt: skip
LIMIT = {**BATCH, "engine": "TensorRT 10.2.0, CUDA 12.4", "class": "online-serving", "model": "llama3.1-8b",
         "device": "H100-SXM-80GB", "batch": "", "isl": "", "osl": "", "tp": "", "pp": "", "precision": "",
         "dataset": "CNN-DailyMail (MLPerf v5.1)", "notes": "MLPerf Inference v5.1 closed Server", "metric": "req_s",
         "value": 20, "tier": "B"}  # fmt: skip
PHASE = {**BATCH, "class": "phase-throughput", "osl": 0, "isl": 1024, "batch": 1, "metric": "total_tok_s",
         "value": 9000}  # fmt: skip


def row(base=BATCH, **changes) -> Row:
    said = dict.fromkeys(COLUMNS, "") | {"id": "r"} | base | changes
    return next(iter(_read([said])))


def _read(lines, tmp_path=None):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return read_measured(table(Path(tmp_path or folder) / "m.csv", lines))


def table(path: Path, lines) -> Path:
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for index, line in enumerate(lines):
            writer.writerow({"id": f"r{index}", **line})
    return path


def outcome_of(base=BATCH, *, numbers=NEUTRAL, **changes) -> Outcome:
    case = case_of(row(base, **changes))
    assert case.setup is not None, case.reason
    return predict(case.setup, Machines({case.setup.stack: numbers}))


# ---------------------------------------------------------------------- reading


def test_a_table_is_read_with_numbers_as_numbers_and_words_as_none(tmp_path):
    one, two = read_measured(
        table(tmp_path / "m.csv.gz", [BATCH, {**BATCH, "batch": "low (not given)", "ep": "P1/D8"}])
    )
    assert (one.batch, one.prompt, one.value, one.kind, one.tier) == (4, 256, 500.0, "static-batch", "A")
    assert two.batch is None
    assert two.experts is None
    assert one.cell == ("OURS", "A100-80GB-SXM", "Llama-2-7b-hf", "e2e_ms")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,value\n1,2\n", "no column engine, model, device, metric, class"),
        (",".join(COLUMNS) + "\na" + "," * 19 + "fast" + "," * 7 + "\n", "value: not a number (got 'fast')"),
        (",".join(COLUMNS) + "\na" + "," * 19 + "-1" + "," * 7 + "\n", "value: must be a positive number"),
        (",".join(COLUMNS) + ("\na" + "," * 19 + "1" + "," * 7) * 2 + "\n", "id 'a' stands in line 2 already"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_place(tmp_path, content, message):
    path = tmp_path / "m.csv"
    path.write_text(content.replace("," * 19 + "fast", "," * 19 + "fast"))
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        read_measured(path)


def test_rows_are_chosen_by_column_and_spread_over_the_file(tmp_path):
    rows = _read([{**BATCH, "batch": 2**index, "tier": "AB"[index % 2]} for index in range(8)])
    assert [one.batch for one in select(rows, {"tier": "B"}, 2)] == [2, 32]
    assert len(select(rows, {"device": "A100*", "isl": "256"})) == 8
    with pytest.raises(InputError, match="no column 'colour'"):
        select(rows, {"colour": "red"})


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("H100-SXM-80GB power-capped", "h100-sxm"), ("H100 PCIe 80GB", "h100-pcie"), ("A100-40GB", "a100-sxm-40gb"),
        ("4090 24GB", "rtx-4090"), ("GH200-144GB", "gh200-144gb"), ("INTEL(R) XEON(R) PLATINUM 8592+", "xeon-8592"),
        ("Intel Max 1550 (PVC)", "max-1550"), ("RTX 6000 Ada 48GB", "rtx-6000-ada"), ("abacus", None),
    ],
)  # fmt: skip
def test_devices_are_found_by_the_words_of_their_names_and_their_memory(text, name):
    if name is None:
        with pytest.raises(CatalogError, match="unknown device"):
            device_named(text)
    else:
        assert device_named(text).name == name


def test_the_second_name_helps_where_the_first_is_not_known():
    assert device_named("our H200 at home 99GB", "H200-SXM").name == "h200-sxm"
    assert model_named("LLaMA v3.1 8B").name == "llama-3.1-8b"
    assert model_named("llama2-70b-99.9").name == "llama-2-70b"
    assert model_named("Llama 4 Scout (Instruct)").name == "llama-4-scout"


@pytest.mark.parametrize(
    ("engine", "notes", "stack", "preset"),
    [
        ("vLLM (2023)", "", "vllm@2023", "vllm@0.6"), ("vLLM (2024)", "", "vllm@2024", "vllm@0.6"),
        ("vllm 0.11.2", "", "vllm@0.8", "vllm@0.11"), ("vLLM 0.19.0 (V1)", "", "vllm@0.14", "vllm@0.19"),
        ("vllm (version blank in file)", "measured=2025-10-29", "vllm@0.8", "vllm@0.11"),
        ("vllm nightly (May 2026)", "", "vllm@0.14", "vllm@0.21"), ("vllm 0.99", "", "vllm@0.14", "vllm@0.33"),
        ("TensorRT-LLM 0.6.1", "", "trtllm@0.5", "trtllm@1"), ("trtllm 1.2.0rc6", "", "trtllm@1", "trtllm@1"),
        ("TensorRT 10.11, CUDA 12.9", "MLPerf Inference v5.1 closed", "trtllm-mlperf@2025", "trtllm@1"),
        ("vLLM 0.4.3+rocm614", "MLPerf Inference v4.1 closed", "vllm-mlperf@2024", "vllm@0.6"),
        ("llama.cpp (2024-05)", "", "llamacpp@2024", "vllm@0.33"), ("sglang 0.5.9", "", "sglang@0.5", "sglang@0.5"),
    ],
)  # fmt: skip
def test_engines_are_told_apart_by_family_and_version(engine, notes, stack, preset):
    software = software_of(engine, notes)
    assert software is not None
    assert (software.stack, software.preset) == (stack, preset)


def test_an_engine_nobody_knows_is_none():
    assert software_of("Oracle of Delphi 1.0") is None


def test_limits_are_those_of_the_scenario_and_the_model():
    assert limits_of("llama2-70b-99", "MLPerf Inference v5.1 closed datacenter Server") == {"ttft": 2000, "tpot": 200}
    assert limits_of("llama2-70b-99", "MLPerf v5.1 closed datacenter Interactive") == {"ttft": 450, "tpot": 40}
    assert limits_of("llama2-70b", "our own server") is None
    assert dataset_named("a song") is None


def test_formats_and_split_are_read_or_assumed_and_said():
    told = case_of(row(CLOSED, precision="nvfp4", device="B200-SXM-180GB", model="Llama-3.1-70B", tp=2, num_gpus=2))
    assert json.loads(told.setup.engine)["quantization"] == "modelopt_fp4"
    assert (told.setup.tensor, told.setup.replicas) == (2, 1)
    copies = case_of(row(CLOSED, tp=1, num_gpus=4))
    assert (copies.setup.tensor, copies.setup.replicas) == (1, 4)
    shared = case_of(row(CLOSED, model="Mixtral-8x7B", tp=1, num_gpus=4, ep=4))
    assert shared.setup.replicas == 1  # attention in four ranks over shared experts
    guessed = case_of(row(LIMIT, num_gpus=8, model="llama2-70b-99", dataset="OpenORCA (MLPerf)"))
    # 70 GB of fp8 weights leave too little of 80 GiB: two devices a copy.
    assert guessed.setup.tensor == 2
    assert any("the split is not stated" in text for text in guessed.assumptions)
    assert any("the number format is not stated: fp8" in text for text in guessed.assumptions)


def test_lengths_of_a_range_are_uniform_in_it():
    notes = "lengths uniform in [0.8*ISL, ISL] and [0.8*OSL, OSL]"
    case = case_of(row(CLOSED, isl=1000, osl=100, notes=notes))
    workload = json.loads(case.setup.workload)
    assert workload["dataset"] == {
        "name": "uniform", "prompt": {"low": 800, "high": 1000}, "output": {"low": 80, "high": 100}
    }  # fmt: skip
    assert workload["num_prompts"] == 40


# ---------------------------------------------------------------------- each class


@pytest.mark.parametrize("base", [BATCH, CLOSED, ONLINE, QUEUE, PHASE], ids=lambda base: base["class"])
def test_a_row_of_each_class_runs(base):
    case = case_of(row(base))
    outcome = outcome_of(base)
    assert outcome.reason == ""
    assert outcome.numbers[case.quantity] > 0
    assert outcome.layer in ("data sheet", "fitted stack", "calibrated")
    assert outcome.parts is not None


def test_a_static_batch_is_its_prompt_step_and_its_decode_steps():
    """By hand: one pass over 4 x 256 prompt tokens, then 31 steps of 4 sequences at contexts 257 to 287."""
    base = {**BATCH, "engine": "TensorRT-LLM 0.6.1"}
    case, machines = case_of(row(base)), Machines()
    outcome = predict(case.setup, machines)
    cost = next(iter(machines.find(case.setup).costs.values()))
    prompt = cost.step([(256, 0)] * 4, 0, (0,), 0, 4)[0]
    decode = sum(cost.decode_step(4, (4 * context,)) for context in range(257, 288))
    assert outcome.numbers["ttft_ms:batch"] == pytest.approx(1e3 * prompt)
    assert outcome.numbers["e2e_ms:batch"] == pytest.approx(1e3 * (prompt + decode))
    assert outcome.numbers["tpot_ms:batch"] == pytest.approx(1e3 * decode / 31)


def test_throughput_counts_outputs_of_all_devices_or_of_one():
    whole, each = (case_of(row(QUEUE, metric=metric, tp=2, num_gpus=4)) for metric in ("output_tok_s", "tok_s_per_gpu"))
    assert whole.setup == each.setup
    assert (whole.quantity, whole.share) == ("output_tok_s", 1.0)
    assert (each.quantity, each.share) == ("output_tok_s", 0.25)


def test_rows_of_one_set_up_share_its_simulation():
    rows = [row(CLOSED, id=name, metric=name) for name in ("ttft_ms", "tpot_ms", "e2e_ms")]
    assert len({case_of(one).setup for one in rows}) == 1


def test_the_largest_rate_meets_the_limits_and_a_higher_one_does_not(monkeypatch):
    monkeypatch.setattr(submissions, "MOST_TRIAL", 300)
    monkeypatch.setattr(submissions, "FIRST_TRIAL", 100)
    case, machines = case_of(row(LIMIT)), Machines()
    outcome = predict(case.setup, machines)
    limits = json.loads(case.setup.limits)
    assert limits == {"ttft": 2000.0, "tpot": 100.0}
    assert outcome.numbers["ttft_ms:p99"] <= limits["ttft"]
    assert outcome.numbers["tpot_ms:p99"] <= limits["tpot"]
    assert outcome.numbers["req_s"] > 1.0
    nothing = replace(case.setup, limits='{"ttft": 0.001}')
    assert predict(nothing, machines).reason.startswith("no rate meets the limits")


def test_a_forward_pass_of_a_decoder_is_priced_without_its_answers():
    short, long = (outcome_of(PHASE, isl=length).numbers["e2e_ms:batch"] for length in (512, 1024))
    assert 1.5 < long / short < 2.5
    assert outcome_of(PHASE).numbers["total_tok_s"] == pytest.approx(1024e3 / long)


# ---------------------------------------------------------------------- rows that are not run


@pytest.mark.parametrize(
    ("base", "changes", "reason"),
    [
        (BATCH, {"engine": "Delphi"}, "unknown engine (got 'Delphi')"),
        (BATCH, {"device": "abacus"}, "unknown device (got 'abacus')"),
        (BATCH, {"model": "our-own-13b"}, "unknown model (got 'our-own-13b')"),
        (BATCH, {"metric": "smiles"}, "unknown metric (got 'smiles')"),
        (BATCH, {"class": "siesta"}, "unknown class (got 'siesta')"),
        (BATCH, {"isl": "", "osl": ""}, "the lengths of the batch are not stated"),
        (CLOSED, {"class": "closed-loop-disaggregated"}, "prefill and decode on replicas of their own"),
        (CLOSED, {"concurrency": ""}, "the concurrency is not stated"),
        (CLOSED, {"isl": ""}, "the lengths of prompts and answers are not stated"),
        (ONLINE, {"request_rate": ""}, "the arrival rate is not stated"),
        (PHASE, {"isl": ""}, "the context length of the phase is not stated"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_run_says_why(base, changes, reason):
    case = case_of(row(base, **changes))
    assert case.setup is None
    assert case.reason.startswith(reason)


def test_a_model_that_does_not_fit_is_a_reason_too():
    (one,) = run.predictions_of([row(BATCH, model="Llama-2-70B", device="A100-40GB")], n_jobs=1)
    assert (one.status, one.value) == ("not run", None)
    assert "leaves no room for a KV cache" in one.reason


# ---------------------------------------------------------------------- scores


def prediction(error: float, name: str = "r", value: float = 100.0, **changes) -> Prediction:
    one = row(id=name, value=value, **changes)
    return Prediction(one, "family", value * (1 + error / 100))


def test_scores_are_medians_of_cells_and_then_over_cells():
    """Cell 1: errors 10, 20, 90, median 20; cell 2: -40; cell 3: -2 and +4, median 3: over cells 20, p90 36."""
    predictions = [
        *(prediction(error, f"a{error}") for error in (10, 20, 90)),
        prediction(-40, "b", device="H100-SXM-80GB"),
        prediction(-2, "c", model="Llama-3-8B"), prediction(4, "d", model="Llama-3-8B"),
    ]  # fmt: skip
    assert sorted(cell.error for cell in cells_of(predictions)) == pytest.approx([3, 20, 40])
    found = score(predictions)
    assert (found.cells, found.rows) == (3, 6)
    assert found.median == pytest.approx(20)
    assert found.p90 == pytest.approx(36)  # linear between 20 and 40 at 0.8
    assert found.bias == pytest.approx(1)  # of 20, -40 and +1


def test_tiers_kinds_and_saturated_points_are_kept_apart():
    predictions = [
        prediction(10, "a"), prediction(20, "b", tier="B"), prediction(99, "x", tier="X"),
        prediction(5, "c", metric="ttft_ms"), replace(prediction(80, "d", metric="ttft_ms"), saturated=True),
        prediction(7, "e", metric="output_tok_s"), Prediction(row(id="f"), "family", None, "why"),
    ]  # fmt: skip
    found = {(line["tier"], line["what"], line["points"]): line["median %"] for line in tables.summary(predictions)}
    assert found["A", "latency", "all"] == "10.0"
    assert found["A+B", "latency", "all"] == "15.0" or found["A+B", "latency", "all"] == "10.0"
    assert found["A", "TTFT", "not saturated"] == "5.0"
    assert found["A", "TTFT", "saturated"] == "80.0"
    assert found["A", "throughput", "all"] == "7.0"
    assert reasons(predictions) == {"why": 1}
    assert tables.coverage(predictions).startswith("5 of 6 rows of tiers A and B")
    assert "why" in report_text(predictions, title="Ours")
    assert "5 of 6 rows" in page(predictions)


# ---------------------------------------------------------------------- a whole run


LINES = [BATCH, {**BATCH, "metric": "ttft_ms"}, CLOSED, {**BATCH, "device": "abacus"}, PHASE, QUEUE]


def test_a_run_is_the_same_twice_and_on_several_cores(tmp_path):
    rows = _read(LINES)
    first, second = (run.predictions_of(rows, n_jobs=jobs) for jobs in (1, 2))
    assert [(one.value, one.reason, one.layer, one.parts) for one in first] == [
        (one.value, one.reason, one.layer, one.parts) for one in second
    ]


def test_a_run_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    rows, kept = _read(LINES), tmp_path / "outcomes.jsonl"
    before = run.predictions_of(rows, n_jobs=1, kept=kept)
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:-1]) + lines[-1][:20])  # the process died while it wrote
    asked = []
    monkeypatch.setattr(run, "predict", lambda setup, machines: asked.append(setup) or predict(setup, machines))
    after = run.predictions_of(rows, n_jobs=1, kept=kept, resume=True)
    assert len(asked) == 1
    assert [one.value for one in after] == [one.value for one in before]
    run.predictions_of(rows, n_jobs=1, kept=kept, resume=True, overrides={"vllm@2024": StackCorrection(products=2.0)})
    assert len(asked) == 3  # the two set-ups of that stack, which has other numbers now
    kept.write_text("nonsense\n")
    with pytest.raises(InputError, match="cannot be read as outcomes"):
        run.predictions_of(rows, kept=kept, resume=True)


def test_the_command_writes_predictions_report_and_plots(tmp_path):
    path = table(tmp_path / "measured.csv", LINES)
    came = CliRunner().invoke(cli, ["validate", str(path), "-o", str(tmp_path / "out"), "-j", "1"])
    assert came.exit_code == 0, came.output
    assert "5 of 6 rows of tiers A and B that are not disaggregated were run (83.3 %)" in came.output
    assert "unknown device (got 'abacus')" in came.output
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "predicted", "status", "reason", "layer", "seconds"]
    assert [line["status"] for line in rows] == ["run", "run", "run", "not run", "run", "run"]
    assert rows[3]["predicted"] == ""
    report = (tmp_path / "out" / "report.md").read_text()
    assert "predicted_by_class.png" in report
    assert (tmp_path / "out" / "predicted_by_family.png").stat().st_size > 5000
    again = CliRunner().invoke(cli, ["validate", str(path), "-o", str(tmp_path / "out"), "--resume", "--json"])
    assert json.loads(again.stdout)["coverage"].startswith("5 of 6")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--where", "tier"], "wants COLUMN=VALUE"), (["--where", "tier=Z"], "no rows hold what"),
     (["--stacks", "nowhere.yaml"], "cannot be read as YAML")],
)  # fmt: skip
def test_the_command_refuses_what_means_nothing(tmp_path, arguments, message):
    path = table(tmp_path / "measured.csv", [BATCH])
    came = CliRunner().invoke(cli, ["validate", str(path), "-o", str(tmp_path / "out"), *arguments])
    assert came.exit_code != 0
    assert message in came.output


def test_a_sample_of_the_shared_table_runs(shared):
    rows = read_measured(shared / "data" / "measured" / "measured.csv.gz")
    cases = [case_of(one) for one in rows]
    wanted = [one for one in cases if one.row.tier in ("A", "B") and "disaggregated" not in one.row.kind]
    assert sum(one.setup is not None for one in wanted) >= 0.9 * len(wanted)
    cheap = [one.row for one in wanted if one.setup is not None and one.setup.kind in ("batch", "forward")]
    sample = select(cheap, {}, 25)
    predictions = run.predictions_of(sample, n_jobs=1)
    assert sum(one.value is not None for one in predictions) >= 22
    assert np.median([abs(one.error) for one in predictions if one.value is not None]) < 80


# ---------------------------------------------------------------------- numbers of stacks


def predicted(base=BATCH, *, truth=NEUTRAL, **changes) -> Prediction:
    """Return a prediction without numbers of a row that was "measured" on a stack with the numbers ``truth``."""
    case = case_of(row(base, **changes))
    machines = Machines({case.setup.stack: NEUTRAL}), Machines({case.setup.stack: truth})
    plain, real = (predict(case.setup, each) for each in machines)
    one = replace(case.row, value=real.numbers[case.quantity] * case.share)
    value = plain.numbers[case.quantity] * case.share
    return Prediction(
        one, case.family, value, "", plain.layer, 0.0, False, case.setup.stack, case.quantity, plain.parts
    )


@pytest.mark.parametrize(
    "numbers",
    [StackCorrection(products=1.3), StackCorrection(launch=2.0, attention=1.5),
     StackCorrection(compute=1.2, memory=0.9),
     StackCorrection(step_us=3000.0, layer_us=50.0, sequence_us=100.0), StackCorrection(communication=3.0)],
)  # fmt: skip
@pytest.mark.parametrize("metric", ["e2e_ms", "tpot_ms", "ttft_ms"])
def test_other_numbers_need_no_simulation_where_batches_run_in_lockstep(numbers, metric):
    changes = {"engine": "TensorRT-LLM 0.6.1", "tp": 2, "num_gpus": 2, "metric": metric}
    case = case_of(row(**changes))
    plain, real = outcome_of(**changes), outcome_of(numbers=numbers, **changes)
    change = real.numbers[case.quantity] / plain.numbers[case.quantity]
    assert ratio(plain.parts, case.quantity, NEUTRAL, numbers) == pytest.approx(change, rel=0.01)
    # And back: the parts of a run with numbers are those without.
    assert ratio(real.parts, case.quantity, numbers, NEUTRAL) == pytest.approx(1 / change, rel=0.01)


def some(truth, device="A100-80GB-SXM") -> list[Prediction]:
    return [
        predicted(truth=truth, device=device, batch=batch, osl=output, id=f"{device}{batch}{output}{metric}",
                  metric=metric, device_norm=device, model_norm="m")
        for batch in (1, 16) for output in (16, 128) for metric in ("e2e_ms", "ttft_ms")
    ]  # fmt: skip


def test_a_fit_finds_the_numbers_that_a_stack_has():
    truth = StackCorrection(products=1.4, step_us=8000.0, layer_us=0.0)
    predictions = some(truth) + some(truth, "H100-SXM-80GB")
    fitted = fit_all(predictions)
    assert list(fitted) == ["vllm@2024"]
    after = score(with_numbers_of(predictions, fitted))
    assert score(predictions).median > 20
    assert after.median < 3
    assert fitted["vllm@2024"].free_numbers <= 6


def test_one_device_and_one_model_are_too_few_for_numbers():
    assert fit_all(some(StackCorrection(products=1.4))) == {}


def test_what_is_left_out_is_not_seen():
    """Two devices alike and one that is odd: left out, the odd one is priced by the others and misses by its oddity."""
    usual, odd = StackCorrection(products=1.2), StackCorrection(products=2.4)
    predictions = some(usual) + some(usual, "H100-SXM-80GB") + some(odd, "H200-SXM-141GB")
    made = leave_out(predictions, "device")
    assert [one.row.id for one in made] == [one.row.id for one in predictions]
    errors = {name: np.median([abs(one.error) for one in made if one.row.device_norm == name])
              for name in ("A100-80GB-SXM", "H200-SXM-141GB")}  # fmt: skip
    assert errors["H200-SXM-141GB"] > 30
    plain = np.median([abs(one.error) for one in predictions if one.row.device_norm == "H200-SXM-141GB"])
    assert errors["H200-SXM-141GB"] < plain


def test_a_stack_without_numbers_takes_those_of_its_nearest_relative():
    assert stack_of("tgi@2024").like == "vllm@2024"
    numbers = {"vllm@2024": StackCorrection(products=1.5)}
    assert stack_of("tgi@2024", numbers).correction.products == 1.5
    assert stack_of("vllm@0.14", numbers).correction == stack_of("vllm@0.14").correction
    assert correction_of("vllm@0.19") == stack_of("vllm@0.14").correction
    assert correction_of("somebody@1") == NEUTRAL


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"colour": 1}, "no such number"), ({"launch": "fast"}, "must be a number"), ({"launch": -1}, "at least 0"),
     (dict.fromkeys(("step_us", "layer_us", "sequence_us", "launch", "products", "attention", "memory"), 2.0),
      "at most 6 numbers")],
)  # fmt: skip
def test_numbers_that_are_none_are_refused(numbers, message):
    with pytest.raises(CatalogError, match=message):
        with_numbers(NEUTRAL, numbers)


def test_every_stack_of_the_catalogue_has_kernels_and_relatives():
    for name in stack_names():
        known = ("vllm", "trtllm", "sglang", "vllm-2023", "vllm-paged", "fastgen", *BACKENDS)
        assert stack_of(name).kernels in known
        assert relatives(name)[0] == name


def test_the_command_fits_and_takes_other_numbers(tmp_path):
    lines = [
        {**BATCH, "batch": batch, "device": device} for batch in (1, 8) for device in ("A100-80GB-SXM", "H100-SXM")
    ]
    path, out = table(tmp_path / "measured.csv", lines), tmp_path / "out"
    came = CliRunner().invoke(cli, ["validate", str(path), "-o", str(out), "-j", "1", "--no-plots", "--fit"])
    assert came.exit_code == 0, came.output
    assert "with the fitted numbers (fitted and simulated" in came.output
    more = ["--stacks", str(out / "stacks.fitted.yaml"), "--leave-out", "device"]
    again = CliRunner().invoke(cli, ["validate", str(path), "-o", str(out), "-j", "1", "--no-plots", *more])
    assert again.exit_code == 0, again.output
    assert "each device by stacks fitted without it" in again.output
