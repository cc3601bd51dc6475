"""From the ``cluster:`` section to nodes and devices of the catalogue."""

from dataclasses import replace

from llmsim import units
from llmsim.errors import CatalogError
from llmsim.hardware import (
    Cluster,
    Device,
    Link,
    Node,
    cluster_of,
    load_cluster,
    load_device,
    load_node,
    with_devices,
)
from llmsim.schema.findings import Findings
from llmsim.schema.sections import ClusterSection, DevicesSection, LinkSection


def machine(section: ClusterSection, findings: Findings, *, tensor: int, groups: int) -> Cluster | None:
    """Return the cluster that ``section`` describes, or None after noting in ``findings`` what is wrong with it.

    Args:
        section: the scenario's ``cluster:``.
        findings: takes what is wrong.
        tensor: devices that work as one group.
        groups: how many groups there are: replicas x stages.  Together they say how many devices are needed,
            when the section names a device but not how many.
    """
    if section.name is not None:
        return findings.attempt(("cluster", "name"), load_cluster, section.name)
    if section.gpu is not None:
        return findings.attempt(("cluster", "gpu"), _of_devices, section.gpu, section.num_gpus, tensor, groups)
    if section.gpus is not None:
        node = findings.attempt(("cluster", "gpus"), _inline, section.gpus)
    else:
        kind = section.nodes.type if section.nodes is not None else None
        node = findings.attempt(("cluster", "nodes", "type"), load_node, kind or "")
    if node is None:
        return None
    for index, link in enumerate(section.links or ()):
        node = findings.attempt(("cluster", "links", index), _with_link, node, link) or node
    return cluster_of(node, section.nodes.count if section.nodes is not None else 1)


def _of_devices(name: str, devices: int | None, tensor: int, groups: int) -> Cluster:
    """Return usual nodes of a device: as many as ``devices`` fill, or as the groups need when each keeps to a node."""
    node = _usual_node(load_device(name))
    if devices is not None:
        sizes = [node.devices] * (devices // node.devices) + [devices % node.devices] * (devices % node.devices > 0)
    elif tensor > node.devices:
        sizes = [node.devices] * -(-tensor * groups // node.devices)
    else:
        together = node.devices // tensor
        sizes = [tensor * together] * (groups // together) + [tensor * (groups % together)] * (groups % together > 0)
    nodes = tuple(node if size == node.devices else with_devices(node, size) for size in sizes)
    count = sum(sizes)
    return Cluster(f"{count}x-{node.device.name}", f"{count} x {node.device.title}", nodes, node.sources)


def _inline(section: DevicesSection) -> Node:
    device = load_device(section.type)
    if section.memory is not None:
        device = replace(device, memory_bytes=units.parse(section.memory, "bytes"))
    usual = _usual_node(device)
    # A server of one's own may hold more devices than the usual one; a torus keeps its grid only at its own size.
    topology = usual.device_topology
    if section.count != usual.devices and topology == "torus":
        topology = "ring"
    shape = usual.device_shape if section.count == usual.devices else ()
    return replace(usual, devices=section.count, device_topology=topology, device_shape=shape)


def _usual_node(device: Device) -> Node:
    """Return the node in which the device usually comes, with this very device in it."""
    if device.node is None:
        raise CatalogError(f"device {device.name}: names no usual node\nhint: give cluster.nodes by type")
    return replace(load_node(device.node), device=device)


def _with_link(node: Node, link: LinkSection) -> Node:
    old = {"devices": node.device_link, "host": node.host_link, "network": node.network_link}[link.between]
    new = Link(
        kind=link.kind or old.kind,
        bandwidth=old.bandwidth if link.bandwidth is None else units.parse(link.bandwidth, "bytes/s"),
        latency_s=old.latency_s if link.latency is None else units.parse(link.latency, "s"),
    )
    if link.count is not None and link.between != "network":
        raise CatalogError("count: only links into the network are counted")
    if link.between == "devices":
        return replace(node, device_link=new)
    if link.between == "host":
        return replace(node, host_link=new)
    return replace(node, network_link=new, network_links=link.count or node.network_links)
