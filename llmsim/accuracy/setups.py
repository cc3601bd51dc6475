"""From a measured row to what has to be simulated: by its class, its engine, and the words in its free-text fields."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmsim.accuracy.layouts import Layout, layout_of, parts_of_batch, slice_of
from llmsim.accuracy.lengths import NotRunError
from llmsim.accuracy.loads import load_of
from llmsim.accuracy.measured import METRICS, Row
from llmsim.accuracy.names import device_named, model_like, model_named
from llmsim.accuracy.numbers import Formats, formats_of
from llmsim.accuracy.ranks import flags_of
from llmsim.accuracy.score import BORROWED
from llmsim.accuracy.software import Software, of_engine, on_platform, software_of
from llmsim.accuracy.trtllm_bench import engine_limits
from llmsim.errors import CatalogError, ModelError
from llmsim.hardware import Device
from llmsim.model.padding import heads_needed
from llmsim.model.shape import ModelShape

Kind = Literal["forward", "batch", "closed", "queue", "open", "offline", "limit"]
# Kinds that simulate one copy, which stands for all.
ONE_COPY = ("offline", "limit")


@dataclass(frozen=True, slots=True)
class Setup:
    """One thing to simulate; rows that ask for the same one share the simulation.

    ``kind``: one forward pass, a batch in lockstep, a closed loop, a queue that is full from the start, arrivals at a
    rate, a benchmark's offline run, or the largest rate that meets ``limits`` (ms at the 99th percentile, as JSON).
    ``workload`` is the section of a scenario as JSON; ``prompt`` and ``output`` are tokens of a lockstep batch.
    Of a request's ``beams`` each is a sequence of the workload.  ``before`` are tokens that a segment remembers,
    ``parts`` the smaller batches into which the stages of a pipeline cut one forward pass; ``node`` is empty for the
    device's usual one.
    """

    kind: Kind
    family: str
    stack: str
    preset: str
    scheduler: str | None
    model: str
    device: str
    tensor: int
    pipeline: int
    replicas: int
    engine: str
    workload: str = "{}"
    batch: int = 0
    prompt: int = 0
    output: int = 0
    limits: str = "{}"
    served: bool = True
    beams: int = 1
    before: int = 0
    parts: int = 1
    node: str = ""

    @property
    def key(self) -> str:
        """A text that is the same for equal set-ups, in any process."""
        return json.dumps([getattr(self, name) for name in self.__slots__])

    @property
    def machine(self) -> tuple[object, ...]:
        """What set-ups share that differ in their workload alone."""
        context = self.prompt + self.output if self.kind == "batch" else 0
        return (self.stack, self.preset, self.scheduler, self.model, self.device, self.tensor, self.pipeline,
                self.replicas, self.engine, self.served, context)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A row with its set-up, or with the reason why it has none.

    ``quantity`` names the number of the outcome that the row measures; ``share`` is what it is multiplied by.
    """

    row: Row
    setup: Setup | None
    reason: str = ""
    quantity: str = ""
    share: float = 1.0
    assumptions: tuple[str, ...] = ()
    family: str = ""


def case_of(row: Row) -> Case:
    """Return the case of a row; nothing is simulated."""
    software = software_of(row.engine, row.notes, row.source)
    family = software.family if software else row.engine
    try:
        if software is None:
            raise NotRunError(f"unknown engine (got {row.engine!r})")
        return _case(row, software)
    except NotRunError as error:
        return Case(row, None, str(error), family=family)
    except (CatalogError, ModelError) as error:
        return Case(row, None, str(error).splitlines()[0], family=family)


def _case(row: Row, software: Software) -> Case:
    if row.metric not in METRICS:
        raise NotRunError(f"unknown metric (got {row.metric!r})")
    device = device_named(*filter(None, (row.device, row.device_norm)))
    software = on_platform(software, device.maker if device.kind == "gpu" else "")
    model, borrowed = _model(*filter(None, (row.model, row.model_norm)))
    software = of_engine(software, answers=not (model.encoder_only or model.encoder))
    formats = formats_of(row.precision, model, device, software)
    layout = layout_of(row, model, device, formats)
    said = [text for text in (borrowed, software.assumption, formats.assumption, layout.assumption) if text]
    if "power" in row.device.lower() and "cap" in row.device.lower():
        said.append("the power cap is not modelled")
    load = load_of(row, software, model)
    if software.sized and load["kind"] == "queue" and row.prompt and row.output:
        devices, whole = layout.tensor * layout.pipeline, software.sized == "all"
        limits = engine_limits(model, device, formats, devices, row.prompt, row.output, whole=whole)
        load["engine"] |= {"max_num_seqs": limits.batch, "max_num_batched_tokens": limits.tokens}
    setup = _setup(software, model, device, formats, layout, load)
    quantity, share = _quantity(row, setup, layout)
    return Case(row, setup, "", quantity, share, (*said, *load.get("assumptions", ())), software.family)


def _model(*texts: str) -> tuple[ModelShape, str]:
    """Return the model that is named, or one of its family and about its size, and then what that assumes."""
    try:
        return model_named(*texts), ""
    except ModelError:
        model = model_like(*texts)
        if model is None:
            raise
    return model, f"{BORROWED}: {texts[0]} is not in the catalogue; priced as {model.name}"


def _setup(
    software: Software, model: ModelShape, device: Device, formats: Formats, layout: Layout, load: Mapping[str, Any]
) -> Setup:
    tensor, ranks = flags_of(layout, software.preset)
    engine = {**software.flags, **formats.flags, **ranks, **load.get("engine", {})}
    if software.eager:
        engine["enforce_eager"] = True
    lockstep = load["kind"] == "batch" and software.batches is not None
    heads = heads_needed(model, layout.tensor) if software.pads_heads else None
    return Setup(
        kind=load["kind"],
        family=software.family,
        stack=software.stack,
        preset=software.preset,
        scheduler=software.batches if lockstep else software.scheduler,
        model=f"{formats.model}-heads{heads}" if heads else formats.model,
        device=device.name,
        tensor=tensor,
        pipeline=layout.pipeline,
        replicas=1 if load["kind"] in ONE_COPY else layout.replicas,
        engine=json.dumps(engine, sort_keys=True),
        workload=json.dumps(load.get("workload", {}), sort_keys=True),
        batch=load.get("batch", 0),
        prompt=load.get("prompt", 0),
        output=load.get("output", 0),
        limits=json.dumps(load.get("limits", {}), sort_keys=True),
        served=load.get("served", True),
        beams=load.get("beams", 1),
        before=load.get("before", 0),
        node=slice_of(device, layout.tensor * layout.pipeline),
        parts=parts_of_batch(load.get("batch", 0), load.get("padded", 0), layout.pipeline, software.micro_tokens),
    )


# ---------------------------------------------------------------------- what the number means


_LATENCIES = {"e2e_ms": "e2e", "ttft_ms": "ttft", "tpot_ms": "tpot", "itl_ms": "itl"}


def _quantity(row: Row, setup: Setup, layout: Layout) -> tuple[str, float]:
    """Return the name of the number in the outcome, and the factor on it."""
    if row.metric in _LATENCIES:
        if setup.kind == "batch" and not setup.prompt:
            return f"batch_ms:{_statistic(row.statistic)}", 1.0
        if setup.kind in ("forward", "batch"):
            # One batch in lockstep has one time; repeats, not requests, are averaged.
            return f"{_LATENCIES[row.metric]}_ms:batch", 1.0
        return f"{_LATENCIES[row.metric]}_ms:{_statistic(row.statistic)}", 1.0
    copies = layout.replicas / setup.beams if setup.kind in ONE_COPY else 1.0
    if row.metric == "tok_s_per_gpu":
        return "output_tok_s", copies / layout.devices
    return row.metric, copies


def _statistic(text: str) -> str:
    """Return mean or a percentile; what is not stated counts as the mean."""
    said = text.lower()
    percentile = re.match(r"p ?(\d+(?:\.\d+)?)|(\d+(?:\.\d+)?)(?:th|st|nd|rd|%)", said)
    if percentile:
        return f"p{percentile[1] or percentile[2]}"
    return "p50" if said.startswith("median") else "mean"
