"""Devices come alive: a group that moves in lockstep is one SimPy resource, leased by the engine that owns it."""

from __future__ import annotations

from collections.abc import Callable

import simpy

from llmsim.machine.clock import Clock
from llmsim.machine.fabric import Fabric, LinkName


class DeviceGroup:
    """The devices of one pipeline stage of one replica.

    Args:
        clock: the simulated clock.
        fabric: the links between the devices, and to their hosts.
        devices: their names in the cluster's graph.
    """

    def __init__(self, clock: Clock, fabric: Fabric, devices: tuple[str, ...]) -> None:
        self.clock = clock
        self.devices = devices
        self._fabric = fabric
        self._resource = simpy.Resource(clock, capacity=1)
        self._lease: simpy.Event | None = None
        self.leased_s: float | None = None

    def lease(self) -> simpy.Event:
        """Ask for the group for good; the event triggers when it is free."""
        self._lease = self._resource.request()
        assert self._lease.callbacks is not None
        self._lease.callbacks.append(self._begin)
        return self._lease

    def _begin(self, _: simpy.Event) -> None:
        self.leased_s = self.clock.now

    def load(self, bytes_each: float) -> list[simpy.Event]:
        """Copy ``bytes_each`` from its host's memory to each device, all at once over the links they share."""
        return [self._fabric.transfer(f"{device.split('.')[0]}.cpu", device, bytes_each) for device in self.devices]

    def links(self) -> list[LinkName]:
        """Return the links over which the group talks: a ring through its devices, in both directions."""
        if len(self.devices) == 1:
            return []
        ring = zip(self.devices, (*self.devices[1:], self.devices[0]), strict=True)
        found = dict.fromkeys(link for source, target in ring for link in self._fabric.path(source, target))
        return [*found, *((target, source) for source, target in found if (target, source) not in found)]


def when_all(events: list[simpy.Event], then: Callable[[], None]) -> None:
    """Call ``then`` once all ``events`` have happened."""
    left = len(events)

    def count(_: simpy.Event) -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    if not events:
        then()
    for event in events:
        if event.callbacks is None:
            count(event)
        else:
            event.callbacks.append(count)
