import csv
import json
from pathlib import Path

import numpy as np
import pytest

from llmsim.hardware import Device, load_device
from llmsim.performance import kernels
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.fits import Chip, CollectiveFit, ExpertsFit, GemmFit, MixedFit, PrefillFit
from llmsim.performance.kernels import attended, p_norm

CHIP = Chip(3.35e12, 132, {"bf16": 989e12, "fp8": 1978e12})
GEMM = GemmFit(2.4, 4.4, 2400, 0.84, 160, 6300, 0.001, 0.001, 0.87, 0.15, 65, 3.3, 0)
PREFILL = PrefillFit(12, 0.67, 100, 0.29, 0.4, 1.15, 1, 1.4)
EXPERTS = ExpertsFit(42, 0.01, 0.68, 43, 0.98, 1.6, 0.3, 3, 0.01, 2)
FORMATS = {"bfloat16": ("bf16", 2.0), "fp8": ("fp8", 1.0), "nvfp4": ("nvfp4", 0.5625)}


# Others of a chip's family share its constants; these are the devices that they were fitted on.
FITTED = {"a100_sxm": "a100-sxm-80gb", "rtx_pro_6000_server": "rtx-pro-6000"}


def device_of(performance: str) -> Device:
    return load_device(FITTED.get(performance, performance.replace("_", "-")))


def reference_rows(shared: Path) -> list[dict[str, str]]:
    with (shared / "data/performance/reference_values.csv").open() as lines:
        return list(csv.DictReader(lines))


def evaluate(row: dict[str, str], known: Coefficients) -> float:
    """Evaluate one row of the reference with the shipped coefficients and the catalogue's device."""
    given = json.loads(row["args"])
    backend, key, chip = row["backend"], row["key"], known.chip
    if row["op"] == "gemm":
        compute, size = FORMATS[key]
        fit = known.gemm(key).fit
        price = kernels.gemm(
            fit, chip, given["m"], given["n"], given["k"],
            compute=compute, weight_bytes=size, activation_bytes=size, cold=given["cold"],
        )  # fmt: skip
    elif row["op"] == "attn_prefill":
        price = kernels.prefill_attention(
            known.prefill("bfloat16").fit, chip, given["batch"], given["q"], given["heads"], given["kv_heads"],
            given["head_dim"], prefix=given["prefix"],
        )  # fmt: skip
    elif row["op"] == "attn_decode":
        price = kernels.decode_attention(
            known.decode("bfloat16", grouped=True).fit, chip, given["batch"], given["mean_context"], given["heads"],
            given["kv_heads"], given["head_dim"], cold=given["cold"],
        )  # fmt: skip
    elif row["op"] == "comm":
        operation, ranks = key.rsplit("_n", 1)
        found = known.collective(backend, operation, int(ranks))
        assert found is not None
        return float(
            kernels.collective(found.fit, operation, int(ranks), given["bytes"], one_shot=backend != "nccl")
        )  # fmt: skip
    else:
        compute, size = FORMATS[key]
        price = kernels.experts(
            known.experts(key).fit, chip, given["tokens"], given["hidden"], given["inter"], given["topk"],
            given["experts"], tp=given["tp"], ep=given["ep"], balanced=given["balanced"],
            compute=compute, weight_bytes=size,
        )  # fmt: skip
    return float(price.total)


def test_all_reference_values_are_met_with_the_shipped_coefficients(shared):
    rows = reference_rows(shared)
    assert {row["op"] for row in rows} == {"gemm", "attn_prefill", "attn_decode", "comm", "moe"}
    known = {}
    for row in rows:
        name = row["device"]
        if name not in known:
            known[name] = Coefficients(device_of(name), "vllm")
        assert evaluate(row, known[name]) == pytest.approx(float(row["seconds"]), rel=1e-9), row


@pytest.mark.parametrize("p", [1.0, 1.3, 2.7, 12.0])
def test_shares_of_a_p_norm_add_up_to_it(p):
    terms = np.abs(np.random.default_rng(1).normal(size=(4, 50))) * 10.0 ** np.arange(-6, -2)[:, None]
    norm, shares = p_norm(p, *terms)
    np.testing.assert_allclose(norm, (terms**p).sum(axis=0) ** (1 / p), rtol=1e-12)
    np.testing.assert_allclose(sum(shares), norm, rtol=1e-12)
    assert (norm >= terms.max(axis=0) * (1 - 1e-12)).all()
    assert (norm <= terms.sum(axis=0) * (1 + 1e-12)).all()


def test_a_p_norm_of_nothing_is_nothing():
    norm, shares = p_norm(2.0, 0.0, 0.0)
    assert norm == pytest.approx(0.0, abs=1e-12)
    assert all(np.isfinite(share) for share in shares)


def test_a_product_is_bound_by_weights_when_small_and_by_compute_when_large():
    small = kernels.gemm(GEMM, CHIP, 1, 28672, 8192)
    large = kernels.gemm(GEMM, CHIP, 8192, 28672, 8192)
    assert small.memory > 0.9 * (small.compute + small.memory)
    assert small.memory == pytest.approx(2 * 28672 * 8192 / (3.35e12 * 0.87), rel=0.01)
    assert large.compute > 0.9 * (large.compute + large.memory)
    assert large.compute == pytest.approx(2 * 8192 * 28672 * 8192 / (989e12 * 0.84), rel=0.1)


def test_a_product_costs_more_the_larger_it_is():
    rows = np.array([1, 2, 7, 16, 100, 1000, 16384])
    assert (np.diff(kernels.gemm(GEMM, CHIP, rows, 4096, 4096).total) > 0).all()
    assert (np.diff(kernels.gemm(GEMM, CHIP, 64, rows * 128, 4096).total) > 0).all()
    assert (np.diff(kernels.gemm(GEMM, CHIP, 64, 4096, rows * 128).total) > 0).all()


@pytest.mark.parametrize(("prefix", "window"), [(0, 0), (100, 0), (0, 64), (30, 64), (64, 64), (500, 64), (0, 1000)])
def test_attended_positions_are_those_counted_one_by_one(prefix, window):
    queries = 200
    seen = [prefix + j for j in range(1, queries + 1)]
    counted = sum(min(positions, window) if window else positions for positions in seen)
    # The formula counts the diagonal half: it is short by at most half a position a token.
    assert counted - queries / 2 - 1 <= attended(queries, prefix, window) <= counted


def test_a_window_leaves_short_sequences_alone_and_bounds_long_ones():
    def price(queries: float, window: float) -> float:
        return float(kernels.prefill_attention(PREFILL, CHIP, 1, queries, 8, 1, 128, window=window).total)

    assert price(500, 512) == price(500, 0)
    assert price(16384, 512) < 0.2 * price(16384, 0)


def test_prefill_behind_a_prefix_costs_what_the_difference_of_two_prefills_works():
    whole = float(attended(4096, 0))
    assert float(attended(1024, 0) + attended(3072, 1024)) == pytest.approx(whole)


def test_active_experts_are_those_of_random_routing():
    generator = np.random.default_rng(3)
    for tokens in (1, 5, 40):
        visits = [
            len({expert for _ in range(tokens) for expert in generator.choice(32, 4, replace=False)})
            for _ in range(300)
        ]
        assert kernels.active_experts(tokens, 32, 4) == pytest.approx(np.mean(visits), rel=0.03)
    assert kernels.active_experts(10_000, 32, 4) == pytest.approx(32)


def test_a_mixture_with_one_expert_reads_one_block_of_weights():
    price = kernels.experts(EXPERTS, CHIP, 1, 4096, 14336, 1, 1)
    assert price.memory == pytest.approx(3 * 4096 * 14336 * 2 / (3.35e12 * 0.98), rel=0.05)


def test_a_collective_starts_at_its_latency_and_ends_at_its_bandwidth():
    fit = CollectiveFit(a_us=5, da_us=10, B1_GBps=100, B_GBps=300, p=8)
    assert kernels.collective(fit, "all_reduce", 4, 0) == pytest.approx(5e-6, rel=0.05)
    size = 1e9
    assert kernels.collective(fit, "all_reduce", 4, size) == pytest.approx(2 * 3 / 4 * size / 300e9, rel=0.01)
    assert kernels.collective(fit, "all_gather", 4, size) == pytest.approx(3 / 4 * size / 300e9, rel=0.01)
    assert (np.diff(kernels.collective(fit, "all_reduce", 4, np.geomspace(1, 1e9, 200))) > 0).all()


def test_a_mixed_kernel_is_bound_by_its_longest_item_or_by_all_its_work():
    fit = MixedFit(t0_us=5, e=0.5, r=70, sd=0.4, sp=0.4, p=3, T=800, b1=80)
    one = kernels.mixed_attention(fit, CHIP, [(128, 0)], [100_000.0], 8, 128).total
    two = kernels.mixed_attention(fit, CHIP, [(128, 0)], [50_000.0, 50_000.0], 8, 128).total
    assert one > two  # the same work, a shorter longest item
    many = kernels.mixed_attention(fit, CHIP, [(128, 0)], [1000.0] * 2000, 32, 128)
    assert many.memory > many.compute
