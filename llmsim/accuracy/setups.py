"""From a measured row to what has to be simulated: by its class, its engine, and the words in its free-text fields."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmsim.accuracy.datasets import Dataset, dataset_named, limits_of
from llmsim.accuracy.layouts import Layout, layout_of
from llmsim.accuracy.measured import METRICS, Row
from llmsim.accuracy.names import device_named, model_named
from llmsim.accuracy.numbers import Formats, formats_of
from llmsim.accuracy.software import Software, on_platform, software_of
from llmsim.errors import CatalogError, ModelError
from llmsim.hardware import Device
from llmsim.model.shape import ModelShape

Kind = Literal["forward", "batch", "closed", "queue", "open", "limit"]

# Requests of a run where the row names no number: enough for a steady state, few enough to simulate quickly.
MOST_QUEUED = 3000
MOST_QUEUED_TOKENS = 12_000_000
SINGLE_STREAM_REQUESTS = 100
BATCHED_REQUESTS = 2000
# trtllm-bench's published runs: (prompt, output) -> requests.  Source: TensorRT-LLM, docs/source/performance/
# perf-overview.md, "Preparing a Dataset", of 0.14 to 1.0, from memory.
_QUEUED = {(128, 128): 30000, (128, 2048): 3000, (128, 4096): 1500, (500, 2000): 3000, (1000, 1000): 3000,
           (1000, 2000): 1500, (1024, 2048): 1500, (2048, 128): 3000, (2048, 2048): 1500, (5000, 500): 1500,
           (20000, 2000): 1000}  # fmt: skip


class NotRunError(Exception):
    """A row that cannot be turned into a scenario; the message says why."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One thing to simulate; rows that ask for the same one share the simulation.

    ``kind``: one forward pass, a batch in lockstep, a closed loop, a queue that is full from the start, arrivals at a
    rate, or the largest rate that meets ``limits`` (ms at the 99th percentile, as JSON).  ``workload`` is the section
    of a scenario as JSON; ``prompt`` and ``output`` are tokens of a lockstep batch.
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
    if row.kind == "closed-loop-disaggregated":
        raise NotRunError("prefill and decode on replicas of their own are not simulated yet")
    makers = {
        "static-batch": _static, "closed-loop": _closed, "online-serving": _online,
        "offline-throughput": _offline, "phase-throughput": _phase,
    }  # fmt: skip
    if row.kind not in makers:
        raise NotRunError(f"unknown class (got {row.kind!r})")
    device = device_named(*filter(None, (row.device, row.device_norm)))
    software = on_platform(software, device.maker)
    model = model_named(*filter(None, (row.model, row.model_norm)))
    formats = formats_of(row.precision, model, device, software)
    layout = layout_of(row, model, device, formats)
    said = [text for text in (software.assumption, formats.assumption, layout.assumption) if text]
    if "power" in row.device.lower() and "cap" in row.device.lower():
        said.append("the power cap is not modelled")
    load = makers[row.kind](row, software, model)
    setup = _setup(software, model, device, formats, layout, load)
    quantity, share = _quantity(row, setup, layout)
    return Case(row, setup, "", quantity, share, (*said, *load.get("assumptions", ())), software.family)


def _setup(
    software: Software, model: ModelShape, device: Device, formats: Formats, layout: Layout, load: Mapping[str, Any]
) -> Setup:
    engine = {**software.flags, **formats.flags, **load.get("engine", {})}
    if software.eager:
        engine["enforce_eager"] = True
    lockstep = load["kind"] == "batch" and software.batches is not None
    return Setup(
        kind=load["kind"],
        family=software.family,
        stack=software.stack,
        preset=software.preset,
        scheduler=software.batches if lockstep else software.scheduler,
        model=formats.model,
        device=device.name,
        tensor=layout.tensor,
        pipeline=layout.pipeline,
        replicas=layout.replicas,
        engine=json.dumps(engine, sort_keys=True),
        workload=json.dumps(load.get("workload", {}), sort_keys=True),
        batch=load.get("batch", 0),
        prompt=load.get("prompt", 0),
        output=load.get("output", 0),
        limits=json.dumps(load.get("limits", {}), sort_keys=True),
        served=load.get("served", True),
    )


# ---------------------------------------------------------------------- by class


def _static(row: Row, software: Software, model: ModelShape) -> dict[str, Any]:
    """One batch that starts at once; without a batch size, one request after the other."""
    data = dataset_named(row.dataset)
    prompt, output = row.prompt, row.output
    if prompt is None and data is not None:
        if "beam=" in row.notes and not re.search(r"beam=1\b", row.notes):
            raise NotRunError("beam search is not simulated")
        return _stream(data) if row.batch is None else _batches(data, row.batch)
    if prompt is None or output is None:
        raise NotRunError("the lengths of the batch are not stated")
    batch = row.batch or 1
    if output == 0 or model.encoder_only:
        if output:
            raise NotRunError("an encoder writes no tokens")
        return {"kind": "forward", "batch": batch, "prompt": _read(prompt, software), "output": 0}
    # A prompt of no tokens is the one that begins every text.
    load = {"kind": "batch", "batch": batch, "prompt": max(prompt, 1), "output": output, "served": False}
    return {**load, **_lockstep(load, software, model)}


def _read(prompt: int, software: Software) -> int:
    """Return how much of a padded prompt is computed: benchmarks of padding's removal pad by half."""
    return max(prompt // 2, 1) if software.no_padding else prompt


def _lockstep(load: Mapping[str, Any], software: Software, model: ModelShape) -> dict[str, Any]:
    """Return workload and flags of a batch in which all requests are there at the start."""
    batch, prompt, output = load["batch"], load["prompt"], load["output"]
    workload = {
        "dataset": {"name": "fixed", "prompt": {"value": prompt}, "output": {"value": output}},
        "arrival": {"kind": "all_at_once"},
        "num_prompts": batch,
    }
    engine: dict[str, Any] = {"enable_prefix_caching": False}
    if software.batches == "static":
        # These engines hold the whole batch, as it was measured: no cache in blocks, one pass over all prompts.
        blocks = batch * -(-(prompt + output) // 16) + 2
        window = min(prompt + output, model.max_model_len)
        engine |= {"max_num_seqs": batch, "max_num_batched_tokens": max(batch * prompt, window, batch),
                   "max_model_len": window, "block_size": 16, "num_gpu_blocks_override": blocks}  # fmt: skip
    elif batch > 256:
        engine["max_num_seqs"] = batch
        engine["max_num_batched_tokens"] = max(batch, min(model.max_model_len, 32768), 2048)
    return {"workload": workload, "engine": engine}


def _stream(data: Dataset) -> dict[str, Any]:
    """One request at a time, as MLPerf's single stream."""
    if data.beams > 1:
        raise NotRunError("beam search is not simulated")
    workload = {"dataset": _dataset(data), "closed_loop": {"concurrency": 1}, "num_prompts": SINGLE_STREAM_REQUESTS}
    return {"kind": "closed", "workload": workload, "assumptions": (f"lengths: {data.source}",)}


def _batches(data: Dataset, batch: int) -> dict[str, Any]:
    """Batches of sentences of many lengths, one after the other, each as long as its longest."""
    count = min(max(BATCHED_REQUESTS // batch, 8), 200) * batch
    workload = {"dataset": _dataset(data), "arrival": {"kind": "all_at_once"}, "num_prompts": count}
    engine = {"max_num_seqs": batch, "enable_prefix_caching": False, "max_num_batched_tokens": max(128 * batch, 2048)}
    return {"kind": "batch", "batch": batch, "workload": workload, "engine": engine, "served": False,
            "assumptions": (f"lengths: {data.source}",)}  # fmt: skip


def _closed(row: Row, software: Software, model: ModelShape) -> dict[str, Any]:
    """A fixed number of requests in flight."""
    if row.concurrency is None:
        raise NotRunError("the concurrency is not stated")
    dataset, assumption = _lengths(row)
    count = 10 * row.concurrency
    workload = {"dataset": dataset, "closed_loop": {"concurrency": row.concurrency}, "num_prompts": count}
    engine: dict[str, Any] = {}
    seats = re.search(r"max[-_]num[-_]seqs[ =](\d+)", row.notes)
    if seats:
        engine["max_num_seqs"] = int(seats[1])
    engine |= _budget(software, row.prompt, row.concurrency)
    return {"kind": "closed", "workload": workload, "engine": engine, "assumptions": assumption}


def _lengths(row: Row) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the lengths of a row's requests, and what had to be assumed."""
    if row.prompt is not None and row.output is not None:
        least = re.search(r"\[0\.(\d+) ?\*? ?(?:ISL|L)\b", row.notes)
        share = float(f"0.{least[1]}") if least else None
        if share is None:
            return _fixed(row.prompt, row.output), ()
        return {"name": "uniform", "prompt": {"low": round(share * row.prompt), "high": row.prompt},
                "output": {"low": max(round(share * row.output), 1), "high": row.output}}, ()  # fmt: skip
    data = dataset_named(row.dataset)
    if data is None:
        raise NotRunError("the lengths of prompts and answers are not stated")
    return _dataset(data, row.notes), (f"lengths: {data.source}",)


def _fixed(prompt: int, output: int) -> dict[str, Any]:
    return {"name": "fixed", "prompt": {"value": max(prompt, 1)}, "output": {"value": max(output, 1)}}


def _dataset(data: Dataset, notes: str = "") -> dict[str, Any]:
    """Return the dataset's section; where notes tell how many tokens a sample generated, that is the mean."""
    output = dict(data.output)
    told = re.search(r"generated tokens/sample[^=]*=(\d+(?:\.\d+)?)", notes)
    if told and "mean" in output:
        # Whole tokens: files that differ in the last digit share a simulation.
        mean = float(round(float(told[1])))
        output |= {"mean": mean, "sd": round(output["sd"] * mean / float(data.output["mean"]), 1)}
    section: dict[str, Any] = {"name": "lengths", "prompt": dict(data.prompt), "output": output}
    if data.shared is not None:
        section["shared_prefix"] = {"tokens": data.shared[0], "count": data.shared[1]}
    return section


def _online(row: Row, software: Software, model: ModelShape) -> dict[str, Any]:
    """Arrivals at a rate; or the largest rate that meets a benchmark's limits."""
    dataset, assumption = _lengths(row)
    data = dataset_named(row.dataset)
    if data is not None and data.beams > 1:
        raise NotRunError("beam search is not simulated")
    load: dict[str, Any] = {"engine": _flags_in(row.notes, software), "assumptions": assumption}
    limits = limits_of(row.model, row.notes)
    if row.rate is not None:
        count = re.search(r"\b(\d+) [\w-]+ requests", row.dataset)
        workload = {"dataset": dataset, "arrival": {"request_rate": row.rate},
                    "num_prompts": int(count[1]) if count else 1000}  # fmt: skip
        return {"kind": "open", "workload": workload, **load}
    if data is not None and data.rates:
        return {"kind": "open", "workload": _staged(row, data, dataset), **load}
    if limits is not None:
        workload = {"dataset": dataset}
        # The load generator of the benchmark runs in the server's process: token ids go straight into the engine.
        return {"kind": "limit", "workload": workload, "limits": limits, "served": False, **load}
    raise NotRunError("the arrival rate is not stated")


def _staged(row: Row, data: Dataset, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the workload of one stage of a load test, or that of all its stages."""
    stage = re.search(r"load stage (\d+)", row.notes)
    first = re.search(r"first (\d+) requests", row.notes)
    number = int(stage[1]) if stage else 0
    if number >= len(data.rates):
        raise NotRunError(f"the rate of load stage {number} is not known")
    if first:
        return {"dataset": dataset, "arrival": {"request_rate": data.rates[0]}, "num_prompts": int(first[1])}
    # A minute of a stage: its steady state, at a tenth of the cost.
    rates = [data.rates[number]] if stage else list(data.rates)
    mean = sum(rate * rate for rate in rates) / sum(rates)
    return {"dataset": dataset, "arrival": {"request_rate": mean}, "num_prompts": round(data.stage_s / 5 * mean)}


def _flags_in(notes: str, software: Software) -> dict[str, Any]:
    """Return engine flags that notes tell as ``flag=value``, in vLLM's words or short for them."""
    flags: dict[str, Any] = {}
    if not software.preset.startswith("vllm"):
        return flags
    for pattern, name, kind in (
        (r"max_num_batched_tokens[= ](\d+)", "max_num_batched_tokens", int),
        (r"max_num_seqs[= ](\d+)", "max_num_seqs", int),
        (r"gpu_mem(?:ory)?_util(?:ization)?=(0?\.\d+)", "gpu_memory_utilization", float),
    ):
        match = re.search(pattern, notes)
        if match:
            flags[name] = kind(match[1])
    if "max_num_batched_tokens" in flags and "max_num_seqs" not in flags:
        flags["max_num_seqs"] = min(256, flags["max_num_batched_tokens"])
    return flags


def _offline(row: Row, software: Software, model: ModelShape) -> dict[str, Any]:
    """All requests queued at once; with a batch size, a batch in lockstep."""
    if row.batch is not None and row.prompt is not None and row.output:
        load = {"kind": "batch", "batch": row.batch, "prompt": row.prompt, "output": row.output, "served": False}
        return {**load, **_lockstep(load, software, model)}
    data = dataset_named(row.dataset)
    if data is not None and data.beams > 1 and row.prompt is None:
        raise NotRunError("beam search is not simulated")
    dataset, assumption = _lengths(row)
    told = re.search(r"\b(\d{2,}) requests", row.dataset)
    usual = _QUEUED.get((row.prompt or 0, row.output or 0), MOST_QUEUED)
    count = min(int(told[1]) if told else usual, MOST_QUEUED)
    if row.prompt is not None and row.output is not None:
        count = min(count, max(MOST_QUEUED_TOKENS // max(row.prompt + row.output, 1), 100))
    workload = {"dataset": dataset, "arrival": {"kind": "all_at_once"}, "num_prompts": count}
    engine = _budget(software, row.prompt, row.prompt or 0)
    return {"kind": "queue", "workload": workload, "engine": engine, "assumptions": assumption, "served": False}


def _budget(software: Software, prompt: int | None, beside: int) -> dict[str, Any]:
    """Return the token budget of an engine that takes prompts whole: one prompt beside all that decode.

    With the default of 8,192 a prompt of 8,192 tokens would never join a batch.  Benchmarks of TensorRT-LLM set it by
    the prompt and the concurrency (InferenceX: prompt + concurrency + 64, from memory of its scripts).
    """
    if not software.preset.startswith("trtllm") or prompt is None:
        return {}
    return {"max_num_batched_tokens": max(8192, -(-(prompt + beside + 64) // 64) * 64)}


def _phase(row: Row, software: Software, model: ModelShape) -> dict[str, Any]:
    """Prefill or decode alone, on devices of their own."""
    if row.prompt is None:
        raise NotRunError("the context length of the phase is not stated")
    if row.output:
        return _static(row, software, model)
    return {"kind": "forward", "batch": row.batch or 1, "prompt": row.prompt, "output": 0}


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
    if row.metric == "tok_s_per_gpu":
        return "output_tok_s", 1.0 / layout.devices
    return row.metric, 1.0


def _statistic(text: str) -> str:
    """Return mean or a percentile; what is not stated counts as the mean."""
    said = text.lower()
    percentile = re.match(r"p(\d+)", said)
    if percentile:
        return f"p{percentile[1]}"
    return "p50" if said.startswith("median") else "mean"
