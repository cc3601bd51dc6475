"""The kernels beside products and attention: element-wise ones, the sampler, eager hosts, DeepEP."""

import csv
import tomllib

import numpy as np
import pytest

from llmsim.hardware import load_device
from llmsim.performance import kernels
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.host_work import HostWork
from llmsim.performance.kernels import expert_exchange
from llmsim.performance.operators import sampler

# Vidur's name -> ours, and the 16-bit elements that the kernel moves for each token (h hidden, f feed-forward, heads x
# width): a norm reads and writes h; rope reads and writes queries and keys; SiLU and product read 2 f and write f; an
# addition reads two and writes one; an embedding reads and writes h.
_MOVED = {
    "input_layernorm": ("norm", lambda row: 2 * row["h"]),
    "post_attention_layernorm": ("norm", lambda row: 2 * row["h"]),
    "attn_rope": ("rope", lambda row: 2 * (row["nh"] + row["nkv"]) * row["hd"]),
    "mlp_act": ("act", lambda row: 3 * row["ff"]),
    "add": ("add", lambda row: 3 * row["h"]),
    "emb": ("embedding", lambda row: 2 * row["h"]),
}


def vidur_rows(shared, device):
    path = shared / f"data/performance/kernels/vidur_{device}.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [row for row in csv.DictReader(lines) if row["op"] in _MOVED and row["split"] == "heldout"]


@pytest.mark.parametrize(("device", "name"), [("a100", "a100-sxm"), ("h100", "h100-sxm")])
def test_element_wise_kernels_of_models_held_out_take_what_was_measured(shared, device, name):
    known = Coefficients(load_device(name), "vllm-2023")
    errors: dict[str, list[float]] = {}
    for row in vidur_rows(shared, device):
        kernel, moved = _MOVED[row["op"]]
        sizes = {key: float(row[key] or 0) for key in ("h", "ff", "nh", "nkv", "hd")}
        price = kernels.stream(known.stream(kernel), known.chip, 2 * moved(sizes) * float(row["M"]))
        errors.setdefault(kernel, []).append(abs(float(price.total) / (float(row["latency_us"]) * 1e-6) - 1))
    medians = {kernel: float(np.median(values)) for kernel, values in errors.items()}
    print(name, {kernel: f"{100 * value:.1f} % of {len(errors[kernel])}" for kernel, value in medians.items()})
    assert set(medians) == {"norm", "rope", "act", "add", "embedding"}
    # Published: 4 to 14 % in the median on models held out (performance model 2.8).
    assert max(medians.values()) < 0.15


def test_the_sampler_takes_25_microseconds_and_0_6_a_sequence():
    # Performance model 2.8: 10-25 us, and 0.6-0.9 us a sequence (vLLM 0.19).
    known = Coefficients(load_device("h100-sxm"), "vllm")
    assert sampler(known, np.array([0.0, 1.0, 256.0])).total == pytest.approx([25e-6, 25.6e-6, 178.6e-6])


def test_hosts_without_graphs_take_what_was_fitted_for_each_step_and_sequence():
    one = np.array([1.0])
    # Performance model 2.8: 30.2 ms (H100 hosts) and 44.5 ms (A100 hosts) for 80 layers, 0.30-0.38 ms a sequence.
    for device, step_s in (("h100-sxm", 30.2e-3), ("a100-sxm", 44.5e-3)):
        host = HostWork(Coefficients(load_device(device), "vllm-2023"), 80, eager=False)
        assert float(host.seconds(one, one)[0]) == pytest.approx(step_s + host.sequence_s, rel=2e-3)
        assert 0.29e-3 < host.sequence_s < 0.39e-3
        assert host.bounds
    eager = HostWork(Coefficients(load_device("h100-sxm"), "vllm"), 32, eager=True)
    assert float(eager.seconds(one, one)[0]) == pytest.approx(1e-3 + 32 * 12 * 10e-6 + 10e-6)  # 12 launches at 10 us


@pytest.mark.parametrize("name", ["h100-sxm", "h200-sxm", "b200-sxm"])
def test_deepep_takes_its_latency_and_the_bytes_of_all_copies(name):
    known = Coefficients(load_device(name), "vllm")
    way = known.expert_exchange("ll", "dispatch", 1)
    # 128 tokens to 8 experts each, 7168 elements in fp8: 128 x 8 x 7168 B.
    expected = way.fit.a_us * 1e-6 + 128 * 8 * 7168 / (way.fit.B_GBps * 1e9)
    assert expert_exchange(way.fit, 128, 7168, 8, element_bytes=1.0) == pytest.approx(expected, rel=1e-12)
    assert 20e-6 < expected < 60e-6
    assert expert_exchange(way.fit, 0, 7168, 8, element_bytes=1.0) == pytest.approx(way.fit.a_us * 1e-6)
    assert Coefficients(load_device("a100-sxm"), "vllm").expert_exchange("ll", "dispatch", 1) is None


def test_the_shipped_constants_of_deepep_are_the_published_ones(shared):
    content = tomllib.loads((shared / "data/performance/coefficients.toml").read_text())
    rows = {key: row for table in content.values() if isinstance(table, dict) for key, row in table.items()}
    published = {key: row for key, row in rows.items() if "/deepep/" in key}
    assert published
    for key, row in published.items():
        device, _, operation = key.split("/")
        mode, direction, nodes = operation.split("_")
        known = Coefficients(load_device(device.replace("_", "-")), "vllm")
        way = known.expert_exchange(mode, direction, int(nodes.removeprefix("nodes")))
        assert way is not None, key
        assert (way.fit.a_us, way.fit.B_GBps) == (row["a_us"], row["B_GBps"])
