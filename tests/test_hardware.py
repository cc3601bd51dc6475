import tomllib

import networkx
import pytest
import yaml

from llmsim import catalog
from llmsim.errors import CatalogError
from llmsim.hardware import cluster_of, default_node, load_cluster, load_device, load_node, with_devices

DEVICES = catalog.names("hardware/devices")
NODES = catalog.names("hardware/nodes")
CLUSTERS = catalog.names("hardware/clusters")


def device_file(**changes):
    content = {
        "title": "Test",
        "maker": "Us",
        "kind": "gpu",
        "memory": "80 GB",
        "memory_bandwidth": "3 TB/s",
        "peak_flops": {"bf16": "1 PFLOP/s"},
        "clock": "1 GHz",
        "multiprocessors": 100,
        "scale_up_bandwidth": "450 GB/s",
        "scale_out_bandwidth": "50 GB/s",
        "power": "700 W",
        "sources": {"default": "made up"},
    }
    return {key: value for key, value in {**content, **changes}.items() if value is not ...}


def test_the_catalogue_spans_makers_and_kinds():
    devices = [load_device(name) for name in DEVICES]
    assert len(devices) >= 16
    assert {device.maker for device in devices} >= {"NVIDIA", "AMD", "Google", "Intel", "AWS", "Apple"}
    assert {device.kind for device in devices} == {"gpu", "tpu", "npu", "cpu"}


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_sane_numbers_and_a_node_that_holds_it(name):
    device = load_device(name)
    assert 8e9 < device.memory_bytes < 2e12
    assert 4e10 < device.memory_bandwidth < 1e13
    assert all(5e11 < peak < 2e16 for peak in device.peak_flops.values())
    assert {"bf16", "fp16"} & set(device.peak_flops)
    assert default_node(name).device == device


@pytest.mark.parametrize("kind", ["devices", "nodes", "clusters"])
def test_every_number_in_a_file_carries_a_unit_or_is_a_count_and_has_a_source(kind):
    counts = {"multiprocessors", "devices", "network_links", "cores", "numa_domains", "count", "device_shape"}

    def bare(content, path=()):
        for key, value in content.items():
            if isinstance(value, dict):
                yield from bare(value, (*path, key))
            elif isinstance(value, list):
                for entry in value:
                    if isinstance(entry, dict):
                        yield from bare(entry, (*path, key))
            elif isinstance(value, (int, float)) and key not in counts:
                yield (*path, key)

    for name in catalog.names(f"hardware/{kind}"):
        content = yaml.safe_load(catalog.find(f"hardware/{kind}", name).read_text())
        assert list(bare(content)) == []
        assert content["sources"]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        # Dense 16-bit multiply-adds, counted as two, that the tensor cores of one multiprocessor do in a
        # cycle (architecture white papers); a sparse figure would be twice as large.
        ("v100-sxm-32gb", 1024),
        ("t4", 1024),
        ("a100-sxm-80gb", 2048),
        ("a100-pcie-40gb", 2048),
        ("a30", 2048),
        ("a40", 1024),
        ("a10", 1024),
        ("rtx-3090", 512),
        ("rtx-4090", 512),
        ("l4", 1024),
        ("l40s", 1024),
        ("rtx-6000-ada", 1024),
        ("h100-sxm", 4096),
        ("h100-pcie", 4096),
        ("h200-sxm", 4096),
        ("b200-sxm", 8192),
        ("gb200", 8192),
        ("b300-sxm", 8192),
        ("rtx-pro-6000", 1024),
        ("rtx-5090", 512),
        ("mi300x", 2048),
        ("mi355x", 4096),
    ],
)
def test_peak_flops_are_dense(name, limit):
    device = load_device(name)
    done = device.peak_flops["fp16"] / (device.multiprocessors * device.clock_hz)
    assert 0.7 * limit < done < 1.03 * limit


def test_fitted_coefficients_find_the_numbers_they_were_fitted_with(shared):
    with (shared / "data" / "performance" / "coefficients.toml").open("rb") as file:
        fitted = tomllib.load(file)["device"]
    priced = [device for device in map(load_device, DEVICES) if device.performance]
    assert {device.performance for device in priced} == set(fitted)
    for key, numbers in fitted.items():
        # Others of the same chip family share the constants and are scaled by their data sheets.
        owners = [
            device
            for device in priced
            if device.performance == key
            and device.multiprocessors == numbers["sm"]
            and device.memory_bandwidth == numbers["hbm_GBps"] * 1e9
            and device.memory_bytes == numbers.get("hbm_bytes", device.memory_bytes)
            and all(
                device.peak_flops[name.removesuffix("_TFLOPS")] == tera * 1e12
                for name, tera in numbers.items()
                if name.endswith("_TFLOPS")
            )
        ]
        assert owners, f"no device has the numbers that {key} was fitted with"


def test_names_and_aliases_are_unique_and_found_in_any_spelling():
    for kind in ("devices", "nodes", "clusters"):
        known = [*catalog.names(f"hardware/{kind}")]
        for name in catalog.names(f"hardware/{kind}"):
            content = yaml.safe_load(catalog.find(f"hardware/{kind}", name).read_text())
            known += content.get("aliases", [])
        assert len(known) == len(set(known))
    assert load_device("a100").name == load_device("A100_SXM").name == "a100-sxm-80gb"
    assert load_device("H100 SXM").performance == "h100_sxm"


def test_an_unknown_name_gets_the_three_closest():
    with pytest.raises(
        CatalogError, match=r"hardware/devices: unknown name 'h10'\nhint: closest names: h100, h\w+, \S+$"
    ):
        load_device("h10")
    with pytest.raises(CatalogError, match="dgx-h100"):
        load_node("dgx-h1000")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": 80}, "memory: '80' is not a quantity such as '80 GB'"),
        ({"memory": ...}, "memory: missing"),
        ({"memory_bandwidth": "3 GHz"}, "memory_bandwidth: '3 GHz' is not a quantity"),
        ({"power": "0 W"}, "power: must be positive"),
        ({"kind": "fpga"}, "kind: not one of gpu, tpu, npu, cpu"),
        ({"multiprocessors": 1.5}, "multiprocessors: not a whole number"),
        ({"memroy": "80 GB"}, "key: unknown name 'memroy'\nhint: closest names: memory"),
        ({"peak_flops": "1 PFLOP/s"}, "peak_flops: not a mapping"),
        ({"sources": {"memory": "data sheet"}}, "sources: nothing is said of memory_bandwidth"),
        ({"sources": {"default": "x", "price": "y"}}, "sources: price: not the source of a number"),
        ({"aliases": "h"}, "aliases: not a list"),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_key(tmp_path, changes, message):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(device_file(**changes)))
    with pytest.raises(CatalogError) as error:
        load_device(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_files_that_are_absent_or_no_yaml_are_refused(tmp_path):
    with pytest.raises(CatalogError, match="no such file"):
        load_device(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(CatalogError, match=r"broken\.yaml: not YAML"):
        load_device(tmp_path / "broken.yaml")


def test_a_device_may_stand_in_a_mapping():
    assert load_device({"name": "mine", **device_file()}).memory_bandwidth == 3e12
    node = yaml.safe_load(catalog.find("hardware/nodes", "dgx-h100").read_text())
    del node["aliases"]
    assert load_node({**node, "device": device_file()}).device.title == "Test"


@pytest.mark.parametrize("name", NODES)
def test_every_node_is_a_connected_graph_with_attributes(name):
    node = load_node(name)
    graph = cluster_of(node, 2).graph()
    assert networkx.is_connected(graph)
    kinds = [data["kind"] for _, data in graph.nodes(data=True)]
    assert kinds.count("device") == 2 * node.devices
    assert kinds.count("nic") == 2 * node.network_links
    assert all(data["bandwidth"] > 0 and data["latency_s"] >= 0 and data["kind"] for *_, data in graph.edges(data=True))
    devices = [name for name, data in graph.nodes(data=True) if data["kind"] == "device" and name.startswith("n0")]
    assert devices == [f"n0.d{i}" for i in range(node.devices)]


def test_topologies_have_the_links_they_are_named_after():
    def between_devices(name, count=None):
        node = load_node(name) if count is None else with_devices(load_node(name), count)
        graph = cluster_of(node, 1).graph()
        devices = [name for name in graph if ".d" in name]
        return graph.subgraph(devices).number_of_edges()

    assert between_devices("dgx-h100") == 0
    assert between_devices("l40s-8x") == 0
    assert between_devices("mi300x-8x") == 8 * 7 / 2
    assert between_devices("dgx-1") == 8
    assert between_devices("tpu-v5e-host") == 2 * 4 + 4  # 2 x 4: two rings of four, and a rung for each pair
    assert between_devices("tpu-v4-host") == 4
    assert between_devices("trn2-48xlarge") == 32
    assert between_devices("tpu-v5e-host", 2) == 1


def test_a_single_node_has_no_switch_and_several_meet_in_one():
    single, pair = load_node("dgx-h100"), load_cluster("dgx-h100-x2")
    assert "switch" not in cluster_of(single, 1).graph()
    graph = pair.graph()
    assert networkx.shortest_path(graph, "n0.d3", "n1.d3", weight="weight") == [
        "n0.d3", "n0.nic3", "switch", "n1.nic3", "n1.d3",
    ]  # fmt: skip
    assert networkx.shortest_path(graph, "n0.d3", "n0.d4", weight="weight") == ["n0.d3", "n0.switch", "n0.d4"]
    assert pair.devices == 16
    assert pair.device_of("n1.d0").name == "h100-sxm"


def test_clusters_add_up_their_nodes():
    assert all(load_cluster(name).devices > 0 for name in CLUSTERS)
    mixed = load_cluster("h100-and-a100")
    assert [node.name for node in mixed.nodes] == ["dgx-h100", "dgx-h100", "dgx-a100", "dgx-a100"]
    assert mixed.device_of("n2.d0").name == "a100-sxm-80gb"


def test_a_cluster_may_stand_in_a_scenario():
    cluster = load_cluster({"nodes": {"type": "dgx-h100", "count": 3}})
    assert cluster.devices == 24
    with pytest.raises(CatalogError, match=r"clusters inline: nodes\[0\]: count: not a whole number"):
        load_cluster({"nodes": [{"type": "dgx-h100", "count": 0.5}]})


def test_a_part_of_a_node_can_be_booked_but_no_more_than_it_holds():
    assert with_devices(load_node("dgx-h100"), 4).devices == 4
    with pytest.raises(CatalogError, match="holds 1 to 8 devices"):
        with_devices(load_node("dgx-h100"), 9)


def test_hosts_have_what_the_simulator_of_host_work_needs():
    for name in NODES:
        host = load_node(name).host
        assert host.cores >= 4
        assert 1e9 < host.clock_hz < 6e9
        assert host.memory_bandwidth > 5e10
        assert host.numa_domains >= 1
        assert host.sources["default"]
