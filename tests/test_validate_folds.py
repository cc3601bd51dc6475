"""`llmsim validate`: numbers fitted in rounds, devices and models left out, and outcomes kept of the same code only."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from test_validate import BATCH, CLOSED, PHASE, _read, prediction, row, table

from llmsim.accuracy import digest, run, tables
from llmsim.accuracy.fit import fit_all, with_numbers_of
from llmsim.accuracy.folds import fold_numbers, leave_out
from llmsim.accuracy.names import device_named
from llmsim.accuracy.report import page, report_text
from llmsim.accuracy.rounds import SAMPLE, sample, settle
from llmsim.accuracy.run import Simulator, name_of, predictions_of
from llmsim.accuracy.score import BORROWED, score
from llmsim.accuracy.setups import case_of
from llmsim.cli.app import cli
from llmsim.model import load_model
from llmsim.model.weights import weight_bytes
from llmsim.performance.correction import NEUTRAL, StackCorrection, own_numbers, stack_of

STACK = "vllm@2024"
SIMULATE = Simulator(n_jobs=1)
# A closed loop whose batches follow from the speed: the parts tell it to first order only.
LOOP = {**CLOSED, "engine": "vLLM (2024)", "osl": 24, "tier": "A"}


def measured_with(truth: dict[str, StackCorrection], loads=(2, 16), metrics=("tpot_ms", "e2e_ms")):
    """Return rows of closed loops whose values are simulated with numbers of the stack that differ by device."""
    rows, numbers = [], []
    for device, own in truth.items():
        for load in loads:
            for metric in metrics:
                rows.append(row(LOOP, id=f"{device}{load}{metric}", device=device, device_norm=device, model_norm="m",
                                concurrency=load, metric=metric))  # fmt: skip
                numbers.append({STACK: own})
    real = SIMULATE(rows, numbers)
    return [replace(one.row, value=one.value) for one in real]


# ---------------------------------------------------------------------- rounds


def test_fit_and_simulation_in_turn_find_what_one_fit_to_first_order_misses():
    """Far from the catalogue's numbers batches are others: one fit is off, the next starts from where it ended."""
    truth = StackCorrection(layer_us=900.0, compute=2.0)
    rows = measured_with(dict.fromkeys(("A100-80GB-SXM", "H100-SXM-80GB"), truth), loads=(2, 8, 32))
    predictions = predictions_of(rows, n_jobs=1)
    found = settle(predictions, SIMULATE)
    assert set(found.numbers) == {STACK}
    assert found.settled
    assert 1 <= found.rounds <= 6
    assert "settled" in str(found)
    once = fit_all(predictions)
    after = {
        name: SIMULATE(rows, [numbers] * len(rows)) for name, numbers in (("once", once), ("in turn", found.numbers))
    }
    errors = {name: score(made).median for name, made in after.items()}
    assert errors["in turn"] < 2.0
    assert errors["in turn"] <= errors["once"] + 0.1
    assert score(predictions).median > 20


def test_at_most_so_many_rows_of_a_cell_are_fitted_in_rounds_spread_over_it():
    predictions = [prediction(5, f"r{index}") for index in range(3 * SAMPLE)]
    chosen = sample(predictions)
    assert [one.row.id for one in chosen] == [f"r{index}" for index in range(0, 3 * SAMPLE, 3)]


def test_host_numbers_that_were_simulated_do_not_count_as_those_of_the_tables():
    """The parts of a run with a host of its own tell what the run without would take."""
    (plain,), (slow,) = (SIMULATE([row(BATCH)], [{STACK: own}]) for own in (NEUTRAL, StackCorrection(layer_us=900.0)))
    assert slow.value > 1.3 * plain.value
    (back,) = with_numbers_of([slow], {STACK: NEUTRAL})
    assert back.value == pytest.approx(plain.value, rel=0.01)


# ---------------------------------------------------------------------- left out


def test_held_rows_are_simulated_with_the_numbers_of_their_fold():
    truth = {"A100-80GB-SXM": StackCorrection(layer_us=300.0), "H100-SXM-80GB": StackCorrection(layer_us=300.0),
             "H200-SXM-141GB": StackCorrection(layer_us=600.0)}  # fmt: skip
    rows = measured_with(truth)
    predictions = predictions_of(rows, n_jobs=1)
    numbers = fold_numbers(predictions, "device")
    made = leave_out(predictions, "device", simulate=SIMULATE)
    alone = SIMULATE(rows, [numbers[one.id] for one in rows])
    assert [one.value for one in made] == [one.value for one in alone]
    # The odd device is predicted by the others' host, so in about half of its time; the others by a mixture.
    odd = [one for one in made if one.row.device_norm == "H200-SXM-141GB"]
    assert {one.numbers.layer_us for one in odd} == {numbers[odd[0].row.id][STACK].layer_us}
    assert numbers[odd[0].row.id][STACK].layer_us == pytest.approx(300.0, rel=0.15)
    assert score(odd).bias < -15
    quick = leave_out(predictions, "device")
    assert score(quick).median == pytest.approx(score(made).median, abs=5)


def test_rows_whose_numbers_stay_are_not_simulated_again():
    rows = _read([{**BATCH, "device": "L40S", "engine": "gpt-fast"}, PHASE])
    predictions = predictions_of(rows, n_jobs=1)
    asked = []
    leave_out(predictions, "device", simulate=lambda rows, numbers: asked.append(rows) or [])
    # gpt-fast has no numbers, in no fold; too few rows of the other leave it without those that the catalogue has.
    assert own_numbers("gptfast@2024") == ()
    assert [[one.engine for one in rows] for rows in asked] == [["vLLM (2024)"]]


def test_a_device_under_another_name_does_not_see_itself():
    """A capped H100 is an H100: its rows are no part of the fit that the H100 is scored by, nor the other way round."""
    usual, odd = StackCorrection(layer_us=100.0), StackCorrection(layer_us=900.0)
    names = ("A100-80GB-SXM", "A100-40GB", "H100-SXM-80GB", "H100-SXM-80GB power-capped")
    rows = measured_with(dict(zip(names, (usual, usual, odd, odd), strict=True)), loads=(2,))
    numbers = fold_numbers(predictions_of(rows, n_jobs=1), "device")
    capped = next(one for one in rows if "capped" in one.device)
    assert numbers[capped.id][STACK].layer_us < 300


# ---------------------------------------------------------------------- kept outcomes


def test_outcomes_of_older_code_or_data_are_predicted_anew_and_said(tmp_path, monkeypatch):
    rows, kept = _read([BATCH, PHASE]), tmp_path / "outcomes.jsonl"
    Simulator(1, kept)(rows, [None, None])
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    asked, dropped = [], []
    monkeypatch.setattr(run, "predict", lambda setup, machines: asked.append(setup) or run_predict(setup, machines))
    simulate = Simulator(1, kept, resume=True, dropped=dropped.append)
    simulate(rows, [None, None])
    assert (asked, dropped) == ([], [])
    for index, key in enumerate(("code", "data")):
        old = [{**line, key: "older"} if place == index else line for place, line in enumerate(lines)]
        kept.write_text("".join(json.dumps(line) + "\n" for line in old))
        simulate(rows, [None, None])
        assert len(asked) == index + 1
        assert dropped == [1] * (index + 1)
        assert '"older"' not in kept.read_text()
        assert len(kept.read_text().splitlines()) == 2


run_predict = run.predict


def test_what_makes_outcomes_counts_and_what_only_asks_or_shows_does_not():
    files = digest.files_that_count()
    assert {
        "performance/step_cost.py",
        "simulation.py",
        "accuracy/predict.py",
        "hardware/performance/h100_sxm.yaml",
    } <= set(files)
    assert not {"cli/app.py", "accuracy/score.py", "accuracy/software.py", "hardware/performance/stacks.yaml"} & set(
        files
    )
    assert len({digest.data_digest("llama-2-7b", name) for name in ("h100-sxm", "a100-sxm-80gb", "h100-sxm")}) == 2


def test_an_outcome_is_named_by_set_up_and_numbers():
    one, other = (case_of(row(BATCH, batch=batch)).setup for batch in (1, 2))
    slow = {STACK: StackCorrection(products=2.0)}
    assert len({name_of(one), name_of(other), name_of(one, slow)}) == 3
    assert name_of(one, {STACK: stack_of(STACK).correction}) == name_of(one)


def test_a_row_that_llmsim_stumbles_over_loses_no_other(monkeypatch):
    def stumbles(setup, machines):
        if setup.batch == 1:
            raise ZeroDivisionError("division by zero")
        return run_predict(setup, machines)

    monkeypatch.setattr(run, "predict", stumbles)
    bad, good = predictions_of(_read([{**BATCH, "batch": 1}, BATCH]), n_jobs=1)
    assert bad.reason.startswith("internal error: ZeroDivisionError: division by zero (test_validate_folds.py:")
    assert good.value is not None


@pytest.mark.parametrize(
    ("device", "engine"),
    [("A10G", "vLLM 0.6.3"), ("RTX 4090", "HF transformers"), ("L40S", "TGI 2"), ("MI250", "vLLM (2024)"),
     ("Gaudi 2", "optimum-habana"), ("TPU v6e", "JetStream"), ("Trainium2", "NeuronX"), ("M2 Ultra", "MLX"),
     ("H200 NVL", "TensorRT-LLM 0.12"), ("GB300", "SGLang 0.5.4"), ("Ascend 910B", "MindIE")],
)  # fmt: skip
def test_no_engine_on_no_device_decodes_faster_than_it_reads_its_weights(device, engine):
    """Bytes of all layers over the data sheet's bandwidth; 2 FLOP a weight and prompt token over the peak."""
    asked = {"device": device, "engine": engine, "batch": 1}
    rows = [row({**BATCH, **asked}, id=metric, metric=metric) for metric in ("tpot_ms", "ttft_ms")]
    tpot, ttft = predictions_of(rows, n_jobs=1)
    found, model = device_named(device), load_model("llama-2-7b")
    inside = weight_bytes(model) - 2 * 2 * model.vocab_size * model.hidden_size
    assert tpot.value > 1e3 * inside / found.memory_bandwidth
    assert ttft.value > 1e3 * inside * rows[0].prompt / max(found.peak_flops["bf16"], found.peak_flops.get("fp16", 0))


@pytest.mark.parametrize(
    ("said", "field"),
    [({"tp": 0}, "tensor"), ({"num_gpus": 0}, "devices"), ({"batch": 0}, "batch"), ({"concurrency": 0}, "concurrency"),
     ({"request_rate": 0}, "rate"), ({"isl": -3}, "prompt")],
)  # fmt: skip
def test_a_number_that_means_nothing_is_not_stated(said, field):
    assert getattr(row(BATCH, **said), field) is None


@pytest.mark.parametrize(
    ("said", "quantity"),
    [("p99", "p99"), ("P99.9", "p99.9"), ("90th percentile", "p90"), ("p50 of 3", "p50"),
     ("median of 5 repeats", "p50"), ("p75", "p75"), ("mean of 3", "mean"), ("", "mean")],
)  # fmt: skip
def test_a_statistic_is_read_as_people_write_it(said, quantity):
    assert case_of(row(CLOSED, metric="ttft_ms", statistic=said)).quantity == f"ttft_ms:{quantity}"


# ---------------------------------------------------------------------- the report


def test_the_report_names_what_is_furthest_off_with_its_sign():
    predictions = [prediction(-60, "a", model="x"), prediction(+30, "b", model="y"), prediction(1, "c", model="z")]
    lines = tables.worst(predictions, 2)
    assert [(line["off %"], line["signed %"], line["model"]) for line in lines] == [
        ("60", "-60", "x"),
        ("30", "+30", "y"),
    ]
    assert "furthest off" in page(predictions)


def test_rows_on_assumptions_and_borrowed_shapes_are_counted_apart():
    told = replace(prediction(4, "a"), assumptions=("the number format is not stated: fp16",))
    like = replace(prediction(40, "b", model="other"), assumptions=(f"{BORROWED}: other is not in the catalogue",))
    text = report_text([told, like, prediction(2, "c")], title="Ours")
    assert "2 of these rows rest on an assumption about their set-up, 1 of them on the shape of another model" in text
    assert [(line["models"], line["median %"]) for line in tables.borrowed([told, like])] == [
        ("in the catalogue", "4.0"), ("borrowed shape", "40.0")
    ]  # fmt: skip


def test_free_numbers_are_counted_by_stack_with_what_they_were_measured_on():
    made = [replace(prediction(4, name, device_norm=name), stack=STACK) for name in ("a", "b")]
    (line,) = tables.free_numbers(made)
    assert line["free numbers"] == str(stack_of(STACK).correction.free_numbers)
    assert (line["devices"], line["models"], line["may have"]) == (2, 1, "yes")
    assert tables.free_numbers(made[:1])[0]["may have"] == "no"
    folds = [replace(made[0], numbers=NEUTRAL), replace(made[1], numbers=StackCorrection(products=2.0))]
    assert tables.free_numbers(folds)[0]["free numbers"] == "0-1"
    assert tables.count_free_numbers(folds) == 1


def test_the_command_says_how_rows_were_left_out_and_how_numbers_were_fitted(tmp_path):
    lines = [{**LOOP, "device": device, "concurrency": load, "value": 60}
             for load in (1, 4) for device in ("A100-80GB-SXM", "H100-SXM")]  # fmt: skip
    path, out = table(tmp_path / "measured.csv", lines), tmp_path / "out"

    def validate(*more):
        return CliRunner().invoke(cli, ["validate", str(path), "-o", str(out), "-j", "1", "--no-plots", *more])

    assert "belongs to --fit or --leave-out" in validate("--first-order").output
    came = validate("--fit", "--leave-out", "device")
    assert came.exit_code == 0, came.output
    assert "with the fitted numbers (fitted and simulated" in came.output
    assert "with the numbers of their fold, each simulated with them" in (out / "report.md").read_text()
    assert (out / "stacks.fitted.yaml").read_text().startswith("# llmsim validate --fit: fitted and simulated")
    quick = validate("--resume", "--fit", "--leave-out", "device", "--first-order")
    assert "fitted once, to first order" in quick.output
    assert "with the numbers of their fold, scaled to first order" in quick.output
    kept = (out / "outcomes.jsonl").read_text()
    (out / "outcomes.jsonl").write_text(kept.replace('"code": "', '"code": "x'))
    assert "outcomes of older code or data are predicted anew" in validate("--resume").stderr
