"""How a model lay on the devices of a measured row: tensor and pipeline parallelism, and copies side by side."""

import re
from dataclasses import dataclass
from functools import cache

from llmsim import catalog
from llmsim.accuracy.measured import Row
from llmsim.accuracy.mlperf import is_submission, many_experts
from llmsim.accuracy.numbers import Formats
from llmsim.hardware import Device
from llmsim.model.shape import ModelShape
from llmsim.model.weights import parameters

# A model whose split is not told takes the fewest devices, a power of two, on which its weights leave this much of the
# memory to the cache.
_ROOM = 0.30


@dataclass(frozen=True, slots=True)
class Layout:
    """A plan, how many copies of it ran, and on how many devices in all.

    ``data`` and ``expert`` are those of `llmsim.parallel.Plan`: ranks of attention over shared experts, and devices
    over which experts are dealt whole.
    """

    tensor: int
    pipeline: int
    replicas: int
    devices: int
    assumption: str = ""
    data: int = 1
    expert: int = 1


def layout_of(row: Row, model: ModelShape, device: Device, formats: Formats) -> Layout:
    """Return the layout that a row tells; else the one that its model needs."""
    pipeline = row.pipeline or 1
    if row.tensor is None:
        devices = _chips(row, device)
        if many_experts(model) and is_submission(row):
            # Published practice: attention in ranks, experts dealt whole over a node.
            node = min(devices, 8)
            said = f"the split is not stated: attention in {node} ranks, experts over as many devices"
            return Layout(1, 1, max(devices // node, 1), devices, said, node, node)
        tensor = _needed(model, device, formats, devices)
        replicas = max(devices // (tensor * pipeline), 1)
        said = f"the split is not stated: {replicas} copies of TP{tensor}, by the weights' share of the memory"
        return Layout(tensor, pipeline, replicas, devices, said)
    tensor = row.tensor
    devices = max(row.devices or tensor * pipeline, _expert_devices(row.notes))
    if _experts(model):
        return _mixture(row, tensor, pipeline, devices, _experts(model))
    return Layout(tensor, pipeline, max(devices // (tensor * pipeline), 1), devices)


def _mixture(row: Row, tensor: int, pipeline: int, devices: int, experts: int) -> Layout:
    """Return the layout of a mixture of experts: how often attention runs, and how the experts lie.

    Where notes say that attention ran in ranks (``attention DP + EP``) each device is one, whatever is called TP.
    """
    ranked = "attention DP" in row.notes and devices > pipeline
    if ranked:
        tensor = 1
    copies = max(devices // (tensor * pipeline), 1)
    told = re.search(r"attention_dp=(\d+)", row.notes)
    ranked = ranked or (told is not None and int(told[1]) > 1) or (row.experts or 1) > tensor
    if not ranked:
        return Layout(tensor, pipeline, copies, devices, expert=_dealt(row.experts or 1, tensor, experts))
    group = devices // pipeline
    dealt = row.experts or (group if "EP" in row.notes else 1)
    return Layout(tensor, pipeline, 1, devices, data=copies, expert=_dealt(dealt, tensor * copies, experts))


def _dealt(wanted: int, group: int, experts: int) -> int:
    """Return the largest number of devices, at most ``wanted``, over which a group can deal its experts."""
    return max(size for size in range(1, min(wanted, group, experts) + 1) if group % size == 0)


def _chips(row: Row, device: Device) -> int:
    """Return the devices of a row, of which a chip with several cores is one."""
    devices = row.devices or 1
    if device.kind == "tpu" and "counts cores" in row.notes.lower():
        return max(devices // device.multiprocessors, 1)
    return devices


def _expert_devices(notes: str) -> int:
    """Return over how many devices notes say that experts are spread (``moe_tp=2, moe_ep=4``), at least one."""
    told = re.search(r"moe_tp=(\d+), moe_ep=(\d+)", notes)
    return int(told[1]) * int(told[2]) if told else 1


def _experts(model: ModelShape) -> int:
    return max((layer.feed_forward.experts for layer in model.layers if layer.feed_forward is not None), default=0)


def _needed(model: ModelShape, device: Device, formats: Formats, devices: int) -> int:
    node = min(devices, 8)
    if many_experts(model):
        return node
    size = _parameters(model) * formats.bytes_per_weight
    tensor = 1
    while tensor < node and size > tensor * device.memory_bytes * (1 - _ROOM):
        tensor *= 2
    return tensor


@cache
def _parameters(model: ModelShape) -> float:
    return float(parameters(model))


def parts_of_batch(batch: int, length: int, pipeline: int, most_tokens: int) -> int:
    """Return into how many equal parts a pipeline cuts ``batch`` texts of ``length``, of ``most_tokens`` each at most.

    As many parts as stages where that divides, then half of each as long as it is too long and even
    (FasterTransformer 5, ``getLocalBatchSize``; from memory).  1 without a pipeline, or without a limit.
    """
    if pipeline == 1 or not most_tokens or not batch:
        return 1
    local = batch // pipeline if batch % pipeline == 0 else batch
    while local * length > most_tokens and local % 2 == 0:
        local //= 2
    return batch // local


def slice_of(device: Device, devices: int) -> str:
    """Return the node of the catalogue that is a whole slice of so many devices (``tpu-v4-64``); empty when none is.

    The links of a TPU go on from host to host, so a slice is one node.
    """
    name = f"{device.name}-{devices}"
    return name if device.kind == "tpu" and name in catalog.names("hardware/nodes") else ""
