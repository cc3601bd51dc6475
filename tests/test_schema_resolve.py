"""Resolving: names looked up, the machine built, everything checked, and the origin of each value told."""

import sys

import pytest

from llmsim.errors import InfeasibleError, LlmsimError, ScenarioError
from llmsim.schema import Resolved, load, resolve, resolved_yaml, scenario
from llmsim.schema.findings import Findings
from llmsim.schema.flags import FLAGS
from llmsim.schema.machine import machine

H100 = "cluster: {gpu: h100}\n"


def base(**options):
    return scenario(**{"model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 8, **options})


def message(of):
    with pytest.raises(LlmsimError) as raised:
        resolve(of)
    return str(raised.value)


def sizes(resolved: Resolved):
    return [node.devices for node in resolved.cluster.nodes]


@pytest.mark.parametrize(
    ("options", "nodes"),
    [
        ({}, [1]),
        ({"tensor_parallel_size": 4}, [4]),
        ({"tensor_parallel_size": 8, "replicas": 3}, [8, 8, 8]),
        ({"tensor_parallel_size": 4, "replicas": 3}, [8, 4]),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}, [8]),
        ({"replicas": 16}, [8, 8]),
        ({"tensor_parallel_size": 16}, [8, 8]),
        ({"num_gpus": 12}, [8, 4]),
        ({"num_gpus": 3, "tensor_parallel_size": 2}, [3]),
    ],
)
def test_a_device_comes_in_as_many_of_its_usual_nodes_as_are_needed(options, nodes):
    assert sizes(resolve(base(**options))) == nodes


def test_groups_that_do_not_divide_a_node_are_still_kept_whole():
    of = base()

    cluster = machine(of.cluster, Findings(of), tensor=5, groups=2)

    assert [node.devices for node in cluster.nodes] == [5, 5]  # not 8 and 2


def test_clusters_by_name_by_node_and_inline():
    text = "model: llama-3.1-8b\ncluster: {}\n"
    by_name = resolve(load(text.format("dgx-h100-x2")))
    by_node = resolve(load(text.format("{nodes: {type: dgx-h100, count: 2}}")))

    assert sizes(by_name) == sizes(by_node) == [8, 8]
    assert by_node.device.name == "h100-sxm"


def test_an_inline_machine_replaces_what_it_names():
    resolved = resolve(
        load(
            """\
model: llama-3.1-8b
cluster:
  gpus: {type: h100-sxm, count: 4, memory: 94GiB}
  nodes: {count: 2}
  links:
    - {between: devices, kind: bridge, bandwidth: 100GB/s, latency: 3us}
    - {between: network, count: 2, bandwidth: 25GB/s}
"""
        )
    )

    assert sizes(resolved) == [4, 4]
    assert resolved.device.memory_bytes == 94 * 2**30
    assert (resolved.node.device_link.kind, resolved.node.device_link.bandwidth) == ("bridge", 100e9)
    assert resolved.node.device_link.latency_s == pytest.approx(3e-6)
    assert (resolved.node.network_links, resolved.node.network_link.bandwidth) == (2, 25e9)
    usual = resolve(base()).node
    assert resolved.node.network_link.latency_s == usual.network_link.latency_s
    assert resolved.node.host_link == usual.host_link


def test_a_device_with_less_memory_gets_other_defaults():
    smaller = resolve(load("model: llama-3.1-8b\ncluster: {gpus: {type: h100-sxm, count: 1, memory: 40GiB}}\n"))

    assert smaller.options.max_num_seqs == 256
    assert smaller.origins["engine.max_num_seqs"] == "preset vllm@0.33, by device"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cluster: {gpu: h100-sxmm}", "s.yaml:2:11: cluster.gpu: hardware/devices: unknown name 'h100-sxmm'\nhint"),
        ("cluster: {nodes: {type: dgx}}", "s.yaml:2:19: cluster.nodes.type: hardware/nodes: unknown name 'dgx'"),
        ("cluster: nowhere", "s.yaml:2:1: cluster.name: hardware/clusters: unknown name 'nowhere'"),
        ("cluster: h100-and-a100", "mixes kinds of devices"),
        (H100 + "scheduler: contiguous", "s.yaml:3:1: scheduler: unknown name (got 'contiguous')\nhint: did"),
        (H100 + "scheduler: 'nowhere:X'", "s.yaml:3:1: scheduler: cannot import module 'nowhere'"),
        (H100 + "scheduler: 'llmsim.units:Nothing'", "has no name 'Nothing'"),
        (H100 + "deployment: {router: robin}", "s.yaml:3:14: deployment.router.policy: unknown name"),
        (H100 + "engine: {preset: vllm@0.1}", "s.yaml:3:10: engine.preset: unknown preset (got 'vllm@0.1')"),
        (H100 + "engine: {max_model_len: 999999}", "s.yaml:3:10: engine.max_model_len: 999999 exceeds"),
        (H100 + "workload: {dataset: {nam: 1}}", "s.yaml:3:22: workload.dataset.nam: unknown option"),
        (H100 + "workload: {preset: nope}", "s.yaml:3:12: workload.preset: workloads/presets: unknown"),
        (H100 + "workload: {trace: no.csv}", "s.yaml:3:12: workload.trace: no such file 'no.csv'"),
        ("cluster: {gpu: l4}\nperformance: {model: fitted}", "s.yaml:3:15: performance.model: there are no"),
        (H100 + "performance: {calibration: x}", "s.yaml:3:15: performance.calibration: x: cannot be read"),
        (H100 + "slo: {p99_ttft: 1}", "s.yaml:3:7: slo.p99_ttft: no such metric"),
        ("cluster: {gpu: h100, num_gpus: 1}\ndeployment: {replicas: 2}", "s.yaml:3:14: deployment.replicas: 2 x"),
    ],
)
def test_what_cannot_be_resolved_is_said_with_its_place(tmp_path, text, words):
    (tmp_path / "s.yaml").write_text(f"model: llama-3.1-8b\n{text}\n")

    assert words in message(load(tmp_path / "s.yaml")).replace(f"{tmp_path}/", "")


def test_an_impossible_plan_is_infeasible_and_says_what_would_do(tmp_path):
    (tmp_path / "s.yaml").write_text("cluster: {gpu: h100}\nmodel: llama-3.1-8b\nengine:\n  tensor_parallel_size: 3\n")

    with pytest.raises(InfeasibleError) as raised:
        resolve(load(tmp_path / "s.yaml"))

    assert str(raised.value).replace(f"{tmp_path}/", "") == (
        "s.yaml:4:3: engine.tensor_parallel_size: 3 does not divide 32 heads of llama-3.1-8b\n"
        "hint: valid values: 1, 2, 4, 8, 16, 32"
    )
    assert raised.value.exit_code == 4


def test_more_stages_than_layers_are_infeasible():
    assert message(base(pipeline_parallel_size=64)).startswith("engine.pipeline_parallel_size: 64 stages, but only 32")


def test_a_wrong_name_beside_an_impossible_plan_is_bad_input():
    with pytest.raises(ScenarioError) as raised:
        resolve(base(tensor_parallel_size=3, router="robin"))

    assert str(raised.value).count("unknown name") == 1
    assert "does not divide" in str(raised.value)


def test_all_findings_come_at_once():
    of = base(model="nope", gpu="nope", scheduler="nope", router="nope").with_({"slo": {"nope": 1}})

    text = message(of)

    for word in ("model", "cluster.gpu", "scheduler", "deployment.router.policy", "slo.nope"):
        assert f"{word}: " in text


def test_a_users_own_scheduler_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_schedulers.py").write_text("class Mine: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    assert resolve(base(scheduler="my_schedulers:Mine")).scheduler == "my_schedulers:Mine"
    assert "" not in sys.path


def test_vllm_is_another_name_for_continuous_batching():
    assert resolve(base()).scheduler == resolve(base(scheduler="vllm")).scheduler == "continuous"


def test_the_data_sheet_can_be_insisted_on():
    assert resolve(base()).device.performance == "h100_sxm"
    plain = resolve(base().with_({"performance.model": "roofline"}))
    assert plain.device.performance is None
    assert all(node.device.performance is None for node in plain.cluster.nodes)
    assert plain.performance.model == "data_sheet"
    assert plain.performance.stack == "vllm"


def test_warm_up_counts_requests_or_seconds():
    requests = resolve(base().with_({"workload.warmup": 200}))
    seconds = resolve(base().with_({"workload.warmup": "30s"}))

    assert (requests.warmup_requests, requests.warmup_s) == (200, 0.0)
    assert (seconds.warmup_requests, seconds.warmup_s) == (0, 30.0)


def test_resolving_names_the_run():
    assert resolve(base()).name == "llama-3.1-8b_h100-sxm"
    assert resolve(base(name="mine")).name == "mine"


def test_the_resolved_file_says_where_every_value_came_from():
    text = resolved_yaml(resolve(base(max_num_seqs=64, enable_eplb=True)))
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}

    assert lines["max_num_seqs"].split("#")[1].strip() == "user"
    assert lines["enable_eplb"].split("#")[1].strip() == "user; not modelled"
    assert lines["block_size"].split("#")[1].strip() == "preset vllm@0.33"
    assert lines["max_model_len"].split("#")[1].strip() == "model config"
    assert lines["max_num_batched_tokens"].split("#")[1].strip() == "preset vllm@0.33, by device"
    modelled = {name for name, flag in FLAGS.items() if flag.status == "modelled"} - {"max_cudagraph_capture_size"}
    assert modelled <= set(lines)
    values = [line for line in text.splitlines() if not line.startswith("#") and not line.endswith(":")]
    assert all("  # " in line for line in values)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quantization": "fp8", "kv_cache_dtype": "fp8", "tensor_parallel_size": 2, "replicas": 2, "name": "no"},
        {"enforce_eager": True, "request_rate": float("inf"), "num_prompts": 3},
        {"name": "12:30", "max_num_seqs": 7, "async_scheduling": False, "dtype": "float16"},
    ],
)
def test_the_resolved_file_runs_again_to_the_same(options):
    first = resolve(base(**options))

    again = resolve(load(resolved_yaml(first)))

    assert again.options == first.options
    assert again.model == first.model
    assert again.cluster == first.cluster
    assert again.name == first.name
    assert again.workload == first.workload
    assert resolve(load(resolved_yaml(again))).options == first.options


def test_a_device_may_be_described_in_the_scenario_itself():
    text = """\
model: llama-3.1-8b
cluster:
  gpus:
    count: 2
    type:
      name: mine
      title: My Accelerator
      maker: Us
      kind: gpu
      node: dgx-h100
      memory: 64 GiB
      memory_bandwidth: 2 TB/s
      peak_flops: {bf16: 400 TFLOP/s}
      clock: 1.8 GHz
      multiprocessors: 100
      scale_up_bandwidth: 200 GB/s
      scale_out_bandwidth: 25 GB/s
      power: 400 W
      sources: {default: data sheet}
"""
    resolved = resolve(load(text))

    assert (resolved.device.name, resolved.device.memory_bytes) == ("mine", 64 * 2**30)
    assert sizes(resolved) == [2]
    assert resolve(load(resolved_yaml(resolved))).cluster == resolved.cluster
    assert "names no usual node" in message(load(text.replace("      node: dgx-h100\n", "")))
