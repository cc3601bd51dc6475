import numpy as np
import pytest

from llmsim.hardware import Link, load_device
from llmsim.performance import kernels
from llmsim.performance.coefficients import DATA_SHEET, FITTED, Coefficients
from llmsim.performance.collectives import Group, send

SIZES = np.geomspace(256, 512e6, 300)
NVLINK = Link("nvlink", 450e9, 7.7e-6)
H100 = Coefficients(load_device("h100-sxm"))


def test_the_faster_of_the_two_measured_ways_to_sum_is_taken():
    nccl, custom = H100.collective("nccl", "all_reduce", 8), H100.collective("vllm", "all_reduce", 8)
    slow = kernels.collective(nccl.fit, "all_reduce", 8, SIZES)
    quick = kernels.collective(custom.fit, "all_reduce", 8, SIZES, one_shot=True)
    np.testing.assert_array_equal(Group(H100, 8, NVLINK).all_reduce(SIZES), np.minimum(slow, quick))
    old = Coefficients(load_device("h100-sxm"), "vllm-2023")
    np.testing.assert_array_equal(Group(old, 8, NVLINK).all_reduce(SIZES), slow)


def test_the_link_that_was_measured_is_fitted_and_a_slower_one_scales_with_its_bandwidth():
    own, usual = Group(H100, 4, NVLINK), Group(H100, 4, None)
    assert own.layer == usual.layer == FITTED
    np.testing.assert_array_equal(own.all_reduce(SIZES), usual.all_reduce(SIZES))
    half = Group(H100, 4, Link("nvlink", 225e9, 7.7e-6)).all_reduce(SIZES)
    assert half[0] == pytest.approx(own.all_reduce(SIZES)[0], rel=0.01)
    assert half[-1] == pytest.approx(2 * own.all_reduce(SIZES)[-1], rel=0.03)


def test_another_kind_of_link_is_priced_from_the_data_sheet():
    pcie = Group(H100, 4, Link("pcie5", 63e9, 4e-6))
    assert pcie.layer == DATA_SHEET
    assert pcie.error == "39 / 142 %"
    assert pcie.all_reduce(SIZES)[-1] > 10 * Group(H100, 4, NVLINK).all_reduce(SIZES)[-1]


def test_a_group_across_nodes_pays_every_crossing_and_one_card():
    def group(latency_s: float, nodes: int) -> np.ndarray:
        return Group(H100, 16, Link("infiniband", 50e9, latency_s), nodes=nodes).all_reduce(SIZES)

    np.testing.assert_allclose(group(101e-6, 2) - group(1e-6, 2), 2 * 100e-6)
    np.testing.assert_allclose(group(101e-6, 4) - group(1e-6, 4), 4 * 100e-6)
    assert group(1e-6, 2)[-1] > 0.99 * 2 * 15 / 16 * SIZES[-1] / (0.721 * 50e9)


@pytest.mark.parametrize("device", ["h100-sxm", "gb200", "l40s", "mi300x", "tpu-v5e", "xeon-8592", "gaudi3"])
@pytest.mark.parametrize("ranks", [2, 3, 4, 6, 8, 16])
def test_any_group_on_any_device_pays_more_for_more_bytes(device, ranks):
    group = Group(Coefficients(load_device(device)), ranks, None)
    for seconds in (group.all_reduce(SIZES), group.all_gather(SIZES)):
        assert np.isfinite(seconds).all()
        assert seconds[0] > 0
        assert (np.diff(seconds) > 0).all()


def test_latency_grows_with_the_ranks_on_the_data_sheet():
    known = Coefficients(load_device("tpu-v5e"))
    latencies = [float(Group(known, ranks, None).all_reduce(SIZES[:1])[0]) for ranks in (2, 3, 4, 6, 8, 16, 32)]
    assert latencies == sorted(latencies)


def test_one_device_has_nobody_to_talk_to():
    assert not Group(H100, 1, None).all_reduce(SIZES).any()


def test_a_send_takes_the_latency_and_the_achieved_part_of_the_bandwidth():
    assert send(H100, NVLINK, np.array([0.0, 358e6])) == pytest.approx([7.7e-6, 1.0077e-3], rel=0.01)
    far = send(H100, Link("infiniband", 50e9, 20e-6), np.array([0.0, 36e6]))
    assert far == pytest.approx([20e-6, 1.02e-3], rel=0.01)
