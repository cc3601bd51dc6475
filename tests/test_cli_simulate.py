"""`llmsim simulate`: options over files, what is printed where, what is written, and how it ends."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmsim.cli.app import cli
from llmsim.cli.scenario_options import scenario_from
from llmsim.schema import load

SMALL = ("--request-rate", "20", "--num-prompts", "40")
FILE = """\
name: chat
cluster: {gpu: h100-sxm}
model: llama-3.1-8b
workload:
  dataset: {name: random, input_len: 256, output_len: 16}
  arrival: {kind: constant, request_rate: 20}
  num_prompts: 30
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LLMSIM_")]:
        monkeypatch.delenv(name)


def simulate(*arguments, **kwargs):
    return CliRunner().invoke(cli, ["simulate", *map(str, arguments)], prog_name="llmsim", **kwargs)


def said(*arguments):
    """Return what the options say, as the dict of a scenario."""
    result = simulate(*arguments, "--dry-run")
    assert result.exit_code == 0, result.output
    return load(result.stdout)


# ------------------------------------------------------------------ the demonstration


def test_without_an_argument_a_demonstration_runs_and_names_three_commands():
    result = simulate()

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("llmsim ")
    assert "engine preset vllm@0.33" in lines[0]
    assert "llama-3.1-8b" in lines[1]
    assert any("KV " in line for line in lines[:5])
    block = lines.index("============ Serving Benchmark Result ============")
    assert "open loop, Poisson 8.00 req/s, 500 requests" in lines[block - 1]
    assert "Successful requests:                     500       " in lines
    assert [line[6:].split()[0] for line in lines[-3:]] == ["llmsim"] * 3
    assert lines[-3].startswith("next: llmsim simulate runs/demo_")
    assert result.stderr == ""


def test_the_commands_it_names_work():
    first = simulate().stdout.splitlines()[-3:]

    for line in first:
        arguments = line[6:].split()[1:]
        assert CliRunner().invoke(cli, arguments, prog_name="llmsim").exit_code == 0, line


def test_the_run_folder_holds_summary_requests_and_the_resolved_scenario():
    simulate()
    (folder,) = Path("runs").iterdir()

    assert {path.name for path in folder.iterdir()} == {"summary.json", "requests.csv", "scenario.resolved.yaml"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["completed"] == 500
    assert folder.name == f"demo_{summary['scenario_sha256'][:8]}"
    assert len((folder / "requests.csv").read_text().splitlines()) == 501


def test_a_seed_alone_is_still_the_demonstration():
    assert "500 requests" in simulate("--seed", "3", "--no-output").stdout


# ------------------------------------------------------------------ options and files


def test_options_without_a_file_have_a_model_a_machine_and_the_defaults_of_vllm_bench():
    scenario = said("--num-gpus", "2", "-tp", "2")

    assert scenario.model == "llama-3.1-8b"
    assert (scenario.cluster.gpu, scenario.cluster.num_gpus) == ("h100-sxm", 2)
    result = simulate(*SMALL, "--no-output")
    assert "open loop, Poisson 20.00 req/s, 40 requests" in result.stdout
    assert "prompt 1024, output 128" in result.stdout


def test_engine_options_have_the_spelling_of_vllm():
    engine = said(
        "-tp", "2", "--max-num-seqs=64", "--no-enable-chunked-prefill", "--max-model-len", "8K",
        "--kv-cache-dtype", "fp8", "--device-memory-utilization", "0.8", "--enforce-eager",
    ).engine  # fmt: skip

    assert engine.tensor_parallel_size == 2
    assert engine.max_num_seqs == 64
    assert engine.enable_chunked_prefill is False
    assert engine.max_model_len == 8192
    assert engine.kv_cache_dtype == "fp8"
    assert engine.gpu_memory_utilization == 0.8
    assert engine.enforce_eager is True


@pytest.mark.parametrize(
    ("arguments", "workload"),
    [
        (["--request-rate", "8"], {"arrival": {"request_rate": 8.0}}),
        (["--request-rate", "inf"], {"arrival": {"request_rate": "inf"}}),
        (["--request-rate", "8", "--burstiness", "0.5"], {"arrival": {"request_rate": 8.0, "burstiness": 0.5}}),
        (["--request-rate", "8", "--max-concurrency", "4"], {"arrival": {"request_rate": 8.0, "max_concurrency": 4}}),
        (["--max-concurrency", "4"], {"closed_loop": {"concurrency": 4}}),
        (["--num-prompts", "5", "--input-len", "7"], {"num_prompts": 5, "dataset": {"name": "random", "input_len": 7}}),
        (
            ["--random-input-len", "7", "--random-range-ratio", '{"input": 0.5, "output": 0}'],
            {"dataset": {"name": "random", "input_len": 7, "range_ratio": {"input": 0.5, "output": 0}}},
        ),
        (
            ["--arrival", "vllm", "--request-rate", "2", "--random-output-len", "9"],
            {"arrival": {"kind": "vllm", "request_rate": 2.0}, "dataset": {"name": "vllm_random", "output_len": 9}},
        ),
        (
            ["--dataset-name", "prefix_repetition", "--prefix-repetition-num-prefixes", "3"],
            {"dataset": {"name": "prefix_repetition", "num_prefixes": 3}},
        ),
        (
            ["--ramp-up-strategy", "linear", "--ramp-up-start-rps", "1", "--ramp-up-end-rps", "9"],
            {"arrival": {"ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "ramp_up_end_rps": 9}},
        ),
        (["--trace", "t.csv", "--speedup", "2"], {"trace": {"path": "t.csv", "speedup": 2.0}}),
        (
            ["--trace", "t.csv", "--request-rate", "3", "--num-prompts", "2"],
            {"trace": {"path": "t.csv"}, "arrival": {"request_rate": 3.0}, "num_prompts": 2},
        ),
        (
            ["--dataset-name", "custom", "--dataset-path", "t.jsonl", "--custom-output-len", "4"],
            {"dataset": {"name": "custom", "path": "t.jsonl", "output_len": 4}},
        ),
    ],
)
def test_load_options_are_those_of_vllm_bench(arguments, workload):
    Path("t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,2\n1,20,3\n")
    Path("t.jsonl").write_text('{"prompt": "how much is the fish", "output_tokens": 3}\n')

    told = said(*arguments).to_dict()["workload"]

    assert {key: value for key, value in told.items() if key not in ("on_too_long", "warmup")} == workload


def test_options_lie_over_a_file():
    Path("s.yaml").write_text(FILE)

    scenario = said("s.yaml", "--request-rate", "5", "-tp", "2", "--set", "workload.num_prompts=7", "--seed", "9")

    assert scenario.workload.arrival.kind == "constant"
    assert scenario.workload.arrival.request_rate == 5.0
    assert scenario.workload.num_prompts == 7
    assert scenario.workload.dataset.input_len == 256
    assert (scenario.engine.tensor_parallel_size, scenario.seed) == (2, 9)


def test_a_trace_replaces_the_load_of_a_file():
    Path("s.yaml").write_text(FILE)
    Path("t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,2\n1,20,3\n")

    result = simulate("s.yaml", "--trace", "t.csv", "--json", "--no-output")

    assert json.loads(result.stdout)["metrics"]["completed"] == 2


def test_the_environment_gives_options_too():
    result = simulate("--dry-run", env={"LLMSIM_SIMULATE_SEED": "7", "LLMSIM_SIMULATE_MAX_NUM_SEQS": "12"})

    scenario = load(result.stdout)
    assert (scenario.seed, scenario.engine.max_num_seqs) == (7, 12)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-tp", "3"], 4, "error: --tensor-parallel-size: 3 does not divide 32 heads of llama-3.1-8b\nhint: valid"),
        (["--max-num-seqs", "x", "--seed", "-1"], 3, "error: --seed: must be at least 0 (got -1)\nerror: --max-num"),
        (["--gpu", "h100x"], 3, "error: --gpu: hardware/devices: unknown name 'h100x'\nhint: closest names: h100"),
        (["--model", "lama-3.1-8b"], 3, "error: --model: unknown name 'lama-3.1-8b'"),
        (["--scheduler", "fifo"], 3, "error: --scheduler: unknown name (got 'fifo')"),
        (["--arrival", "pois", "--request-rate", "1"], 3, "error: --arrival: is not known (got 'pois')"),
        (["--workload", "nope"], 3, "error: --workload: workloads/presets: unknown name 'nope'"),
        (["--trace", "no.csv"], 3, "error: --trace: no such file 'no.csv'"),
        (["--set", "engine.tp=2"], 3, "error: --set engine.tp: unknown key"),
        (["--set", "tp"], 3, "error: --set tp: not of the form KEY=VALUE"),
        (["--slo", "p99_ttf_ms=3"], 3, "error: --slo: no such metric\nhint: did you mean"),
        (["--slo", "p99_ttft_ms"], 2, "not of the form KEY=VALUE"),
        (["--goodput", "ttf:3"], 3, "error: --goodput: must be ttft, ttfn, tpot or e2el"),
        (["--percentile-metrics", "ttft,tptt"], 3, "error: --percentile-metrics"),
        (["--model", "llama-3.1-70b"], 4, "hint: "),
        (["nothing.yaml"], 3, "error: nothing.yaml: no such file"),
        (["a.yaml", "b.yaml"], 2, "one scenario at a time"),
        (["--dataset-name", "sharegpt", "--input-len", "3"], 2, "--random-input-len goes with --dataset-name random"),
        (["--format", "xml"], 3, "error: --format: unknown format (got 'xml')"),
        (["-o", "taken/here"], 3, "error: --output-dir: cannot be written (got 'taken/here')"),
    ],
)
def test_what_is_wrong_is_said_by_the_name_of_the_option(arguments, code, words):
    Path("taken").write_text("a file where a folder should be")

    result = simulate(*arguments)

    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "Traceback" not in result.stderr


# ------------------------------------------------------------------ warnings


def test_flags_that_are_not_modelled_warn_and_do_not_change_the_result():
    plain = simulate(*SMALL, "--no-output", "-q").stdout
    result = simulate(
        *SMALL, "--no-output", "--kv-transfer-config", '{"kv_role": "kv_both"}', "--enable-eplb", "--swap-space", "4",
        "--served-model-name", "m", "--ignore-eos", "--backend", "vllm",
    )  # fmt: skip

    for words in (
        "engine.kv_transfer_config is not modelled yet", "engine.enable_eplb is not modelled yet",
        "engine.swap_space: ignored, vLLM V1 has no such flag", "engine.served_model_name: ignored",
        "--ignore-eos: ignored", "--backend: ignored",
    ):  # fmt: skip
        assert f"warning: {words}" in result.stderr
    assert plain in result.stdout


def test_json_flags_may_be_written_in_parts_as_in_vllm():
    engine = said("--speculative-config.method", "eagle", "--speculative-config.num_speculative_tokens=3",
                  "--kv-transfer-config.kv_connector_extra_config.a", "true", "-tp", "2").engine  # fmt: skip

    assert engine.speculative_config == {"method": "eagle", "num_speculative_tokens": 3}
    assert engine.kv_transfer_config == {"kv_connector_extra_config": {"a": True}}
    assert engine.tensor_parallel_size == 2


def test_each_warning_is_printed_once():
    result = simulate(*SMALL, "--no-output", "--kv-transfer-config", '{"kv_role": "kv_both"}', "--replicas", "2")

    assert result.stderr.count("engine.kv_transfer_config is not modelled yet") == 1


def test_windowed_layers_without_a_prefix_cache_warn_once_unless_it_is_off():
    warning = "warning: prefix caching is not modelled with windowed layers: every prompt token is computed\n"
    windowed = (*SMALL, "--no-output", "--model", "gpt-oss-20b", "--replicas", "2")

    assert simulate(*windowed).stderr.count(warning) == 1
    assert "prefix caching" not in simulate(*windowed, "--no-enable-prefix-caching").stderr


# ------------------------------------------------------------------ what is printed and written


def test_json_is_all_that_stdout_holds():
    result = simulate(*SMALL, "--json")

    told = json.loads(result.stdout)
    assert told["metrics"]["completed"] == 40
    assert "llmsim " in result.stderr
    assert "results: runs/" in result.stderr
    assert simulate(*SMALL, "--json", "-q").stderr == ""


def test_quiet_leaves_the_block_alone():
    result = simulate(*SMALL, "-q", "--no-output")

    assert result.stdout.startswith("============ Serving Benchmark Result")
    assert result.stderr == ""


def test_the_same_seed_writes_the_same_bytes_and_another_one_does_not():
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate(*SMALL, "--seed", seed, "-o", folder)

    first, second, other = (Path(name, "requests.csv").read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_a_resolved_scenario_runs_again_to_the_same_records():
    simulate(*SMALL, "-o", "a", "-tp", "2")
    simulate("a/scenario.resolved.yaml", "-o", "b")

    assert Path("a/requests.csv").read_bytes() == Path("b/requests.csv").read_bytes()


def test_what_is_written_can_be_chosen():
    simulate(*SMALL, "-o", "out", "--plots", "--steps", "--requests", "none", "--format", "llmsim,vllm-bench")

    names = {path.name for path in Path("out").iterdir()}
    assert names == {"summary.json", "vllm_bench.json", "steps.csv", "scenario.resolved.yaml", "plots"}
    assert list(Path("out/plots").glob("*.png"))
    assert not Path("runs").exists()


def test_nothing_is_written_when_not_wanted():
    simulate(*SMALL, "--no-output")

    assert list(Path().iterdir()) == []


def test_metrics_and_percentiles_can_be_chosen():
    stdout = simulate(*SMALL, "--no-output", "--percentile-metrics", "ttft", "--metric-percentiles", "25,99.9").stdout

    assert "P25 TTFT (ms):" in stdout
    assert "P99.9 TTFT (ms):" in stdout
    assert "TPOT" not in stdout


def test_a_gate_that_is_missed_exits_with_1():
    met = simulate(*SMALL, "--no-output", "--slo", "p99_ttft_ms=100000", "--slo", "request_throughput>=0.1")
    missed = simulate(*SMALL, "--no-output", "--slo", "p99_ttft_ms<=0.001")

    assert met.exit_code == 0
    assert met.stdout.count(" met") == 2
    assert missed.exit_code == 1
    assert "MISSED" in missed.stdout
    assert Path("runs").exists() is False


def test_goodput_has_the_spelling_of_vllm_bench():
    for arguments in (["--goodput", "ttft:500", "tpot:50"], ["--goodput", "ttft:500,tpot:50"],
                      ["--goodput", "ttft:500", "--goodput", "tpot:50"]):  # fmt: skip
        assert said(*arguments).goodput == {"ttft": 500.0, "tpot": 50.0}
    assert "Request goodput (req/s):" in simulate(*SMALL, "--no-output", "--goodput", "ttft:500").stdout


def test_several_replicas_share_the_load():
    simulate(*SMALL, "--replicas", "2", "--router", "least_requests", "-o", "out")

    rows = csv.DictReader(Path("out/requests.csv").read_text().splitlines())
    assert {row["replica"] for row in rows} == {"0", "1"}


def test_a_path_in_a_file_is_relative_to_the_file():
    Path("deploy").mkdir()
    Path("deploy/t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,2\n")
    Path("deploy/s.yaml").write_text("cluster: {gpu: h100}\nmodel: llama-3.1-8b\nworkload: {trace: t.csv}\n")

    assert simulate("deploy/s.yaml", "-o", "out").exit_code == 0
    assert simulate("out/scenario.resolved.yaml", "--no-output").exit_code == 0


def test_options_can_be_read_without_a_command_line():
    assert scenario_from({"gpu": "h100", "request_rate": "4"}).workload.arrival.request_rate == 4


def test_the_next_commands_of_a_run_without_a_folder_do_that_run_again():
    def next_of(*arguments):
        lines = simulate(*arguments, "--no-output").stdout.splitlines()
        return next(line for line in lines if line.startswith("next: ")).removeprefix("next: llmsim simulate ")

    assert next_of("--gpu", "l40s", "--num-prompts", "5") == (
        "--gpu l40s --num-prompts 5 --no-output --model llama-3.1-8b -tp 2"
    )
    assert next_of("--seed", "3") == (
        "--seed 3 --no-output --model llama-3.1-8b --gpu h100-sxm --request-rate 8 --num-prompts 500 -tp 2"
    )
    Path("s.yaml").write_text("model: qwen3-8b\ncluster: {gpu: h100-sxm}\nworkload: {num_prompts: 5}\n")
    assert next_of("s.yaml", "--set", "engine.max_num_seqs=4") == (
        "s.yaml --set engine.max_num_seqs=4 --no-output -tp 2"
    )


def test_the_file_that_a_run_wrote_is_run_again_under_the_same_header():
    first = simulate(*SMALL, "-o", "first").stdout.splitlines()[0]
    assert "scheduler" not in first
    assert simulate("first/scenario.resolved.yaml", "--no-output").stdout.splitlines()[0] == first
    own = simulate(*SMALL, "--scheduler", "static", "-o", "own").stdout.splitlines()[0]
    assert " scheduler static " in own
    assert simulate("own/scenario.resolved.yaml", "--no-output").stdout.splitlines()[0] == own


def test_commands_that_may_come_next_win_over_what_was_set():
    said = simulate("--set", "request_rate=5", "--set", "tensor_parallel_size=1", "--num-prompts", "20", "--no-output")
    plan, load = re.findall(r"llmsim simulate .*", said.stdout)
    assert plan.endswith("--set tensor_parallel_size=2")
    assert load.endswith("--set request_rate=10 --plots")
    again = simulate(*load.split()[2:-1])
    assert "Request rate configured (RPS):           10.00" in again.stdout
