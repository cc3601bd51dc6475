"""How a model lay on the devices of a measured row: tensor and pipeline parallelism, and copies side by side."""

import re
from dataclasses import dataclass
from functools import cache

from llmsim.accuracy.measured import Row
from llmsim.accuracy.numbers import Formats
from llmsim.hardware import Device
from llmsim.model.shape import ModelShape
from llmsim.model.weights import parameters

# A model whose split is not told takes the fewest devices, a power of two, on which its weights leave this much of the
# memory to the cache.
_ROOM = 0.30
# Mixtures with at least this many experts are spread over all devices of a node.
_MANY_EXPERTS = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """A plan, how many copies of it ran, and on how many devices in all."""

    tensor: int
    pipeline: int
    replicas: int
    devices: int
    assumption: str = ""


def layout_of(row: Row, model: ModelShape, device: Device, formats: Formats) -> Layout:
    """Return the layout that a row tells; else the one that its model needs."""
    pipeline = row.pipeline or 1
    if row.tensor is None:
        devices = row.devices or 1
        tensor = _needed(model, device, formats, devices)
        replicas = max(devices // (tensor * pipeline), 1)
        said = f"the split is not stated: {replicas} copies of TP{tensor}, by the weights' share of the memory"
        return Layout(tensor, pipeline, replicas, devices, said)
    tensor = row.tensor
    devices = max(row.devices or tensor * pipeline, _expert_devices(row.notes))
    copies = devices // (tensor * pipeline)
    if copies <= 1:
        said = "experts are split by tensor parallelism" if (row.experts or 1) > 1 else ""
        return Layout(tensor, pipeline, 1, devices, said)
    if _experts(model):
        # Attention runs in copies, experts are shared by all: one engine.
        said = f"attention in {copies} copies over shared experts is priced as tensor parallelism over {devices}"
        return Layout(tensor * copies, pipeline, 1, devices, said)
    return Layout(tensor, pipeline, copies, devices)


def _expert_devices(notes: str) -> int:
    """Return over how many devices notes say that experts are spread (``moe_tp=2, moe_ep=4``), at least one."""
    told = re.search(r"moe_tp=(\d+), moe_ep=(\d+)", notes)
    return int(told[1]) * int(told[2]) if told else 1


def _experts(model: ModelShape) -> int:
    return max((layer.feed_forward.experts for layer in model.layers if layer.feed_forward is not None), default=0)


def _needed(model: ModelShape, device: Device, formats: Formats, devices: int) -> int:
    node = min(devices, 8)
    if _experts(model) >= _MANY_EXPERTS:
        return node
    size = _parameters(model) * formats.bytes_per_weight
    tensor = 1
    while tensor < node and size > tensor * device.memory_bytes * (1 - _ROOM):
        tensor *= 2
    return tensor


@cache
def _parameters(model: ModelShape) -> float:
    return float(parameters(model))
