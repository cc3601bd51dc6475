"""Links share bandwidth max-min fairly, and flows end when their bytes have arrived."""

import networkx
import pytest

from llmsim.errors import InfeasibleError
from llmsim.machine.clock import Clock
from llmsim.machine.fabric import Fabric, max_min_shares


def line(*bandwidths: float, latency_s: float = 0.0) -> networkx.Graph:
    """Return nodes a, b, c, ... in a row with links of these bandwidths."""
    graph = networkx.Graph()
    for index, bandwidth in enumerate(bandwidths):
        graph.add_edge(chr(97 + index), chr(98 + index), bandwidth=bandwidth, latency_s=latency_s)
    return graph


def test_shares_of_the_textbook_example():
    # Bertsekas and Gallager: a long flow over two links, one short flow on each; capacities 1 and 2.
    first, second = ("a", "b"), ("b", "c")
    shares = max_min_shares([(first, second), (first,), (second,)], {first: 1.0, second: 2.0})
    assert shares == pytest.approx([0.5, 0.5, 1.5])


def test_a_flow_alone_has_the_bandwidth_of_its_narrowest_link():
    clock = Clock()
    fabric = Fabric(clock, line(10.0, 5.0, latency_s=0.5))
    ends = []
    fabric.transfer("a", "c", 20.0).callbacks.append(lambda _: ends.append(clock.now))
    clock.run()
    assert ends == pytest.approx([1.0 + 4.0])


def test_a_flow_that_ends_gives_its_share_to_the_others():
    clock = Clock()
    fabric = Fabric(clock, line(10.0))
    ends = {}
    fabric.transfer("a", "b", 10.0).callbacks.append(lambda _: ends.update(short=clock.now))
    fabric.transfer("a", "b", 30.0).callbacks.append(lambda _: ends.update(long=clock.now))
    clock.run()
    # Both at 5 until the short one is through at 2 s; then 20 bytes at 10.
    assert ends == pytest.approx({"short": 2.0, "long": 4.0})


def test_directions_do_not_disturb_each_other():
    clock = Clock()
    fabric = Fabric(clock, line(10.0))
    ends = []
    fabric.transfer("a", "b", 10.0).callbacks.append(lambda _: ends.append(clock.now))
    fabric.transfer("b", "a", 10.0).callbacks.append(lambda _: ends.append(clock.now))
    clock.run()
    assert ends == pytest.approx([1.0, 1.0])


def test_a_standing_member_leaves_less_for_flows():
    clock = Clock()
    fabric = Fabric(clock, line(10.0))
    fabric.stand([("a", "b")], 0.4)
    ends = []
    fabric.transfer("a", "b", 12.0).callbacks.append(lambda _: ends.append(clock.now))
    clock.run()
    assert ends == pytest.approx([2.0])


def test_bytes_are_conserved_whoever_comes_and_goes():
    clock = Clock()
    fabric = Fabric(clock, line(7.0, 3.0, 11.0))
    sizes = [5.0, 1.0, 9.0, 2.5]
    for delay, (source, target), size in zip((0.0, 0.3, 0.3, 1.1), ("ad", "bc", "ab", "cd"), sizes, strict=True):
        clock.alarm(delay, lambda _, s=source, t=target, b=size: fabric.transfer(s, t, b))
    clock.run()
    assert not fabric.flows
    assert fabric.busy_bytes["b", "c"] == pytest.approx(5.0 + 1.0)


def test_no_path_is_an_error_that_names_both_ends():
    graph = line(1.0)
    graph.add_node("z")
    with pytest.raises(InfeasibleError, match="no path from a to z"):
        Fabric(Clock(), graph).transfer("a", "z", 1.0)
