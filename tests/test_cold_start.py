"""Replicas that start cold serve only when their weights have come over the links."""

import pytest

import llmsim
from llmsim.hardware import default_node
from llmsim.machine.clock import Clock
from llmsim.machine.fabric import Fabric
from llmsim.model import load_model
from llmsim.model.weights import stage_weight_bytes


def scenario(**deployment):
    plain = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", replicas=2, request_rate=50, num_prompts=40)
    return plain.with_({f"deployment.{key}": value for key, value in deployment.items()})


def test_a_replica_serves_once_its_weights_are_loaded():
    run = llmsim.simulate(scenario(cold_start=True))
    link = default_node("h100-sxm").host_link
    loading = stage_weight_bytes(load_model("llama-3.1-8b")) / link.bandwidth + link.latency_s
    first = min(record.admitted_s for record in run.records)
    assert first == pytest.approx(loading, rel=1e-6)
    assert all(record.status == "finished" for record in run.records)


def test_replicas_start_one_after_the_other_and_take_requests_only_when_ready():
    run = llmsim.simulate(scenario(cold_start=True, start_interval_s=0.3))
    early = [record for record in run.records if 0.26 < record.arrival_s < 0.5]
    assert early
    assert {record.replica for record in early} == {0}
    assert {record.replica for record in run.records if record.arrival_s > 0.6} == {0, 1}


def test_a_warm_start_is_the_default():
    run = llmsim.simulate(scenario())
    assert min(record.admitted_s for record in run.records) < 0.1


def test_a_group_on_a_link_has_what_flows_leave_or_an_equal_share():
    import networkx

    graph = networkx.Graph()
    graph.add_edge("a", "b", bandwidth=10.0, latency_s=0.0)
    clock = Clock()
    fabric = Fabric(clock, graph)
    fabric.stand([("a", "b")], 0.2)
    assert fabric.part_left(("a", "b")) == 1.0
    fabric.transfer("a", "b", 100.0)
    clock.run(until=1.0)
    assert fabric.part_left(("a", "b")) == pytest.approx(0.5)
    fabric.stand([("a", "b")], 0.5)
    assert fabric.part_left(("a", "b")) == pytest.approx(0.7)
