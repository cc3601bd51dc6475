"""Devices, hosts, links, nodes and clusters: frozen data read from ``hardware/*.yaml``, and the graph they form.

Inside, everything is bytes, bytes/s, flop/s, seconds and watts; the files carry units and sources.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsim.datafile import File, load
from llmsim.errors import CatalogError

if TYPE_CHECKING:
    import networkx

KINDS = ("gpu", "tpu", "npu", "cpu")
SPARSITIES = ("2:4",)
# A way is chosen for messages of this size: small enough for latency to count, large enough for bandwidth.
_ROUTED_BYTES = 1e6
TOPOLOGIES = ("nvswitch", "mesh", "ring", "pcie", "torus")


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator, or one CPU socket that runs a model.

    ``peak_flops`` are dense figures in flop/s by number format; bandwidths are bytes/s, those between
    devices per direction.  ``performance`` names the fitted coefficients that belong to the device;
    ``sustained_clock_hz`` is what the power limit leaves of the clock of those peaks under matrix products, where less;
    ``sparsity`` is "2:4" where the data sheet has matrix units that skip two zeros of each four, at twice the peak.
    """

    name: str
    title: str
    maker: str
    kind: str
    memory_bytes: float
    memory_bandwidth: float
    peak_flops: Mapping[str, float]
    clock_hz: float
    multiprocessors: int
    scale_up_bandwidth: float
    scale_out_bandwidth: float
    power_w: float
    performance: str | None = None
    node: str | None = None
    aliases: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    sparsity: str | None = None
    sustained_clock_hz: float | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """The CPUs of a node: cores, clock in Hz, memory in bytes, memory bandwidth in bytes/s, all sockets together."""

    name: str
    cores: int
    clock_hz: float
    memory_bytes: float
    memory_bandwidth: float
    numa_domains: int
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """One hop: bytes/s per direction, and the seconds before the first byte arrives, software included."""

    kind: str
    bandwidth: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Node:
    """One server: devices of one kind, how they are joined, the host, and the way out.

    ``device_shape`` is the grid of a torus, for example (2, 4); empty for other topologies.
    """

    name: str
    title: str
    device: Device
    devices: int
    host: Host
    device_link: Link
    device_topology: str
    host_link: Link
    network_link: Link
    network_links: int
    device_shape: tuple[int, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes whose network cards all meet in one non-blocking switch."""

    name: str
    title: str
    nodes: tuple[Node, ...]
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def devices(self) -> int:
        """Number of devices in all nodes."""
        return sum(node.devices for node in self.nodes)

    def graph(self) -> "networkx.Graph[str]":
        """Return the topology as a networkx graph.

        Nodes: ``n0.cpu``, ``n0.d3``, ``n0.switch``, ``n0.nic0`` and ``switch``, with attribute ``kind``
        ("cpu", "device", "switch", "nic").  Edges: ``bandwidth`` in bytes/s per direction,
        ``latency_s``, ``kind``, and ``weight``, the seconds of 1 MB over this hop, for shortest ways.
        """
        import networkx

        graph: networkx.Graph[str] = networkx.Graph(name=self.name)
        if len(self.nodes) > 1:
            graph.add_node("switch", kind="switch")
        for index, node in enumerate(self.nodes):
            _add_node(graph, f"n{index}", node, wired=len(self.nodes) > 1)
        return graph

    def device_names(self) -> list[tuple[str, ...]]:
        """Return the graph's device names, one tuple a node, in order."""
        return [tuple(f"n{i}.d{j}" for j in range(node.devices)) for i, node in enumerate(self.nodes)]

    def device_of(self, name: str) -> Device:
        """Return the device behind a name such as ``"n0.d3"``."""
        return self.nodes[int(name.split(".")[0].removeprefix("n"))].device


def cluster_of(node: Node, count: int) -> Cluster:
    """Return a cluster of ``count`` equal nodes."""
    return Cluster(f"{count}x-{node.name}", f"{count} x {node.title}", (node,) * count, node.sources)


def with_devices(node: Node, devices: int) -> Node:
    """Return ``node`` with another number of devices, as when only some of a server are booked.

    Raises:
        CatalogError: the node holds fewer devices.
    """
    if not 1 <= devices <= node.devices:
        raise CatalogError(f"node {node.name}: holds 1 to {node.devices} devices (got {devices})")
    shape = node.device_shape if devices == node.devices else ()
    topology = "ring" if node.device_topology == "torus" and not shape else node.device_topology
    return replace(node, devices=devices, device_shape=shape, device_topology=topology)


def default_node(device_name: str) -> Node:
    """Return the node in which the device usually comes.

    Raises:
        CatalogError: the device is unknown, or its file names no node.
    """
    device = load_device(device_name)
    if device.node is None:
        raise CatalogError(f"device {device.name}: names no usual node\nhint: give the cluster's nodes by type")
    return load_node(device.node)


# -- the graph -----------------------------------------------------------------------------------------


def _add_node(graph: "networkx.Graph[str]", name: str, node: Node, *, wired: bool) -> None:
    """Add one node to ``graph``, and its cards' links to the cluster's switch when it is ``wired``.

    A network card hangs on its own device when there are at least as many cards as devices (rail-wise
    wiring with direct access), and on the host otherwise.
    """
    graph.add_node(f"{name}.cpu", kind="cpu")
    for device in range(node.devices):
        graph.add_node(f"{name}.d{device}", kind="device")
        _join(graph, f"{name}.d{device}", f"{name}.cpu", node.host_link)
    if node.device_topology == "nvswitch" and node.devices > 1:
        graph.add_node(f"{name}.switch", kind="switch")
    for one, other in device_edges(node, name):
        _join(graph, one, other, node.device_link)
    for card in range(node.network_links):
        nic = f"{name}.nic{card}"
        graph.add_node(nic, kind="nic")
        _join(graph, nic, f"{name}.cpu", node.host_link)
        if node.network_links >= node.devices:
            _join(graph, nic, f"{name}.d{card * node.devices // node.network_links}", node.host_link)
        if wired:
            _join(graph, nic, "switch", node.network_link)


def _join(graph: "networkx.Graph[str]", one: str, other: str, link: Link) -> None:
    weight = link.latency_s + _ROUTED_BYTES / link.bandwidth
    graph.add_edge(one, other, bandwidth=link.bandwidth, latency_s=link.latency_s, kind=link.kind, weight=weight)


def device_edges(node: Node, name: str) -> Iterator[tuple[str, str]]:
    """Yield the edges between the devices of ``node`` that its own topology adds to the way over the host."""
    names = [f"{name}.d{i}" for i in range(node.devices)]
    if node.device_topology == "nvswitch" and node.devices > 1:
        yield from ((device, f"{name}.switch") for device in names)
    elif node.device_topology == "mesh":
        yield from combinations(names, 2)
    elif node.device_topology == "ring":
        yield from pairwise(names)
        if node.devices > 2:
            yield names[-1], names[0]
    elif node.device_topology == "torus":
        yield from _torus(names, node.device_shape)


def _torus(names: list[str], shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Yield the edges of a grid that wraps around in every direction longer than two."""
    places = list(product(*(range(extent) for extent in shape)))
    at = dict(zip(places, names, strict=True))
    for place in places:
        for axis, extent in enumerate(shape):
            last = place[axis] == extent - 1
            if extent > 1 and not (last and extent == 2):
                step = (*place[:axis], 0 if last else place[axis] + 1, *place[axis + 1 :])
                yield at[place], at[step]


# -- reading ------------------------------------------------------------------------------------------


def load_device(source: str | Path | Mapping[str, Any]) -> Device:
    """Return a device: by catalogue name or alias, from a path ending in ``.yaml``, or from a mapping.

    Raises:
        CatalogError: the name is unknown (with the three closest), or the file is wrong (with file and key).
    """
    return load("devices", source, _device)


def load_node(source: str | Path | Mapping[str, Any]) -> Node:
    """Return a node: by catalogue name or alias, from a path ending in ``.yaml``, or from a mapping.

    Raises:
        CatalogError: the name is unknown (with the three closest), or the file is wrong (with file and key).
    """
    return load("nodes", source, _node)


def load_cluster(source: str | Path | Mapping[str, Any]) -> Cluster:
    """Return a cluster: by catalogue name or alias, from a path ending in ``.yaml``, or from a mapping.

    Raises:
        CatalogError: the name is unknown (with the three closest), or the file is wrong (with file and key).
    """
    return load("clusters", source, _cluster)


_DEVICE_NUMBERS = (
    "memory", "memory_bandwidth", "peak_flops", "clock", "multiprocessors",
    "scale_up_bandwidth", "scale_out_bandwidth", "power",
)  # fmt: skip


def _device(name: str, file: File) -> Device:
    file.only("title", "maker", "kind", "performance", "node", "aliases", "sources", "sparsity", "sustained_clock",
              *_DEVICE_NUMBERS)  # fmt: skip
    peaks = file.inner("peak_flops")
    return Device(
        name=name,
        title=file.text("title"),
        maker=file.text("maker"),
        kind=file.choice("kind", KINDS),
        memory_bytes=file.quantity("memory", "bytes"),
        memory_bandwidth=file.quantity("memory_bandwidth", "bytes/s"),
        peak_flops={key: peaks.quantity(key, "flop/s") for key in peaks.content},
        clock_hz=file.quantity("clock", "Hz"),
        multiprocessors=file.count("multiprocessors"),
        scale_up_bandwidth=file.quantity("scale_up_bandwidth", "bytes/s"),
        scale_out_bandwidth=file.quantity("scale_out_bandwidth", "bytes/s"),
        power_w=file.quantity("power", "W"),
        performance=file.text("performance") if file.content.get("performance") else None,
        node=file.text("node") if file.content.get("node") else None,
        aliases=file.texts("aliases"),
        sources=file.sources(*_DEVICE_NUMBERS, "sustained_clock"),
        sustained_clock_hz=file.quantity("sustained_clock", "Hz") if "sustained_clock" in file.content else None,
        sparsity=file.choice("sparsity", SPARSITIES) if "sparsity" in file.content else None,
    )


_NODE_NUMBERS = ("devices", "device_link", "host", "host_link", "network_link", "network_links", "device_shape")


def _node(name: str, file: File) -> Node:
    file.only("title", "device", "device_topology", "aliases", "sources", *_NODE_NUMBERS)
    devices = file.count("devices")
    topology = file.choice("device_topology", TOPOLOGIES)
    shape = tuple(file.value("device_shape")) if topology == "torus" else ()
    if shape and math.prod(shape) != devices:
        raise CatalogError(f"{file.where}: device_shape: does not hold {devices} devices (got {list(shape)})")
    sources = file.sources(*_NODE_NUMBERS)
    device = file.value("device")
    return Node(
        name=name,
        title=file.text("title"),
        device=load_device(device),
        devices=devices,
        host=_host(file.inner("host"), sources.get("host", sources.get("default", ""))),
        device_link=_link(file.inner("device_link")),
        device_topology=topology,
        host_link=_link(file.inner("host_link")),
        network_link=_link(file.inner("network_link")),
        network_links=file.count("network_links"),
        device_shape=shape,
        sources=sources,
    )


def _host(file: File, source: str) -> Host:
    file.only("name", "cores", "clock", "memory", "memory_bandwidth", "numa_domains")
    return Host(
        name=file.text("name"),
        cores=file.count("cores"),
        clock_hz=file.quantity("clock", "Hz"),
        memory_bytes=file.quantity("memory", "bytes"),
        memory_bandwidth=file.quantity("memory_bandwidth", "bytes/s"),
        numa_domains=file.count("numa_domains"),
        sources={"default": source},
    )


def _link(file: File) -> Link:
    file.only("kind", "bandwidth", "latency")
    return Link(file.text("kind"), file.quantity("bandwidth", "bytes/s"), file.quantity("latency", "s"))


def _cluster(name: str, file: File) -> Cluster:
    file.only("title", "nodes", "aliases", "sources")
    entries = file.value("nodes")
    if isinstance(entries, Mapping):
        entries = [entries]
    if not isinstance(entries, list) or not entries:
        raise CatalogError(f"{file.where}: nodes: not a list of {{type, count}} (got {entries!r})")
    nodes: list[Node] = []
    for index, entry in enumerate(entries):
        part = File(f"{file.where}: nodes[{index}]", entry)
        part.only("type", "count")
        nodes.extend([load_node(part.value("type"))] * (part.count("count") if "count" in part.content else 1))
    return Cluster(name, file.text("title"), tuple(nodes), file.sources("nodes"))
