"""A CPU host's cores are shared: work queues for them, and engines that want too many are slowed down."""

import pytest

from llmsim.machine.clock import Clock
from llmsim.machine.host import CpuHost


def test_work_queues_for_a_core_in_order():
    clock = Clock()
    host = CpuHost(clock, "n0.cpu", cores=2)
    ends = []
    for name, seconds in (("a", 2.0), ("b", 1.0), ("c", 1.0), ("d", 1.0)):
        host.work(seconds, lambda name=name: ends.append((name, clock.now)))
    clock.run()
    assert ends == [("b", 1.0), ("a", 2.0), ("c", 2.0), ("d", 3.0)]
    assert host.busy_s == pytest.approx(5.0)


def test_engines_that_want_more_cores_than_there_are_stretch():
    host = CpuHost(Clock(), "n0.cpu", cores=4)
    told: dict[int, float] = {}
    for engine in range(3):
        host.register(engine, 2.0, lambda stretch, engine=engine: told.update({engine: stretch}))
    assert told == {0: 1.5, 1: 1.5, 2: 1.5}
    host.release(0)
    assert told[1] == told[2] == 1.0
