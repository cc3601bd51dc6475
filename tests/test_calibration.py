"""`llmsim calibrate`: hidden numbers are found again from what a simulator with them would have measured."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import llmsim
from llmsim.calibration import calibrate
from llmsim.calibration.read import read
from llmsim.calibration.replay import simulated
from llmsim.cli.app import cli
from llmsim.errors import InputError, ScenarioError
from llmsim.performance.calibration import Range, read_calibration, write_calibration
from llmsim.results.formats import vllm_bench_json
from llmsim.results.tables import requests_csv
from llmsim.schema import resolve
from llmsim.workload.build import build

MACHINE = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}
PROMPTS = {"request_rate": 4, "input_len": 2000, "output_len": 60, "num_prompts": 60}
ANSWERS = {"max_concurrency": 16, "input_len": 300, "output_len": 150, "num_prompts": 64}


def scenario(**values):
    return llmsim.scenario(**MACHINE, **values)


def measure(folder: Path, name: str, hidden: dict, load: dict, *, seed: int = 0, noise: float = 0.02, detailed=True):
    """Write what `vllm bench serve` would have on a machine with ``hidden`` numbers; return file and run."""
    wanted = scenario(**load)
    resolved = resolve(wanted)
    workload = build(resolved.workload, seed=seed, max_model_len=resolved.options.max_model_len)
    run = simulated(resolved, workload, hidden).result(wanted, None)
    content = vllm_bench_json(run, detailed=detailed)
    if detailed:
        luck = np.random.default_rng(seed)
        first, whole = np.array(content["ttfts"]), np.array(content["latencies"])
        tail = (whole - first) * np.exp(noise * luck.standard_normal(len(first)))
        content["ttfts"] = (first * np.exp(2 * noise * luck.standard_normal(len(first)))).tolist()
        content["latencies"] = (np.array(content["ttfts"]) + tail).tolist()
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path, run


def holds(estimate, value: float) -> bool:
    return not estimate.kept and estimate.low <= value <= estimate.high


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A calibration from two loads, with hidden memory 1.25, compute 1.15 and 15 ms of network."""
    folder = tmp_path_factory.mktemp("measured")
    hidden = {"memory": 1.25, "compute": 1.15, "client_ms": 15.0}
    files = [measure(folder, "prompts", hidden, PROMPTS)[0], measure(folder, "answers", hidden, ANSWERS, seed=1)[0]]
    calibration = calibrate(files, scenario()).calibration
    path = folder / "calibration.yaml"
    write_calibration(calibration, path)
    return hidden, calibration, path, folder


def test_hidden_numbers_lie_in_their_intervals(found):
    hidden, calibration, _, _ = found

    for name, value in hidden.items():
        assert holds(calibration.numbers[name], value), (name, calibration.numbers[name])
    assert calibration.numbers["memory"].value == pytest.approx(1.25, rel=0.03)


def test_the_error_falls_in_sample_and_held_out(found):
    _, calibration, _, _ = found

    tokens = calibration.errors["tpot"]
    assert tokens.before > 10.0
    assert tokens.in_sample < 3.0
    assert tokens.held_out is not None
    assert tokens.held_out < 4.0


def test_a_load_that_was_not_measured_is_predicted_within_two_percent(found):
    hidden, _, path, folder = found
    load = {"request_rate": 6, "input_len": 1000, "output_len": 100, "num_prompts": 60}
    _, truth = measure(folder, "elsewhere", hidden, load)

    run = llmsim.simulate(scenario(**load).with_({"performance.calibration": str(path)}))

    for name in ("mean_tpot_ms", "mean_e2el_ms", "output_throughput"):
        assert run.metrics[name] == pytest.approx(truth.metrics[name], rel=0.02), name


def test_the_file_reads_back_and_labels_a_run(found):
    _, calibration, path, _ = found

    again = read_calibration(path)
    run = llmsim.simulate(scenario(**PROMPTS).with_({"performance.calibration": str(path)}))

    assert again.values == pytest.approx(calibration.values, rel=1e-4)
    assert again.regime.device == "h100-sxm"
    assert run.setup.calibrated
    assert "held out" in run.setup.expected_error
    assert "prices: calibrated, over fitted" in run.header_lines()[0]
    assert "uncalibrated" not in run.header_lines()[0]
    assert not [warning for warning in run.warnings if "regime" in warning]


def test_another_regime_is_said(found):
    _, _, path, _ = found
    long = llmsim.simulate(scenario(**{**PROMPTS, "input_len": 9000}).with_({"performance.calibration": str(path)}))
    other = resolve(
        llmsim.scenario(model="llama-3.2-3b", gpu="h100-sxm", **PROMPTS).with_({"performance.calibration": str(path)})
    )
    with pytest.raises(ScenarioError, match="was made on h100-sxm, which says nothing of a100-sxm-80gb"):
        resolve(
            llmsim.scenario(model="llama-3.1-8b", gpu="a100-sxm-80gb").with_({"performance.calibration": str(path)})
        )
    forced = llmsim.scenario(model="llama-3.1-8b", gpu="a100-sxm-80gb").with_(
        {"performance.calibration": str(path), "performance.force_calibration": True}
    )

    assert any("regime: prompt tokens 9000" in warning for warning in long.warnings)
    assert any("regime: model llama-3.2-3b" in warning for warning in other.warnings)
    assert any("regime: device a100-sxm-80gb" in warning for warning in resolve(forced).warnings)


def test_decode_alone_cannot_tell_memory_from_launches_or_the_host(tmp_path):
    file, _ = measure(tmp_path, "one", {"memory": 1.2}, {"max_concurrency": 1, "input_len": 64, "output_len": 80,
                                                        "num_prompts": 20})  # fmt: skip

    numbers = calibrate([file], scenario(async_scheduling=False)).calibration.numbers

    moved = [name for name, one in numbers.items() if not one.kept]
    assert "memory" in moved
    for name in ("launch", "step_us"):
        assert "cannot tell" in numbers[name].kept or "hardly depend" in numbers[name].kept
        assert name not in moved
    assert any("cannot tell" in one.kept and "memory" in one.kept for one in numbers.values())


def test_a_host_that_bounds_every_step_is_found(tmp_path):
    hidden = {"step_us": 20000.0}
    files = [measure(tmp_path, "a", hidden, ANSWERS)[0], measure(tmp_path, "b", hidden, PROMPTS)[0]]

    numbers = calibrate(files, scenario()).calibration.numbers
    alone = calibrate(files[:1], scenario()).calibration.numbers

    assert holds(numbers["step_us"], 20000.0)
    assert numbers["memory"].kept
    assert holds(alone["step_us"], 20000.0) or "cannot tell" in alone["step_us"].kept


def test_means_alone_are_enough_for_a_scale(tmp_path):
    files = [
        measure(tmp_path, "a", {"memory": 1.2, "compute": 1.2}, PROMPTS, detailed=False)[0],
        measure(tmp_path, "b", {"memory": 1.2, "compute": 1.2}, ANSWERS, detailed=False)[0],
    ]

    calibration = calibrate(files, scenario()).calibration

    assert calibration.numbers["memory"].value == pytest.approx(1.2, rel=0.04)
    assert calibration.numbers["compute"].value == pytest.approx(1.2, rel=0.1)
    assert any("--save-detailed" in note for note in calibration.notes)


def test_our_own_requests_file_is_taken(tmp_path):
    _, run = measure(tmp_path, "x", {"memory": 1.3}, ANSWERS)
    file = tmp_path / "requests.csv"
    file.write_text("".join(requests_csv(run.records)))

    numbers = calibrate([file], scenario()).calibration.numbers

    assert numbers["memory"].value == pytest.approx(1.3, rel=0.05)


def test_forward_passes_and_kernels_are_priced(tmp_path):
    """Truth by hand: passes and products take 1.2 times what they are priced at, so memory and compute are 1.2."""
    from llmsim.calibration.measured import Kernel, Pass
    from llmsim.calibration.pricing import _Prices, _step_cost, seconds_of
    from llmsim.calibration.source import with_values

    hidden = {"memory": 1.2, "compute": 1.2}
    resolved = with_values(resolve(scenario()), hidden)
    shapes = [[(1, context)] * batch for batch in (1, 8, 64, 128) for context in (100, 1000, 4000)]
    shapes += [[(tokens, 0)] for tokens in (500, 2000, 8000)]
    cost = _step_cost(resolved)
    forward = [
        {"case": str(index), "requests": [list(one) for one in shape],
         "median_us": seconds_of(cost, Pass("", tuple(shape), 1.0)) * 1e6}
        for index, shape in enumerate(shapes)
    ]  # fmt: skip
    (tmp_path / "forward.json").write_text(json.dumps(forward))
    prices = _Prices(resolved)
    rows = [Kernel("gemm", {"m": m, "n": 4096, "k": 4096}, 1.0, 0) for m in (1, 16, 256, 4096, 8192, 16384)]
    lines = [f"gemm,{row.sizes['m']},4096,4096,{prices.seconds(row) * 1e6}" for row in rows]
    (tmp_path / "kernels.csv").write_text("\n".join(["operator,m,n,k,us", *lines]))

    passes = calibrate([tmp_path / "forward.json"], scenario()).calibration
    kernels = calibrate([tmp_path / "kernels.csv"], scenario()).calibration

    assert passes.numbers["memory"].value == pytest.approx(1.2, rel=0.02)
    assert passes.numbers["compute"].value == pytest.approx(1.2, rel=0.02)
    assert kernels.numbers["compute"].value == pytest.approx(1.2, rel=0.02)
    assert passes.errors["step"].in_sample < 0.5


def test_the_replay_of_llmservingsim_is_better_met_on_the_half_that_was_left_out(shared):
    file = shared / "data" / "measured" / "replay" / "rtx-pro-6000_llama-3.1-8b_vllm-0.19.requests.jsonl"
    server = {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "gpu_memory_utilization": 0.9}

    errors = calibrate([file], llmsim.scenario(model="llama-3.1-8b", gpu="rtx-pro-6000", **server)).calibration.errors

    for name in ("ttft", "tpot", "e2e"):
        assert errors[name].held_out is not None
        assert errors[name].held_out < errors[name].before


SERVE = {"duration": 1.0, "completed": 2, "total_input_tokens": 20, "total_output_tokens": 20, "request_rate": 1.0}
ARRAYS = {"input_lens": [10, 10], "output_lens": [10, 10], "start_times": [0.0, 1.0], "ttfts": [0.1, 0.1]}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "", "is empty"),
        ("a.json", "{", "a.json:1: not JSON"),
        ("a.json", "{}", "JSON of no known kind"),
        ("a.json", json.dumps(SERVE), "no latency"),
        ("a.json", json.dumps({**SERVE, "completed": 0}), "completed: no request completed"),
        ("a.json", json.dumps({**SERVE, "duration": "x"}), "duration: must be a number"),
        ("a.json", json.dumps({**SERVE, "request_rate": -1, "mean_ttft_ms": 1}), "request_rate"),
        ("a.json", json.dumps({**SERVE, **ARRAYS, "ttfts": [0.1]}), "arrays of unequal length"),
        ("a.json", json.dumps({**SERVE, **ARRAYS, "ttfts": [0.1, "x"]}), "ttfts: not a list of numbers"),
        ("a.json", json.dumps({**SERVE, **ARRAYS, "errors": ["no", "no"]}), "no request was answered"),
        ("a.json", json.dumps([{"case": 1, "requests": [[1, 2]]}]), "case 0: no duration"),
        ("a.json", json.dumps([{"case": 1, "requests": [], "median_us": 5}]), "requests: not a list with requests"),
        ("a.json", json.dumps([{"case": 1, "requests": [{"x": 1}], "median_us": 5}]), "no new tokens"),
        ("a.csv", "a,b\n1,2\n", "a table of no known kind"),
        ("a.csv", "operator,m,n,k,us\ngemm,1,2\n", "a.csv:2: 5 columns in the header"),
        ("a.csv", "operator,m,n,k,us\nsort,1,2,3,4\n", "a.csv:2: operator: not known (got 'sort')"),
        ("a.csv", "operator,m,n,k,us\ngemm,1,x,3,4\n", "a.csv:2: n: not a number"),
        ("a.csv", "operator,m,n,k\ngemm,1,2,3\n", "no duration"),
        ("a.csv", "arrival_s,ttft_ms,input_tokens,output_tokens\n0,5,0,5\n", "input_tokens: not a number of tokens"),
        ("a.csv", "arrival_s,first_token_s,input_tokens,output_tokens\n9,5,4,5\n", "must be of one clock"),
        ("a.csv", "arrival_s,ttft_ms,input_tokens,output_tokens\nx,5,4,5\n", "a.csv:2: arrival_s: not a time"),
        ("a.csv", "arrival_s,ttft_ms,input_tokens,output_tokens\n0,5,4,5\n", "too few requests"),
        ("a.csv", "ttft_ms,input_tokens,output_tokens\n5,4,5\n", "no column of arrivals"),
    ],
)
def test_malformed_files_are_errors_that_say_where(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)

    with pytest.raises(InputError) as caught:
        read(tmp_path / name)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1", "not a calibration"),
        ("[", "not YAML"),
        ("llmsim_calibration: 9", "reads version 1 (got 9)"),
        ("llmsim_calibration: 1", "numbers: not a mapping"),
        ("llmsim_calibration: 1\nnumbers: {speed: 2}\nregime: {}\nerrors_percent: {}", "numbers.speed: no such number"),
        (
            "llmsim_calibration: 1\nnumbers: {memory: -2}\nregime: {}\nerrors_percent: {}",
            "numbers.memory.value: must be",
        ),
        ("llmsim_calibration: 1\nnumbers: {}\nregime: {}\nerrors_percent: {}", "regime.device: not a text"),
    ],
)
def test_malformed_calibrations_are_errors(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)

    with pytest.raises(InputError) as caught:
        read_calibration(tmp_path / "c.yaml")

    assert words in str(caught.value)


def test_a_calibrated_scenario_is_not_calibrated_again(found):
    _, _, path, folder = found

    with pytest.raises(InputError, match="one calibration does not lie over another"):
        calibrate([folder / "prompts.json"], scenario().with_({"performance.calibration": str(path)}))


def test_a_range_is_left_by_more_than_a_quarter():
    assert not Range(10.0, 100.0).beyond(9.0, 120.0)
    assert Range(10.0, 100.0).beyond(10.0, 126.0)
    assert Range(10.0, 100.0).beyond(7.0, 50.0)


def test_the_command_prints_and_writes(found, tmp_path):
    _, _, _, folder = found
    target = tmp_path / "out.yaml"
    words = [
        "calibrate",
        str(folder / "answers.json"),
        "--model",
        "llama-3.1-8b",
        "--gpu",
        "h100-sxm",
        "-o",
        str(target),
    ]

    answer = CliRunner().invoke(cli, words)
    as_json = CliRunner().invoke(cli, [*words, "--json"])
    nothing = CliRunner().invoke(cli, ["calibrate", str(folder / "answers.json")])
    serve = "vllm serve meta-llama/Llama-3.1-8B-Instruct"
    pasted = CliRunner().invoke(
        cli, ["calibrate", str(folder / "answers.json"), "--serve-cmd", serve, "--gpu", "h100-sxm", "-o", str(target)]
    )

    assert answer.exit_code == 0, answer.output
    assert "held out" in answer.stdout
    assert read_calibration(target).values
    assert json.loads(as_json.stdout)["regime"]["device"] == "h100-sxm"
    assert pasted.exit_code == 0, pasted.output
    assert pasted.stdout.splitlines()[-1] == (
        f"next: llmsim simulate --serve-cmd '{serve}' --gpu h100-sxm --set performance.calibration={target}"
    )
    assert nothing.exit_code == 2
    assert "what was measured?" in nothing.output


@pytest.mark.accuracy
def test_intervals_cover_the_truth_in_most_of_twenty_runs(tmp_path):
    hidden = {"memory": 1.2, "compute": 1.15}
    load = {"request_rate": 6, "input_len": 1200, "output_len": 100, "num_prompts": 100}
    covered = dict.fromkeys(hidden, 0)
    for seed in range(20):
        file, _ = measure(tmp_path, "run", hidden, load, seed=seed, noise=0.03)
        numbers = calibrate([file], scenario()).calibration.numbers
        for name, value in hidden.items():
            covered[name] += holds(numbers[name], value)
    print(covered)
    assert min(covered.values()) >= 17
