"""Mixtures of experts in the accuracy table: layouts with ranks, flags of benchmarks' scripts, factors on experts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmsim.accuracy.layouts import Layout, layout_of
from llmsim.accuracy.measured import Row, read_measured
from llmsim.accuracy.numbers import formats_of
from llmsim.accuracy.parts import SECONDS, factors_of
from llmsim.accuracy.ranks import flags_of
from llmsim.accuracy.run import predictions_of
from llmsim.accuracy.scripts import script_flags
from llmsim.accuracy.setups import case_of
from llmsim.accuracy.software import software_of
from llmsim.hardware import load_device
from llmsim.model import load_model
from llmsim.performance import formats
from llmsim.performance.correction import StackCorrection
from llmsim.performance.forward import one_stage

ROW = Row(
    id="r", source="s", engine="trtllm 1.2.0", model="DeepSeek-R1", precision="fp8", device="H200", devices=8,
    tensor=8, pipeline=1, experts=None, prompt=1024, output=1024, batch=None, concurrency=32, rate=None, dataset="",
    metric="tpot_ms", statistic="mean", value=10.0, kind="closed-loop", device_norm="H200-SXM",
    model_norm="DeepSeek-V3/R1", tier="B", notes="", line=1,
)  # fmt: skip


def laid(**changes) -> Layout:
    row = replace(ROW, **changes)
    software = software_of(row.engine)
    model, device = load_model("deepseek-v3"), load_device("h200-sxm")
    assert software is not None
    return layout_of(row, model, device, formats_of(row.precision, model, device, software))


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (8, 1, 1)),
        ({"experts": 8}, (8, 1, 8)),
        ({"notes": "attention_dp=1, moe_tp=2, moe_ep=4", "experts": 4}, (8, 1, 4)),
        # InferenceX's table counts the tensor parallelism of one rank, and devices in all.
        ({"tensor": 1, "experts": 8, "notes": "attention_dp=8, moe_tp=1, moe_ep=8"}, (1, 8, 8)),
        # NVIDIA's tables of offline runs: every device is a rank, also where the column says TP8.
        ({"notes": "MoE run uses attention DP + EP"}, (1, 8, 8)),
        ({"tensor": 1, "experts": 8, "notes": "MoE run uses attention DP + EP"}, (1, 8, 8)),
        ({"tensor": 1, "devices": 1, "notes": "MoE run uses attention DP + EP"}, (1, 1, 1)),
    ],
)
def test_layouts_of_mixtures(changes, sizes):
    found = laid(**changes)
    assert (found.tensor, found.data, found.expert) == sizes
    assert found.tensor * found.data * found.replicas == found.devices


def test_a_dense_model_on_more_devices_runs_in_copies():
    row = replace(ROW, tensor=2, model="Llama-3.1-70B", model_norm="Llama-3.x-70B")
    model, device, software = load_model("llama-3.1-70b"), load_device("h200-sxm"), software_of(ROW.engine)
    assert software is not None
    found = layout_of(row, model, device, formats_of("fp8", model, device, software))
    assert (found.tensor, found.data, found.replicas) == (2, 1, 4)


def test_ranks_in_the_words_of_each_engine():
    layout = Layout(2, 1, 1, 8, data=4, expert=8)
    assert flags_of(layout, "vllm@0.14") == (2, {"data_parallel_size": 4, "enable_expert_parallel": True})
    assert flags_of(layout, "sglang@0.5") == (
        8, {"data_parallel_size": 4, "enable_dp_attention": True, "ep_size": 8}
    )  # fmt: skip
    assert flags_of(layout, "trtllm@1") == (8, {"enable_attention_dp": True, "moe_expert_parallel_size": 8})
    assert flags_of(Layout(8, 1, 1, 8), "vllm@0.14") == (8, {})


def test_scripts_of_a_benchmark_say_what_its_table_leaves_out():
    public = "public InferenceX/InferenceMAX result"
    sglang = software_of("sglang 0.5.9")
    trtllm = software_of("trtllm 1.2.0")
    assert sglang is not None
    assert trtllm is not None
    row = replace(ROW, engine="sglang 0.5.9", notes=public)
    assert script_flags(replace(row, notes="an internal run"), sglang) == {}
    assert "scheduler_recv_interval" not in script_flags(row, sglang)
    blackwell = replace(row, device="B200-SXM", device_norm="B200-SXM")
    assert script_flags(blackwell, sglang)["scheduler_recv_interval"] == 30
    assert script_flags(replace(blackwell, concurrency=8), sglang)["scheduler_recv_interval"] == 10
    assert script_flags(replace(row, model_norm="gpt-oss-120b"), trtllm) == {"max_num_batched_tokens": 20000}
    assert script_flags(row, trtllm) == {}


# ---------------------------------------------------------------------- factors


def test_factors_on_experts_grow_with_rows_and_leave_dense_models_alone():
    device = load_device("h200-sxm")
    tokens = np.array([4.0, 8192.0])

    def whole(model: str, **numbers: float) -> np.ndarray:
        return one_stage(load_model(model), device, correction=StackCorrection(**numbers)).linear(tokens).sum(axis=0)

    for numbers in ({"experts": 2.0}, {"unpacking": 2.0}):
        assert np.array_equal(whole("llama-3.1-8b", **numbers), whole("llama-3.1-8b"))
        few, many = whole("gpt-oss-120b", **numbers) / whole("gpt-oss-120b")
        assert 1.0 <= few < 1.01  # a handful of tokens waits for weights
        assert 1.4 < many < 2.0
    # Weights of 16 bit are not unpacked.
    assert np.array_equal(whole("mixtral-8x7b", unpacking=2.0), whole("mixtral-8x7b"))
    assert whole("mixtral-8x7b", experts=2.0)[1] > 1.3 * whole("mixtral-8x7b")[1]


def test_mxfp4_runs_at_the_rate_of_its_activations():
    blackwell, hopper = (load_device(name).peak_flops for name in ("b200-sxm", "h200-sxm"))
    number = formats.weights("mxfp4", blackwell)
    assert (number.kernel, number.compute, number.unpacked) == ("nvfp4", "fp8", False)
    assert formats.weights("nvfp4", blackwell).compute == "nvfp4"
    number = formats.weights("mxfp4", hopper)
    assert (number.kernel, number.compute, number.unpacked) == ("bfloat16", "bf16", True)


def test_parts_know_the_factors():
    numbers = StackCorrection(products=2.0, compute=3.0, experts=5.0, unpacking=7.0)
    factor = dict(zip(SECONDS, factors_of(numbers), strict=True))
    # The library of products, which `compute` tells of, has no experts.
    assert (factor["compute"], factor["experts"], factor["unpacked"]) == (6.0, 10.0, 70.0)


# ---------------------------------------------------------------------- measured


@pytest.fixture(scope="module")
def rows(shared):
    return [row for row in read_measured(shared / "data/measured/measured.csv.gz") if row.tier in "AB"]


def test_offline_runs_with_ranks_are_within_a_quarter(rows):
    # TRT-1.2: DeepSeek-R1 on eight H200, all requests queued; 51 % short when priced as tensor parallelism over all.
    chosen = [row for row in rows if row.id.startswith("TRT-1.2") and row.model_norm == "DeepSeek-V3/R1"
              and row.device_norm == "H200-SXM" and (row.prompt, row.output) == (1024, 1024)]  # fmt: skip
    assert chosen
    case = case_of(chosen[0])
    assert case.setup is not None
    assert case.setup.tensor == 8
    assert '"enable_attention_dp": true' in case.setup.engine
    found = predictions_of(chosen, n_jobs=1)[0]
    assert found.value == pytest.approx(chosen[0].value, rel=0.25)


def test_time_to_first_token_of_gpt_oss_on_hopper(rows):
    # vLLM 0.18: half of what was measured before unpacking and its tiles were priced.
    chosen = [row for row in rows if row.model_norm == "gpt-oss-120b" and row.engine == "vllm 0.18.0"
              and row.metric == "ttft_ms" and row.prompt == 8192 and row.concurrency == 8]  # fmt: skip
    assert len(chosen) >= 4
    errors = [abs(one.value / one.row.value - 1.0) for one in predictions_of(chosen, n_jobs=1)]
    assert np.median(errors) < 0.25
