"""Pasted commands of vLLM and its sweeps' parameter files: the same parser, the same scenario, unknown flags named."""

from __future__ import annotations

import json
import re

import pandas
import pytest
from click.testing import CliRunner

from llmsim.cli.app import cli
from llmsim.cli.parameter_files import read_points, words_of
from llmsim.cli.pasted import with_pasted
from llmsim.errors import InputError
from llmsim.schema import load

SERVE = """CUDA_VISIBLE_DEVICES=0,1 vllm serve meta-llama/Llama-3.1-8B-Instruct \\
  --tensor-parallel-size 2 --max-num-seqs 64 --no-enable-prefix-caching --port 8000 --trust-remote-code"""
BENCH = """vllm bench serve --model meta-llama/Llama-3.1-8B-Instruct --dataset-name random --random-input-len 512 \\
  --random-output-len 32 --request-rate 12 --num-prompts 40 --save-result --seed 3 --goodput ttft:300 tpot:20"""


def call(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], prog_name="llmsim")


def resolved(*words):
    said = call("simulate", *words, "--dry-run", "-q")
    assert said.exit_code == 0, said.output
    # Comments stand in a column that depends on the width of the values.
    return re.sub(" +#", " #", said.stdout)


def test_pasted_commands_are_the_same_as_our_own_options():
    own = resolved("--model", "llama-3.1-8b", "-tp", 2, "--max-num-seqs", 64, "--no-enable-prefix-caching",
                   "--dataset-name", "random", "--random-input-len", 512, "--random-output-len", 32,
                   "--request-rate", 12, "--num-prompts", 40, "--seed", 3, "--goodput", "ttft:300", "tpot:20",
                   "--gpu", "h100-sxm", "--port", 8000, "--trust-remote-code")  # fmt: skip
    pasted = resolved("--serve-cmd", SERVE, "--bench-cmd", BENCH, "--gpu", "h100-sxm")
    assert pasted.replace("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b") == own


def test_what_is_said_beside_a_pasted_command_wins():
    text = resolved("--serve-cmd", SERVE, "--bench-cmd", BENCH, "--max-num-seqs", 8, "--request-rate", 3)
    assert "max_num_seqs: 8 " in text
    assert "request_rate: 3" in text
    assert "tensor_parallel_size: 2 " in text


@pytest.mark.parametrize(
    "serve",
    [
        "python3 -m vllm.entrypoints.openai.api_server --model meta-llama/Llama-3.1-8B-Instruct --max-num-seqs=64",
        "/opt/venv/bin/vllm serve --model meta-llama/Llama-3.1-8B-Instruct --max-num-seqs 64  # the small one",
        "HF_TOKEN=x VLLM_USE_V1=1 vllm serve 'meta-llama/Llama-3.1-8B-Instruct' --max_num_seqs 64",
    ],
)
def test_commands_come_in_several_forms(serve):
    text = resolved("--serve-cmd", serve)
    assert "max_num_seqs: 64 " in text
    assert "Llama-3.1-8B-Instruct" in text


def test_flags_that_change_nothing_are_warned_about():
    said = call("simulate", "--serve-cmd", SERVE, "--bench-cmd", BENCH, "--dry-run")
    assert "trust_remote_code: ignored" in said.stderr
    assert "--bench-cmd: --model: ignored" in said.stderr


def test_what_is_ignored_alike_is_one_warning():
    serve = "vllm serve meta-llama/Llama-3.1-8B-Instruct --host h --tool-call-parser hermes"
    said = call("simulate", "--serve-cmd", serve, "--bench-cmd", f"{BENCH} --tokenizer y --label z", "--dry-run")
    warned = [line for line in said.stderr.splitlines() if "ignored" in line]
    assert "warning: engine.host, engine.tool_call_parser: ignored, they do not change simulated times" in warned
    assert sum("--bench-cmd" in line for line in warned) == 1


@pytest.mark.parametrize("word", ["--api-key", "--hf-token"])
def test_secrets_are_not_written(word, tmp_path):
    serve = f"vllm serve meta-llama/Llama-3.1-8B-Instruct {word} sk-1234"
    folder = tmp_path / "run"
    said = call("simulate", "--serve-cmd", serve, "--request-rate", "8", "--num-prompts", "5", "-o", str(folder))
    assert said.exit_code == 0, said.output
    assert not any(b"sk-1234" in file.read_bytes() for file in folder.iterdir())
    assert "sk-1234" not in said.output
    told = load({"model": "llama-3.1-8b", "cluster": {"gpu": "h100-sxm"}, "engine": {word[2:]: "sk-1234"}})
    assert "sk-1234" not in str(told.to_dict())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--serve-cmd", "vllm serve x --max-num-sequences 3"], "--serve-cmd: No such option"),
        (["--serve-cmd", "vllm serve x y"], "--serve-cmd: one model at a time (got x, y)"),
        (["--serve-cmd", "ollama serve x"], "--serve-cmd: not of the form 'vllm serve MODEL ...'"),
        (["--serve-cmd", "vllm serve 'x"], "--serve-cmd: No closing quotation"),
        (["--bench-cmd", "vllm serve x"], "--bench-cmd: not of the form"),
        (["--bench-cmd", "vllm bench serve --request-rat 3"], "--bench-cmd: No such option"),
        (["--bench-cmd", ""], "--bench-cmd: not of the form"),
    ],
)
def test_mistakes_in_pasted_commands_are_named(words, message):
    said = call("simulate", *words, "--dry-run")
    assert said.exit_code == 2
    assert message in said.stderr


@pytest.mark.parametrize("command", ["simulate", "sweep", "capacity", "memory", "calibrate"])
def test_the_commands_take_them(command):
    text = call(command, "--help").stdout
    assert "--serve-cmd" in text
    assert "--bench-cmd" in text


# ---------------------------------------------------------------------- parameter files


def test_a_point_is_flags_however_it_is_spelled():
    point = {"--max-num-seqs": 8, "max_num_batched_tokens": 512, "enable-prefix-caching": False,
             "async_scheduling": True, "speculative_config.num_speculative_tokens": 3,
             "cudagraph_capture_sizes": [1, 2]}  # fmt: skip
    assert words_of(point) == [
        "--max-num-seqs", "8", "--max-num-batched-tokens", "512", "--no-enable-prefix-caching", "--async-scheduling",
        "--speculative-config.num_speculative_tokens", "3", "--cudagraph-capture-sizes", "[1, 2]",
    ]  # fmt: skip


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return two parameter files: engines in a list, loads by name."""
    monkeypatch.chdir(tmp_path)
    serve, bench = tmp_path / "serve.json", tmp_path / "bench.json"
    serve.write_text(json.dumps([{"max_num_seqs": 8}, {"--max-num-seqs": 16, "enable_prefix_caching": False}]))
    bench.write_text(json.dumps({"slow": {"request_rate": 4, "_benchmark_name": "a"}, "fast": {"request-rate": 40}}))
    return serve, bench


SMALL = ("--model", "llama-3.1-8b", "--gpu", "h100-sxm", "--num-prompts", 20, "-j", 1, "--replications", 1)


def test_a_sweep_goes_over_all_pairs_of_the_files(files):
    serve, bench = files
    said = call("sweep", *SMALL, "--serve-params", serve, "--bench-params", bench, "-o", "out")
    assert said.exit_code == 0, said.output
    runs = pandas.read_csv("out/sweep.csv")
    pairs = list(zip(runs["engine.max_num_seqs"], runs["workload.arrival.request_rate"], strict=True))
    assert pairs == [(8, 4), (8, 40), (16, 4), (16, 40)]
    assert runs["engine.enable_prefix_caching"].isna().tolist() == [True, True, False, False]
    assert len(read_points(bench)) == 2
    own = call("sweep", *SMALL, "--set", "max_num_seqs=8,16", "--request-rate", 4, "-o", "own")
    assert own.exit_code == 0
    assert pandas.read_csv("own/sweep.csv")["mean_e2el_ms"][0] == runs["mean_e2el_ms"][0]


def test_files_go_with_pasted_commands_and_axes(files):
    serve, _ = files
    said = call("sweep", "--serve-cmd", SERVE, "--bench-cmd", BENCH, "--serve-params", serve, "--set", "prune=0,0.5",
                "--dry-run", "-q")  # fmt: skip
    assert said.exit_code == 0, said.output
    assert len(said.stdout.splitlines()) == 5
    assert "engine.max_num_seqs" in said.stdout


@pytest.mark.parametrize("text", ["no json", "[]", "5", "[5]", '{"max_num_seqs": 8}'])
def test_files_that_hold_something_else(tmp_path, text):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(InputError, match=r"f\.json"):
        read_points(tmp_path / "f.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_points(tmp_path / "none.json")


def test_unknown_flags_in_files_are_named(files):
    serve, _ = files
    serve.write_text('[{"max_num_sequences": 8}, {}]')
    said = call("sweep", *SMALL, "--serve-params", serve)
    assert said.exit_code == 2
    assert "No such option" in said.stderr


@pytest.mark.parametrize(
    "command",
    [
        "CUDA_VISIBLE_DEVICES=0,1 VLLM_USE_V1=1 nohup vllm serve Qwen/Qwen3-8B -tp 2 > log.txt 2>&1 &",
        "$ vllm serve Qwen/Qwen3-8B -tp 2 >>log.txt",
        "numactl -N 0 vllm serve Qwen/Qwen3-8B -tp 2 | tee log.txt",
        "vllm serve \\  \n  Qwen/Qwen3-8B \\\r\n  -tp 2; echo done",
        "vllm serve \u201cQwen/Qwen3-8B\u201d \u2013tensor-parallel-size \u20182\u2019",
        "docker run --gpus all -v ~/.cache/huggingface:/root/.cache/huggingface --env 'HF_TOKEN=x' -p 8000:8000 "
        "--ipc=host vllm/vllm-openai:latest --model Qwen/Qwen3-8B --tensor-parallel-size 2",
    ],
)
def test_commands_as_people_paste_them(command):
    assert with_pasted({"serve_cmd": command}) == {"model": "Qwen/Qwen3-8B", "tensor_parallel_size": "2"}


def test_a_path_with_an_odd_name_and_json_in_quotes():
    command = """vllm serve '/models/my model (v2)' --speculative-config '{"method": "ngram", "x": "a > b; c"}'"""
    told = with_pasted({"serve_cmd": command})
    assert told["model"] == "/models/my model (v2)"
    assert told["speculative_config"] == '{"method": "ngram", "x": "a > b; c"}'
