"""What is known of vLLM's builds and of DeepSpeed's engine: kernels that read the cache for each query head, clocks."""

from dataclasses import replace

import numpy as np
import pytest

from llmsim.accuracy.datasets import dataset_named
from llmsim.accuracy.measured import Row, read_measured
from llmsim.accuracy.names import device_named
from llmsim.accuracy.run import predictions_of
from llmsim.accuracy.score import score
from llmsim.accuracy.setups import case_of
from llmsim.accuracy.software import on_platform, software_of
from llmsim.hardware import load_device
from llmsim.model.shape import Attention, CacheGroup
from llmsim.performance.attention import GroupAttention
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.correction import StackCorrection
from llmsim.performance.fits import Chip, PagedFit
from llmsim.performance.kinds import KINDS
from llmsim.performance.paged_attention import PagedAttention
from llmsim.performance.scales import correction_scales

NUMBERS = StackCorrection(products=2.0, compute=3.0, memory=5.0)
# A chip of 100 multiprocessors and 1 TB/s; a head of 128 elements of 2 bytes: 512 bytes a token for keys and values.
CHIP = Chip(1e12, 100.0, {"bf16": 1e14})
FIT = PagedFit(t0_us=10.0, e_bw=1.0, shared_kB=64.0, round_us=1.0)


def paged(heads: int, longest: int, fit: PagedFit = FIT) -> PagedAttention:
    return PagedAttention(fit, CHIP, heads, 128, cache_bytes=2.0, longest=longest)


def test_version_2_reads_the_cache_once_for_each_query_head():
    """16 sequences x 32 heads = 512 blocks: 512 x 1,000 tokens x 512 bytes at 1 TB/s are 262 us."""
    price = paged(32, 8192).price(16, 1000)
    assert float(price.memory) == pytest.approx(512 * 1000 * 512 / 1e12)
    assert float(price.launch) == pytest.approx(10e-6)
    assert paged(32, 8192).seconds(16, 16000) == pytest.approx(float(price.memory))


@pytest.mark.parametrize(
    ("longest", "resident"),
    [
        (8192, 2),  # 64 KB of shared memory hold the logits of two contexts of 8,192 tokens in 4 bytes each
        (4096, 4),
        (131072, 2),  # longer contexts are not captured
        (2048, 8),
    ],
)
def test_version_1_is_as_fast_as_blocks_have_room_for_their_logits(longest, resident):
    """A block of 128 threads loads 16 bytes each a round of 1 us: 2.048 GB/s; 100 x resident blocks run at a time."""
    price = paged(32, longest).price(17, 1000)  # 544 blocks: more than 512
    rate = min(min(100 * resident, 544) * 2.048e9, 1e12)
    assert float(price.memory) == pytest.approx(544 * 1000 * 512 / rate)


def test_version_1_is_never_faster_than_the_memory():
    quick = replace(FIT, round_us=1e-3)
    assert float(paged(32, 8192, quick).price(17, 1000).memory) == pytest.approx(544 * 1000 * 512 / 1e12)


def test_where_there_is_no_version_1_a_larger_batch_takes_longer_in_proportion():
    alone = paged(32, 8192, replace(FIT, round_us=0.0))
    seconds = alone.price(np.array([8.0, 16.0, 32.0, 64.0]), 1000.0).memory
    assert seconds / seconds[0] == pytest.approx([1, 2, 4, 8])


@pytest.mark.parametrize(("stack", "per_head"), [("vllm", False), ("vllm-paged", True), ("fastgen", True)])
def test_only_stacks_of_that_kernel_pay_for_query_heads_that_share_a_cache(stack, per_head):
    """Eight query heads for each KV head or one: the same cache, eight times the reading."""
    known = Coefficients(load_device("a100-sxm-80gb"), stack)
    attention = Attention(heads=64, kv_heads=8, head_dim=128)
    many = GroupAttention(known, CacheGroup(None, attention, 1), 1, "bf16", 4096)
    few = GroupAttention(known, CacheGroup(None, replace(attention, heads=8), 1), 1, "bf16", 4096)
    batch, context = np.array([8.0]), np.array([4000.0])  # 512 blocks and 64: version 2
    ratio = float((many.decode(batch, context).memory / few.decode(batch, context).memory)[0])
    assert ratio == pytest.approx(8.0) if per_head else ratio < 2.0


def test_the_table_of_decode_steps_and_a_step_alone_agree():
    known = Coefficients(load_device("mi300x"), "vllm-paged")
    group = GroupAttention(known, CacheGroup(None, Attention(heads=32, kv_heads=8, head_dim=128), 4), 1, "bf16", 8192)
    for batch in (1, 16, 17, 200):
        price = group.decode(np.array([float(batch)]), np.array([1500.0]))
        seconds, _ = group.mixed([], batch, 1500.0 * batch, 1500.0)
        assert seconds == pytest.approx(4 * float(price.total[0]), rel=1e-9)


@pytest.mark.parametrize(
    ("device", "stack"),
    [
        ("AMD MI250 128GB", "vllm-rocm@2024"),
        ("MI300X", "vllm-rocm@2024"),
        ("Intel Max 1550 (PVC)", "vllm-xpu@2024"),
        ("Gaudi2 96GB", "vllm@2024"),  # Intel's, and no GPU: its build shares nothing with the one for GPUs
        ("A100-40GB", "vllm@2024"),
    ],
)
def test_builds_for_gpus_of_other_makers_are_stacks_of_their_own(device, stack):
    found = device_named(device)
    software = software_of("vLLM (2024)")
    assert software is not None
    assert on_platform(software, found.maker if found.kind == "gpu" else "").stack == stack


def test_a_die_of_a_card_with_two_is_a_device():
    die = device_named("AMD MI250 128GB")
    assert die is device_named("MI250")
    assert die.memory_bytes == 64 * 2**30
    assert die.memory_bandwidth == pytest.approx(3276.8e9 / 2)
    assert die.peak_flops["bf16"] == pytest.approx(362.1e12 / 2, rel=0.01)


def test_products_on_mi300x_run_at_the_clock_that_its_power_leaves():
    device = load_device("mi300x")
    assert device.peak_flops["bf16"] == pytest.approx(1307.4e12)
    assert Coefficients(device, "vllm").chip.bf16 == pytest.approx(1307.4e12 * 1.35 / 2.1)


def test_what_a_library_of_products_costs_does_not_reach_experts():
    """On ROCm dense products come from hipBLASLt and experts from Triton: the one's number is not the other's."""
    scales = {kind: float(scale[0]) for kind, scale in zip(KINDS, correction_scales(NUMBERS), strict=True)}
    assert scales["compute", "feed_forward"] == 6.0
    assert scales["compute", "experts"] == 2.0
    assert scales["memory", "experts"] == scales["memory", "feed_forward"] == 10.0


def test_a_load_generator_of_even_pace_is_not_poisson():
    data = dataset_named('inference-perf shared_prefix "codegen" workload, experiment 1')
    assert data is not None
    assert data.arrivals == "constant"
    other = dataset_named("300 ShareGPT requests")
    assert other is not None
    assert other.arrivals == "poisson"


def _rows(shared, chosen, most: int) -> list[Row]:
    """Return at most ``most`` rows of each cell and split, evenly spread."""
    groups: dict[object, list[Row]] = {}
    for row in read_measured(shared / "data" / "measured" / "measured.csv.gz"):
        if row.tier in "AB" and chosen(row):
            groups.setdefault((row.cell, row.tensor), []).append(row)
    counts = [(rows, min(most, len(rows))) for rows in groups.values()]
    return [rows[index * len(rows) // count] for rows, count in counts for index in range(count)]


def test_vllm_on_mi300x_is_met(shared):
    """Dense models and a mixture, on one device and four, by three numbers that were fitted without the mixture."""
    chosen = ("ARGONNE", "MI300X")
    rows = _rows(shared, lambda row: (row.source, row.device_norm) == chosen and row.tensor in (1, 4), 5)
    found = score(predictions_of(rows, n_jobs=1))
    assert found is not None
    print(found)
    assert found.median < 12.0
    assert found.p90 < 20.0


def test_rows_of_a_load_test_come_at_an_even_pace(shared):
    rows = [
        row for row in read_measured(shared / "data" / "measured" / "measured.csv.gz")
        if row.source == "BLIS" and row.tier == "B" and "roleplay" in row.dataset and row.metric != "itl_ms"
        and row.statistic.startswith(("mean", "p90")) and row.model_norm == "Qwen/Qwen3-14B"
    ]  # fmt: skip
    assert rows
    assert all('"gaps": "constant"' in case_of(row).setup.workload for row in rows)
    found = score(predictions_of(rows, n_jobs=1))
    assert found is not None
    print(found)
    assert found.p90 < 15.0
