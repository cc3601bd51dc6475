"""`llmsim list` and `llmsim show`."""

import json

import pytest
import yaml
from click.testing import CliRunner

from llmsim import catalog
from llmsim.cli.app import cli
from llmsim.cli.catalogue import table
from llmsim.model import model_names


def llmsim(*arguments):
    return CliRunner().invoke(cli, arguments, prog_name="llmsim")


@pytest.mark.parametrize("kind", ["hardware", "models", "workloads", "schedulers", "routers", "presets"])
def test_lists_are_tables_for_people_and_json_for_machines(kind):
    text, told = llmsim("list", kind), json.loads(llmsim("list", kind, "--json").stdout)

    assert text.exit_code == 0
    for rows in told.values():
        for row in rows:
            assert str(next(iter(row.values()))) in text.stdout


def test_the_whole_catalogue_is_listed():
    hardware = json.loads(llmsim("list", "hardware", "--json").stdout)
    assert [row["device"] for row in hardware["devices"]] == catalog.names("hardware/devices")
    assert [row["node"] for row in hardware["nodes"]] == catalog.names("hardware/nodes")
    assert [row["cluster"] for row in hardware["clusters"]] == catalog.names("hardware/clusters")
    models = json.loads(llmsim("list", "models", "--json").stdout)
    assert [row["model"] for row in models["models"]] == model_names()
    workloads = json.loads(llmsim("list", "workloads", "--json").stdout)
    assert [row["workload"] for row in workloads["presets"]] == catalog.names("workloads/presets")
    assert all(row["what"] for row in workloads["presets"])


def test_figures_in_the_list_are_those_of_the_entry():
    devices = json.loads(llmsim("list", "hardware", "--json").stdout)["devices"]

    h100 = next(row for row in devices if row["device"] == "h100-sxm")
    assert h100["memory_GB"] == 85.9  # 80 GiB
    assert h100["bf16_TFLOP/s"] == 989
    assert h100["prices"] == "fitted"


def test_policies_are_listed_with_what_they_do():
    assert {row["scheduler"] for row in json.loads(llmsim("list", "schedulers", "--json").stdout)["schedulers"]} >= {
        "continuous", "static",
    }  # fmt: skip
    routers = json.loads(llmsim("list", "routers", "--json").stdout)["routers"]
    assert {row["router"] for row in routers} >= {"round_robin", "least_requests"}
    assert all(row["what"].endswith(".") for row in routers)


def test_show_prints_an_entry_as_it_is_written():
    result = llmsim("show", "h100-sxm")

    assert result.stdout.startswith("# hardware/devices/h100-sxm.yaml\n")
    assert yaml.safe_load(result.stdout)["maker"] == "NVIDIA"
    assert "sources" in result.stdout
    assert json.loads(llmsim("show", "h100-sxm", "--json").stdout)["maker"] == "NVIDIA"


def test_show_knows_aliases_nodes_clusters_models_and_presets():
    assert "devices/h100-sxm.yaml" in llmsim("show", "h100").stdout
    assert "nodes/dgx-h100.yaml" in llmsim("show", "dgx-h100").stdout
    assert "clusters/dgx-h100-x2.yaml" in llmsim("show", "dgx-h100-x2").stdout
    for name in ("llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-fp8"):
        assert json.loads(llmsim("show", name).stdout)["num_hidden_layers"] == 32
    for preset in catalog.names("workloads/presets"):
        assert f"workloads/presets/{preset}.yaml" in llmsim("show", preset).stdout


def test_show_prints_the_defaults_of_an_engine():
    rows = {row["flag"]: row for row in json.loads(llmsim("show", "vllm@0.33", "--json").stdout)}

    assert rows["gpu_memory_utilization"]["default"] == 0.92
    assert rows["speculative_config"]["status"] == "modelled"
    assert rows["kv_transfer_config"]["status"] == "not modelled"
    assert "gpu_memory_utilization" in llmsim("show", "vllm@0.33").stdout


def test_show_prints_the_flags_of_every_preset():
    for preset in [row["preset"] for row in json.loads(llmsim("list", "presets", "--json").stdout)["presets"]]:
        assert "tensor_parallel_size" in llmsim("show", preset).stdout
    assert "mem_fraction_static" in llmsim("show", "sglang@0.5.23").stdout
    result = llmsim("show", "vllm@1.0")
    assert result.exit_code == 3
    assert "hint: vllm@0.6 to vllm@0.33 are known" in result.stderr


def test_show_prints_a_scheduler_and_its_settings():
    assert "It has no settings of its own" in llmsim("show", "vllm").stdout
    text = llmsim("show", "sglang").stdout
    assert text.startswith("# scheduler sglang\n")
    assert "schedule_conservativeness" in text
    told = json.loads(llmsim("show", "sglang", "--json").stdout)
    rows = {row["setting"]: row for row in told["settings"]}
    assert rows["schedule_policy"]["default"] == "fcfs"
    assert rows["max_prefill_tokens"]["type"] == "a whole number"
    assert all(row["what"] for row in rows.values())


def test_an_unknown_name_lists_the_closest():
    result = llmsim("show", "h100-smx")

    assert result.exit_code == 3
    assert "unknown name 'h100-smx'" in result.stderr
    assert "hint: closest names: h100-sxm" in result.stderr


def test_tables_put_numbers_to_the_right_and_texts_to_the_left():
    rows = [{"name": "a", "size": 1}, {"name": "long", "size": 1000}, {"name": "b", "size": None}]

    assert table(rows).splitlines() == ["name  size", "a        1", "long  1000", "b        -"]
    assert table([]) == "(none)"
