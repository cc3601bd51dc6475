"""What was asked of an engine in a measured row, by its class: workload, flags, lockstep or not."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmsim.accuracy.datasets import Dataset, dataset_named, limits_of
from llmsim.accuracy.lengths import NotRunError, drawn_from, lengths_of
from llmsim.accuracy.measured import Row
from llmsim.accuracy.mlperf import SINGLE_STREAM_REQUESTS, is_submission, submitted
from llmsim.accuracy.replays import requests_named, settings_of, taken_at_engine
from llmsim.accuracy.scripts import script_flags
from llmsim.accuracy.software import Software
from llmsim.model.shape import ModelShape

# Requests of a run where the row names no number: enough for a steady state, few enough to simulate quickly.
MOST_QUEUED = 3000
MOST_QUEUED_TOKENS = 12_000_000
BATCHED_REQUESTS = 2000
# trtllm-bench's published runs: (prompt, output) -> requests.  Source: TensorRT-LLM, docs/source/performance/
# perf-overview.md, "Preparing a Dataset", of 0.14 to 1.0, from memory.
_QUEUED = {(128, 128): 30000, (128, 2048): 3000, (128, 4096): 1500, (500, 2000): 3000, (1000, 1000): 3000,
           (1000, 2000): 1500, (1024, 2048): 1500, (2048, 128): 3000, (2048, 2048): 1500, (5000, 500): 1500,
           (20000, 2000): 1000}  # fmt: skip


def load_of(row: Row, software: Software, model: ModelShape) -> dict[str, Any]:
    """Return what a row's class stands for, as fields of a `llmsim.accuracy.setups.Setup` and ``assumptions``.

    Raises:
        NotRunError: the class is not known, or the row does not tell enough.
    """
    if row.kind == "closed-loop-disaggregated":
        raise NotRunError("prefill and decode on replicas of their own are not simulated yet")
    if row.kind not in _MAKERS:
        raise NotRunError(f"unknown class (got {row.kind!r})")
    if is_submission(row):
        return submitted(row, software, model)
    return _MAKERS[row.kind](row, software, model)


def _static(row: Row, software: Software, model: ModelShape) -> dict[str, Any]:
    """One batch that starts at once; without a batch size, one request after the other."""
    data = dataset_named(row.dataset)
    prompt, output = row.prompt, row.output
    if prompt is None and data is not None:
        if "beam=" in row.notes and not re.search(r"beam=1\b", row.notes):
            raise NotRunError("beam search is not simulated")
        return _stream(data) if row.batch is None else _batches(data, row.batch)
    said: tuple[str, ...] = ()
    if prompt is not None and output is None and row.metric == "output_tok_s":
        output, said = prompt, ("the length of the answers is not stated: as long as the prompts",)
    if prompt is None or output is None:
        raise NotRunError("the lengths of the batch are not stated")
    batch = row.batch or 1
    if output == 0 or model.encoder_only:
        if output:
            raise NotRunError("an encoder writes no tokens")
        return {"kind": "forward", "batch": batch, "prompt": _read(prompt, software), "output": 0, "padded": prompt,
                "before": _remembered(model)}  # fmt: skip
    # A prompt of no tokens is the one that begins every text.
    load = {"kind": "batch", "batch": batch, "prompt": max(prompt, 1), "output": output, "served": False}
    return {**load, **_lockstep(load, software, model), "assumptions": said}


def _remembered(model: ModelShape) -> int:
    """Return the tokens before a segment that the layers of a model remember: it is measured with its memory full."""
    return max((layer.attention.memory for layer in model.layers if layer.attention is not None), default=0)


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
    workload = {"dataset": drawn_from(data), "closed_loop": {"concurrency": 1}, "num_prompts": SINGLE_STREAM_REQUESTS}
    return {"kind": "closed", "workload": workload, "assumptions": (f"lengths: {data.source}",)}


def _batches(data: Dataset, batch: int) -> dict[str, Any]:
    """Batches of sentences of many lengths, one after the other, each as long as its longest."""
    count = min(max(BATCHED_REQUESTS // batch, 8), 200) * batch
    workload = {"dataset": drawn_from(data), "arrival": {"kind": "all_at_once"}, "num_prompts": count}
    engine = {"max_num_seqs": batch, "enable_prefix_caching": False, "max_num_batched_tokens": max(128 * batch, 2048)}
    return {"kind": "batch", "batch": batch, "workload": workload, "engine": engine, "served": False,
            "assumptions": (f"lengths: {data.source}",)}  # fmt: skip


def _closed(row: Row, software: Software, model: ModelShape) -> dict[str, Any]:
    """A fixed number of requests in flight."""
    if row.concurrency is None:
        raise NotRunError("the concurrency is not stated")
    if row.requests:
        return {"kind": "closed", **_replayed(row, {"closed_loop": {"concurrency": row.concurrency}})}
    dataset, assumption = lengths_of(row)
    count = 10 * row.concurrency
    workload = {"dataset": dataset, "closed_loop": {"concurrency": row.concurrency}, "num_prompts": count}
    engine: dict[str, Any] = {}
    seats = re.search(r"max[-_]num[-_]seqs[ =](\d+)", row.notes)
    if seats:
        engine["max_num_seqs"] = int(seats[1])
    engine |= _budget(software, row.prompt, row.concurrency) | script_flags(row, software)
    return {"kind": "closed", "workload": workload, "engine": engine, "assumptions": assumption}


def _online(row: Row, software: Software, model: ModelShape) -> dict[str, Any]:
    """Arrivals at a rate, or as they were recorded; or the largest rate that meets a benchmark's limits."""
    if row.requests:
        recorded = _replayed(row, {})
        return {"kind": "open", **recorded, "engine": {**recorded["engine"], **_flags_in(row.notes, software)}}
    dataset, assumption = lengths_of(row)
    data = dataset_named(row.dataset)
    if data is not None and data.beams > 1:
        raise NotRunError("beam search is not simulated")
    load: dict[str, Any] = {"engine": _flags_in(row.notes, software), "assumptions": assumption}
    limits = limits_of(row.model, row.notes)
    if row.rate is not None:
        workload = {"dataset": dataset, "arrival": {"request_rate": row.rate},
                    "num_prompts": requests_named(row.dataset) or 1000}  # fmt: skip
        # Token ids of an offline run go straight into the engine.
        return {"kind": "open", "workload": workload, "served": "token ids" not in row.notes, **load}
    if data is not None and data.rates:
        return {"kind": "open", "workload": _staged(row, data, dataset), **load}
    if limits is not None:
        workload = {"dataset": dataset}
        # The load generator of the benchmark runs in the server's process: token ids go straight into the engine.
        return {"kind": "limit", "workload": workload, "limits": limits, "served": False, **load}
    raise NotRunError("the arrival rate is not stated")


def _replayed(row: Row, arrival: Mapping[str, Any]) -> dict[str, Any]:
    """Return the requests that a row was measured with, and the flags that are recorded beside them.

    Stamps that the engine took leave out tokenizer and front end.
    """
    engine = settings_of(row.requests)
    said = (f"requests are those of {Path(row.requests).name}",)
    return {"workload": {"trace": {"path": row.requests}, **arrival}, "engine": engine,
            "served": not taken_at_engine(row.requests), "assumptions": said}  # fmt: skip


def _staged(row: Row, data: Dataset, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the workload of one stage of a load test, or that of all its stages."""
    stage = re.search(r"load stage (\d+)", row.notes)
    first = re.search(r"first (\d+) requests", row.notes)
    number = int(stage[1]) if stage else 0
    if number >= len(data.rates):
        raise NotRunError(f"the rate of load stage {number} is not known")
    if first:
        return {"dataset": dataset, "arrival": {"kind": data.arrivals, "request_rate": data.rates[0]},
                "num_prompts": int(first[1])}  # fmt: skip
    # A fifth of each stage: its steady state, at a fifth of the cost.
    rates, each = [data.rates[number]] if stage else list(data.rates), data.stage_s / 5
    arrival = {"kind": "rate_table", "rates": rates, "durations_s": [each] * len(rates), "gaps": data.arrivals}
    return {"dataset": dataset, "arrival": arrival, "num_prompts": round(each * sum(rates))}


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
    dataset, assumption = lengths_of(row)
    told = re.search(r"\b(\d{2,}) requests", row.dataset)
    usual = _QUEUED.get((row.prompt or 0, row.output or 0), MOST_QUEUED)
    count = int(told[1]) if told else usual
    if row.prompt is not None and row.output is not None:
        count = min(count, max(MOST_QUEUED_TOKENS // max(row.prompt + row.output, 1), 100))
    else:
        count = min(count, MOST_QUEUED)
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


_MAKERS: dict[str, Callable[[Row, Software, ModelShape], dict[str, Any]]] = {
    "static-batch": _static, "closed-loop": _closed, "online-serving": _online,
    "offline-throughput": _offline, "phase-throughput": _phase,
}  # fmt: skip
