"""Scenario files: what is accepted, what is refused and in which words, and how values are laid over one another."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsim.errors import ScenarioError
from llmsim.schema import json_schema, load, scenario
from llmsim.schema.flags import FLAGS
from llmsim.schema.other_flags import ALL_FLAGS

FILE = """\
llmsim: 1
name: chat
cluster: {gpu: h100-sxm}
model: llama-3.1-8b
engine:
  tensor_parallel_size: 2
workload:
  dataset: {name: random, input_len: 1024, output_len: 128}
  arrival: {request_rate: 8}
"""


def errors(text, name="s.yaml", tmp_path=None):
    source = text
    if tmp_path is not None:
        source = tmp_path / name
        source.write_text(text)
    with pytest.raises(ScenarioError) as raised:
        load(source)
    return str(raised.value).replace(f"{tmp_path}/", "").splitlines()


def test_a_file_a_text_and_a_dict_say_the_same(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text(FILE)

    from_file = load(path)

    assert from_file == load(str(path)) == load(FILE) == load(from_file.to_dict())
    assert from_file.engine.tensor_parallel_size == 2
    assert from_file.deployment.replicas == 1


def test_all_errors_of_a_file_come_at_once_with_line_and_column(tmp_path):
    text = """\
nmae: chat
cluster: {gpu: h100-sxmm}
model: llama-3.1-8b
engine:
  tensor_paralel_size: 2
  tensor_parallel_size: 3
  max_num_seqs: many
  enforce_eager: maybe
workload:
  num_prompts: 12:30
slo: {p99_tft_ms: 500}
seed: -1
"""
    lines = errors(text, tmp_path=tmp_path)

    assert lines == [
        "s.yaml:1:1: nmae: unknown key (did you mean 'name'?)",
        "s.yaml:2:11: cluster.gpu: hardware/devices: unknown name 'h100-sxmm'",
        lines[2],
        "s.yaml:5:3: engine.tensor_paralel_size: unknown key (did you mean 'tensor_parallel_size'?)",
        "s.yaml:6:3: engine.tensor_parallel_size: 3 does not divide 32 heads of llama-3.1-8b",
        "hint: valid values: 1, 2, 4, 8, 16, 32",
        "s.yaml:7:3: engine.max_num_seqs: not a whole number (got many)",
        "s.yaml:8:3: engine.enforce_eager: neither true nor false (got maybe)",
        "s.yaml:10:3: workload.num_prompts: not a whole number (got 12:30)",
        "s.yaml:11:7: slo.p99_tft_ms: no such metric",
        "hint: did you mean 'p99_ttft_ms'?",
        "s.yaml:12:1: seed: must be at least 0 (got -1)",
    ]
    assert lines[2].startswith("hint: closest names: h100-sxm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tensor_parallel_size: 4", "tensor_parallel_size: unknown key (did you mean 'engine.tensor_parallel_size'?)"),
        ("gpu: h100-sxm", "gpu: unknown key (did you mean 'cluster.gpu'?)"),
        ("llmsim: 2", "llmsim: must be 1 (got 2)"),
        ("engine: {kv_cache_dtype: fp9}", "engine.kv_cache_dtype: unknown value (got 'fp9')"),
        ("engine: {scheduling_policy: lifo}", "engine.scheduling_policy: must be fcfs or priority (got 'lifo')"),
        ("engine: {watermark: 2}", "engine.watermark: must be at most 1 (got 2)"),
        ("engine: {block_size: 0}", "engine.block_size: must be at least 1 (got 0)"),
        ("engine: {block_size: 1.5}", "engine.block_size: not a whole number (got 1.5)"),
        ("engine: {block_size: true}", "engine.block_size: not a whole number (got true)"),
        ("engine: [1]", "engine: must be a mapping of keys to values"),
        ("engine: {dtype: 1}", "engine.dtype: must be"),
        ("workload: {arrival: {request_rate: fast}}", "workload.arrival.request_rate: not a number (got fast)"),
        ("workload: {arrival: {request_rate: 0}}", "workload.arrival.request_rate: must be above 0 (got 0)"),
        ("workload: {on_too_long: ignore}", "workload.on_too_long: must be reject, truncate or error"),
        ("workload: {warmup: soon}", "workload.warmup: neither a number of requests nor a duration"),
        ("cluster: {gpu: a, nodes: {type: b}}", "give exactly one of name, gpu, nodes, gpus (got gpu and nodes)"),
        ("cluster: {num_gpus: 2}", "cluster: give exactly one of name, gpu, nodes, gpus (got nothing)"),
        ("cluster: {name: a, num_gpus: 2}", "cluster: num_gpus goes with gpu only"),
        ("cluster: {gpus: {type: h100-sxm}}", "cluster.gpus.count: missing"),
        ("cluster: {gpus: {type: h100-sxm, count: 8, memory: 80}}", "cluster.gpus.memory: '80' is not a quantity"),
        ("model: [1]", "model: must be a name, a path or a mapping (got [1])"),
        ("goodput: {ttf: 1}", "goodput.ttf: must be ttft, ttfn, tpot or e2el (got 'ttf')"),
        ("output: {percentiles: [50, 101]}", "output.percentiles[1]: must be at most 100 (got 101)"),
        ("output: {percentiles: []}", "output.percentiles: list should have at least 1 item"),
        ("name: {a: 1}", "name: not a text"),
        ("model: true", "model: must be a name, a path or a mapping (got true)"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(change, message):
    key = change.split(":")[0]
    kept = {"cluster": "cluster: {gpu: h100-sxm}", "model": "model: llama-3.1-8b"}
    kept.pop(key, None)
    lines = errors("\n".join([*kept.values(), change, ""]))

    assert any(f"{key}" in line and message in line for line in lines), lines
    assert not any("Input should" in line or "pydantic" in line for line in lines)


def test_cluster_and_model_are_required():
    assert errors("seed: 1\n") == ["scenario: cluster: missing", "scenario: model: missing"]


def test_numbers_in_quotes_and_human_numbers_are_numbers():
    engine = load(
        """\
cluster: {gpu: h100-sxm}
model: llama-3.1-8b
engine: {max_model_len: 32k, max_num_batched_tokens: 8K, block_size: '16', gpu_memory_utilization: 90%,
         enforce_eager: no}
workload: {arrival: {request_rate: '1e1'}, num_prompts: 1e3}
"""
    )

    assert engine.engine.max_model_len == 32000
    assert engine.engine.max_num_batched_tokens == 8192
    assert engine.engine.block_size == 16
    assert engine.engine.gpu_memory_utilization == pytest.approx(0.9)
    assert engine.engine.enforce_eager is False
    assert engine.workload.arrival.request_rate == 10.0
    assert engine.workload.num_prompts == 1000


def test_vllm_config_spellings_work_under_engine():
    engine = load(
        """\
cluster: {gpu: h100-sxm}
model: llama-3.1-8b
engine:
  tensor-parallel-size: 2
  no-enable-prefix-caching: true
  device-memory-utilization: 0.8
"""
    ).engine

    assert engine.tensor_parallel_size == 2
    assert engine.enable_prefix_caching is False
    assert engine.gpu_memory_utilization == 0.8


def test_a_wrong_value_under_a_dashed_key_has_its_place(tmp_path):
    text = "cluster: {gpu: h100-sxm}\nmodel: llama-3.1-8b\nengine:\n  max-num-seqs: x\n"

    assert errors(text, tmp_path=tmp_path) == ["s.yaml:4:3: engine.max_num_seqs: not a whole number (got x)"]


def test_sections_may_be_one_word():
    short = load("cluster: dgx-h100-x2\nmodel: m\ndeployment: {router: random}\nworkload: {trace: a, closed_loop: 8}")

    assert short.cluster.name == "dgx-h100-x2"
    assert short.deployment.router.policy == "random"
    assert short.workload.trace.path == "a"
    assert short.workload.closed_loop.concurrency == 8


def test_extends_merges_deeply_and_replaces_lists(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "base.yaml").write_text(FILE + "output: {percentiles: [50, 99]}\n")
    (tmp_path / "top.yaml").write_text(
        "extends: base/base.yaml\nengine: {max-num-seqs: 8}\noutput: {percentiles: [90]}\nname: top\n"
    )

    top = load(tmp_path / "top.yaml")

    assert top.name == "top"
    assert top.engine.tensor_parallel_size == 2
    assert top.engine.max_num_seqs == 8
    assert top.output.percentiles == [90.0]
    assert "extends" not in top.to_dict()


def test_errors_in_a_base_name_the_base(tmp_path):
    (tmp_path / "base.yaml").write_text(FILE + "sed: 1\n")
    lines = errors("extends: base.yaml\nengine: {max_num_seqs: x}\n", tmp_path=tmp_path)

    assert "s.yaml:2:10: engine.max_num_seqs: not a whole number (got x)" in lines
    assert "base.yaml:10:1: sed: unknown key (did you mean 'seed'?)" in lines


def test_files_that_extend_each_other_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")

    with pytest.raises(ScenarioError, match="extends itself"):
        load(tmp_path / "a.yaml")


@pytest.mark.parametrize(("base", "message"), [("no.yaml", "no such file"), ("[a, b]", "not the path of one file")])
def test_a_base_that_is_none_is_refused(tmp_path, base, message):
    assert message in errors(f"extends: {base}\n", tmp_path=tmp_path)[0]


def test_paths_in_a_file_are_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "t.csv").write_text("x")
    (tmp_path / "deploy" / "s.yaml").write_text("cluster: {gpu: g}\nmodel: m\nworkload: {trace: {path: t.csv}}\n")
    monkeypatch.chdir(tmp_path)

    assert load("deploy/s.yaml").workload.trace.path == "deploy/t.csv"
    assert load("cluster: {gpu: a}\nmodel: m\nworkload: {trace: t.csv}\n").workload.trace.path == "t.csv"


def test_with_lays_values_over_by_dotted_or_short_name():
    base = load(FILE)
    other = base.with_({"engine.tensor_parallel_size": 4, "workload.request_rate": "16"}, max_num_seqs=8, replicas=2)

    assert other.engine.tensor_parallel_size == 4
    assert other.engine.max_num_seqs == 8
    assert other.workload.arrival.request_rate == 16.0
    assert other.deployment.replicas == 2
    assert base.engine.tensor_parallel_size == 2
    assert base == load(FILE)


def test_with_reads_texts_as_yaml():
    assert load(FILE).with_({"output.percentiles": "[1, 2]"}).output.percentiles == [1.0, 2.0]
    changed = load(FILE).with_({"workload.arrival": "{kind: constant, request_rate: 2}"})
    assert changed.workload.arrival.kind == "constant"


def test_setting_one_way_takes_away_the_other():
    base = load(FILE)

    traced = base.with_({"workload.trace": "t.csv"})
    assert traced.to_dict()["workload"] == {"trace": {"path": "t.csv"}}
    closed = base.with_({"workload.concurrency": 4})
    assert set(closed.to_dict()["workload"]) == {"dataset", "closed_loop"}
    assert base.with_({"cluster.name": "x"}).to_dict()["cluster"] == {"name": "x"}
    assert load("cluster: x\nmodel: m\n").with_(gpu="h100-sxm", num_gpus=2).to_dict()["cluster"] == {
        "gpu": "h100-sxm", "num_gpus": 2,
    }  # fmt: skip


def test_a_capped_open_loop_keeps_both_when_its_rate_changes():
    base = load(FILE).with_({"workload.closed_loop": 64, "workload.arrival.request_rate": 9})

    assert set(base.with_(request_rate=10).to_dict()["workload"]) == {"dataset", "arrival", "closed_loop"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine.max_num_seq": 4}, "engine.max_num_seq: unknown key (did you mean 'max_num_seqs'?)"),
        ({"engine.max_num_seqs": "x"}, "engine.max_num_seqs: not a whole number (got x)"),
        ({"model.layers.x": 1}, "model: not a mapping"),
        ({"": 1}, "not a dotted key"),
        ({"a..b": 1}, "not a dotted key"),
    ],
)
def test_with_refuses_what_is_wrong(values, message):
    with pytest.raises(ScenarioError) as raised:
        load(FILE).with_(values)

    assert message in str(raised.value)


def test_scenario_builds_from_plain_options():
    built = scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, input_len=100, max_num_seqs=3)

    assert built.to_dict() == {
        "cluster": {"gpu": "h100-sxm"},
        "model": "llama-3.1-8b",
        "engine": {"max_num_seqs": 3},
        "workload": {
            "dataset": {"name": "random", "input_len": 100, "output_len": 128},
            "arrival": {"request_rate": 8.0},
        },
    }
    with pytest.raises(ScenarioError, match="tensor_paralel_size: unknown key"):
        scenario(model="m", gpu="g", tensor_paralel_size=2)


def test_the_hash_is_of_what_changes_results():
    base = load(FILE)

    assert base.sha256 == load(FILE).sha256
    assert base.sha256 == base.with_({"name": "other", "output.percentiles": [1], "slo": {"p99_ttft_ms": 1}}).sha256
    assert base.sha256 != base.with_(seed=1).sha256
    assert base.sha256 != base.with_(max_num_seqs=8).sha256
    assert len(base.sha256) == 64


def test_scenarios_can_be_keys_and_say_what_they_are():
    assert {load(FILE): 1}[load(FILE)] == 1
    assert load(FILE) != 1


def test_infinity_survives_a_dict_of_json():
    built = scenario(model="m", gpu="g", request_rate=float("inf"))

    told = json.loads(json.dumps(built.to_dict(), allow_nan=False))

    assert told["workload"]["arrival"]["request_rate"] == "inf"
    assert load(told) == built


@given(
    st.dictionaries(
        st.sampled_from([name for name, flag in FLAGS.items() if flag.kind == "int"]), st.integers(2, 10**6), max_size=5
    ),
    st.integers(0, 2**40),
)
def test_every_scenario_survives_its_dict(engine, seed):
    built = load({"cluster": {"gpu": "g"}, "model": "m", "engine": engine, "seed": seed})

    assert load(built.to_dict()) == built
    assert load(json.loads(json.dumps(built.to_dict()))).sha256 == built.sha256


def test_the_json_schema_knows_every_flag_and_forbids_the_rest():
    schema = json_schema()

    engine = schema["$defs"]["EngineSection"]
    assert set(engine["properties"]) == {"preset", *ALL_FLAGS}
    assert engine["additionalProperties"] is False
    assert schema["additionalProperties"] is False
    assert schema["properties"]["cluster"]["anyOf"][0] == {"type": "string"}
    assert "extends" in schema["properties"]
    json.dumps(schema, allow_nan=False)


def test_importing_the_room_loads_no_pydantic():
    heavy = ("pydantic", "numpy", "yaml")
    code = f"import sys, llmsim.schema, llmsim.schema.flags; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"


def test_unknown_names_of_the_room_are_attribute_errors():
    import llmsim.schema

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llmsim.schema.nothing
