"""The network of a cluster: flows over links that share bandwidth max-min fairly.

A flow takes the fastest path (edge attribute ``weight``, else the fewest hops).  Every link divides its
bandwidth so that no flow can get more without a flow that has less or as much getting less: max-min
fairness, by progressive filling (Bertsekas and Gallager, Data Networks, section 6.5.2).  When a flow starts
or ends, the shares of the others change, and so do their ends.

A group of devices that talks over a link in every step is a standing member of it: it takes a fixed
part of the link, its duty cycle, and the flows share what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import simpy

from llmsim.errors import InfeasibleError
from llmsim.machine.clock import Alarm, Clock

if TYPE_CHECKING:
    import networkx

LinkName = tuple[str, str]

LEAST_FOR_FLOWS = 0.05


class Flow:
    """Bytes on their way over some links."""

    __slots__ = ("done", "left_bytes", "links", "rate", "started")

    def __init__(self, links: tuple[LinkName, ...], size_bytes: float, done: simpy.Event) -> None:
        self.links = links
        self.left_bytes = size_bytes
        self.rate = 0.0
        self.started = False
        self.done = done


class Fabric:
    """All links of a cluster and the flows on them.

    Args:
        clock: the simulated clock.
        graph: the cluster; edges carry ``bandwidth`` (bytes a second, each direction) and ``latency_s``.
    """

    def __init__(self, clock: Clock, graph: networkx.Graph) -> None:
        self.clock = clock
        self.graph = graph
        self.flows: list[Flow] = []
        self.busy_bytes: dict[LinkName, float] = {}
        self._standing: dict[LinkName, float] = {}
        self._listeners: list[Callable[[], None]] = []
        self._paths: dict[tuple[str, str], tuple[LinkName, ...]] = {}
        self._updated_s = clock.now
        self._alarm: Alarm | None = None

    # ------------------------------------------------------------------ what others call

    def transfer(self, source: str, target: str, size_bytes: float) -> simpy.Event:
        """Send ``size_bytes`` from node ``source`` to node ``target``; the event triggers when they are there.

        Raises:
            InfeasibleError: no path leads from one to the other.
        """
        links = self.path(source, target)
        flow = Flow(links, float(size_bytes), self.clock.event())
        latency = sum(self.graph.edges[link]["latency_s"] for link in links)
        self.clock.alarm(self.clock.now + latency, lambda _: self._start(flow))
        return flow.done

    def path(self, source: str, target: str) -> tuple[LinkName, ...]:
        """Return the directed links of the shortest path between two nodes."""
        key = (source, target)
        if key not in self._paths:
            import networkx

            try:
                nodes = networkx.shortest_path(self.graph, source, target, weight="weight")
            except (networkx.NetworkXNoPath, networkx.NodeNotFound):
                raise InfeasibleError(f"network: no path from {source} to {target}") from None
            self._paths[key] = tuple(pairwise(nodes))
        return self._paths[key]

    def stand(self, links: Iterable[LinkName], part: float) -> None:
        """Give a group the ``part`` (0 to 1) of each link for good: its duty cycle, fixed when it is placed.

        However many groups stand on a link, flows keep `LEAST_FOR_FLOWS` of it, so that none waits for ever.
        """
        for link in links:
            self._standing[link] = min(1.0 - LEAST_FOR_FLOWS, self._standing.get(link, 0.0) + part)
        self._share()

    def listen(self, call: Callable[[], None]) -> None:
        """Call ``call`` whenever a flow has started or ended."""
        self._listeners.append(call)

    def part_left(self, link: LinkName) -> float:
        """Return the part (0 to 1) of a link that a group standing on it has now, beside the flows.

        What the flows leave, or an equal share with them, whichever is more.
        """
        rates = [flow.rate for flow in self.flows if link in flow.links]
        left = 1.0 - sum(rates) / self.graph.edges[link]["bandwidth"]
        return float(max(left, 1.0 / (1 + len(rates))))

    # ------------------------------------------------------------------ flows start and end

    def _start(self, flow: Flow) -> None:
        self._progress()
        if flow.left_bytes <= 0 or not flow.links:
            flow.done.succeed()
            return
        self.flows.append(flow)
        self._share()

    def _progress(self) -> None:
        """Move all flows on to the present."""
        elapsed = self.clock.now - self._updated_s
        self._updated_s = self.clock.now
        for flow in self.flows:
            moved = min(flow.left_bytes, flow.rate * elapsed)
            flow.left_bytes -= moved
            for link in flow.links:
                self.busy_bytes[link] = self.busy_bytes.get(link, 0.0) + moved

    def _share(self) -> None:
        """Give every flow its share anew, and wake up when the first one ends."""
        capacity = {
            link: self.graph.edges[link]["bandwidth"] * (1.0 - self._standing.get(link, 0.0))
            for flow in self.flows
            for link in flow.links
        }
        shares = max_min_shares([flow.links for flow in self.flows], capacity)
        for flow, rate in zip(self.flows, shares, strict=True):
            flow.rate = rate
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        ends = [flow.left_bytes / flow.rate for flow in self.flows if flow.rate > 0]
        if ends:
            self._alarm = self.clock.alarm(self.clock.now + min(ends), lambda _: self._finish())
        for call in self._listeners:
            call()

    def _finish(self) -> None:
        """End the flows that have arrived: those with less left than a rounding error."""
        self._alarm = None
        self._progress()
        ended = [flow for flow in self.flows if flow.left_bytes <= flow.rate * 1e-9]
        self.flows = [flow for flow in self.flows if flow.left_bytes > flow.rate * 1e-9]
        for flow in ended:
            flow.done.succeed()
        self._share()


def max_min_shares(paths: list[tuple[LinkName, ...]], capacity: Mapping[LinkName, float]) -> list[float]:
    """Return the max-min fair rate of each path, in the unit of ``capacity``.

    Progressive filling: the link with the least capacity for each of its unfrozen flows freezes them at
    that rate; the rest goes on with what is left.
    """
    left = dict(capacity)
    rates = [0.0] * len(paths)
    open_paths = dict.fromkeys(range(len(paths)))
    while open_paths:
        users: dict[LinkName, int] = {}
        for index in open_paths:
            for link in paths[index]:
                users[link] = users.get(link, 0) + 1
        tightest = min(users, key=lambda link: left[link] / users[link])
        rate = max(0.0, left[tightest] / users[tightest])
        for index in [index for index in open_paths if tightest in paths[index]]:
            del open_paths[index]
            rates[index] = rate
            for link in paths[index]:
                left[link] -= rate
    return rates
