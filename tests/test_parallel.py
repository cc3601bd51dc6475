import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.errors import InfeasibleError
from llmsim.hardware import Cluster, cluster_of, load_cluster, load_node, with_devices
from llmsim.model import load_model
from llmsim.parallel import Plan, check, collective, layer_ranges, place

LLAMA_8B = load_model("llama-3.1-8b")
LLAMA_70B = load_model("llama-3.1-70b")


def one(node, devices=None):
    node = load_node(node)
    return cluster_of(node if devices is None else with_devices(node, devices), 1)


@pytest.mark.parametrize(
    ("model", "plan", "message"),
    [
        ("llama-3.1-8b", Plan(3), r"tensor_parallel_size: 3 does not divide 32 heads of llama-3\.1-8b"),
        ("qwen2.5-7b", Plan(8), r"8 does not divide 28 heads"),
        ("phi-4", Plan(4), r"4 neither divides nor is a multiple of 10 KV heads"),
        ("qwen2.5-7b", Plan(14), r"14 neither divides nor is a multiple of 4 KV heads"),
        ("falcon-7b", Plan(2), r"2 does not divide 71 heads of falcon-7b\nhint: valid values: 1, 71"),
        ("llama-3.1-8b", Plan(1, 33), r"33 stages, but only 32 layers"),
        ("llama-3.1-8b", Plan(0), r"sizes start at 1 \(got tensor 0, pipeline 1\)"),
    ],
)
def test_impossible_plans_are_refused_with_a_reason(model, plan, message):
    with pytest.raises(InfeasibleError, match=message):
        check(load_model(model), plan)


def test_the_hint_lists_what_would_divide():
    with pytest.raises(InfeasibleError, match=r"hint: valid values: 1, 2, 4, 8, 16, 32$"):
        check(LLAMA_8B, Plan(3))


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        ("llama-3.1-8b", Plan(16)),  # KV heads are repeated
        ("gpt-oss-120b", Plan(8)),  # 2880 / 8 is padded by the expert kernels
        ("deepseek-v3", Plan(16, 2)),  # the latent is not divided
        ("llama-3.1-405b", Plan(8, 16)),
    ],
)
def test_plans_that_vllm_accepts_pass(model, plan):
    check(load_model(model), plan)


@pytest.mark.parametrize(
    ("layers", "pipeline", "sizes"),
    [
        (32, 1, [32]),
        (80, 4, [20, 20, 20, 20]),
        # As vLLM's get_pp_indices: the last stage never takes more, the ones before it do, from the back.
        (61, 2, [31, 30]),
        (62, 4, [15, 16, 16, 15]),
        (63, 4, [16, 16, 16, 15]),
        (126, 8, [15, 16, 16, 16, 16, 16, 16, 15]),
        (5, 5, [1, 1, 1, 1, 1]),
    ],
)
def test_layers_are_cut_over_stages_as_vllm_does(layers, pipeline, sizes):
    assert [last - first for first, last in layer_ranges(layers, pipeline)] == sizes


@given(layers=st.integers(1, 200), pipeline=st.integers(1, 16))
def test_every_layer_is_in_exactly_one_stage(layers, pipeline):
    ranges = layer_ranges(layers, min(pipeline, layers))
    assert [index for first, last in ranges for index in range(first, last)] == list(range(layers))
    assert all(last > first for first, last in ranges)


@settings(max_examples=40, deadline=None)
@given(
    tensor=st.sampled_from([1, 2, 4, 8, 16]),
    pipeline=st.integers(1, 4),
    replicas=st.integers(1, 6),
    nodes=st.integers(1, 4),
    per_node=st.sampled_from([2, 4, 8]),
)
def test_no_device_is_given_out_twice_and_groups_stay_together_when_they_can(
    tensor, pipeline, replicas, nodes, per_node
):
    cluster = cluster_of(with_devices(load_node("dgx-h100"), per_node), nodes)
    plan = Plan(tensor, pipeline)
    if replicas * plan.devices > cluster.devices:
        with pytest.raises(InfeasibleError, match=f"wants {replicas * plan.devices} devices"):
            place(LLAMA_70B, plan, cluster, replicas)
        return
    placed = place(LLAMA_70B, plan, cluster, replicas)
    devices = [device for stages in placed for stage in stages for device in stage.devices]
    assert len(devices) == len(set(devices)) == replicas * plan.devices
    for stages in placed:
        assert [(stage.first_layer, stage.last_layer) for stage in stages] == layer_ranges(80, pipeline)
        assert [stage.onward is None for stage in stages] == [False] * (pipeline - 1) + [True]
        for stage in stages:
            assert len(stage.devices) == tensor
            assert (stage.collective is None) == (tensor == 1)
            if per_node % tensor == 0:
                assert len({device.split(".")[0] for device in stage.devices}) == 1


def test_too_few_devices_is_said_with_numbers():
    with pytest.raises(InfeasibleError) as error:
        place(LLAMA_70B, Plan(8), one("dgx-h100"), replicas=2)
    assert str(error.value).startswith("2 x Plan(tensor=8, pipeline=1) wants 16 devices: 1x-dgx-h100 has 8")
    assert "hint: 1 such replicas fit" in str(error.value)


def test_replicas_fill_nodes_in_order():
    placed = place(LLAMA_70B, Plan(4), load_cluster("dgx-h100-x2"), 4)
    assert [stages[0].devices[0] for stages in placed] == ["n0.d0", "n0.d4", "n1.d0", "n1.d4"]


def test_a_group_inside_a_node_talks_over_nvlink_and_one_across_nodes_over_the_network():
    (inside,) = place(LLAMA_70B, Plan(8), load_cluster("dgx-h100-x2"))[0]
    assert (inside.collective.kind, inside.collective.bandwidth) == ("nvlink", 450e9)
    (across,) = place(LLAMA_70B, Plan(16), load_cluster("dgx-h100-x2"))[0]
    # Eight ranks a node sum over its eight cards at once, as NCCL's rings do.
    assert (across.collective.kind, across.collective.bandwidth) == ("infiniband", 8 * 50e9)
    assert across.collective.latency_s > inside.collective.latency_s


def test_stages_send_over_the_link_that_lies_between_them():
    near = place(LLAMA_70B, Plan(4, 2), load_cluster("dgx-h100-x2"))[0]
    assert near[0].onward.kind == "nvlink"
    far = place(LLAMA_70B, Plan(8, 2), load_cluster("dgx-h100-x2"))[0]
    assert (far[0].onward.kind, far[0].onward.bandwidth) == ("infiniband", 50e9)
    # PCIe, network, network, PCIe: what the published send/recv profiles give across nodes.
    assert far[0].onward.latency_s == pytest.approx(20e-6)


def test_devices_without_a_link_of_their_own_meet_over_pcie():
    (stage,) = place(LLAMA_70B, Plan(8), one("l40s-8x"))[0]
    assert (stage.collective.kind, stage.collective.bandwidth) == ("pcie4", 31.5e9)


def test_directly_joined_devices_use_all_links_within_the_group():
    cluster = one("mi300x-8x")
    assert place(LLAMA_70B, Plan(8), cluster)[0][0].collective.bandwidth == 7 * 64e9
    assert place(LLAMA_70B, Plan(2), cluster)[0][0].collective.bandwidth == 64e9
    tpu = one("tpu-v5e-host")
    assert place(LLAMA_70B, Plan(8), tpu)[0][0].collective.bandwidth == 3 * 45e9
    assert place(LLAMA_70B, Plan(2), tpu)[0][0].collective.bandwidth == 45e9


def test_links_do_not_depend_on_which_of_equal_nodes_a_group_is_on():
    placed = place(LLAMA_70B, Plan(4, 2), load_cluster("dgx-h100-x4"), 4)
    assert len({(stages[0].collective, stages[0].onward) for stages in placed}) == 1


def test_kinds_of_devices_are_not_mixed_within_a_stage():
    mixed = Cluster("mixed", "", (with_devices(load_node("dgx-h100"), 1), with_devices(load_node("dgx-a100"), 1)))
    with pytest.raises(InfeasibleError, match=r"different kinds \(got h100-sxm, a100-sxm-80gb\)"):
        place(LLAMA_8B, Plan(2), mixed)


def test_a_single_device_has_no_collective():
    assert collective(one("dgx-h100").graph(), ["n0.d0"]) is None
