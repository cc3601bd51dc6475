"""What was asked of an engine in a submission to MLPerf Inference: by the scenario, the data set and its limits."""

from typing import Any

from llmsim.accuracy.datasets import Dataset, dataset_named, limits_of
from llmsim.accuracy.lengths import NotRunError, drawn_from
from llmsim.accuracy.measured import Row
from llmsim.accuracy.software import Software
from llmsim.model.shape import ModelShape

SINGLE_STREAM_REQUESTS = 100
# Samples of a batch of an encoder: submissions use 512 to 1,280 (NVIDIA's configurations of BERT, from memory).
ENCODER_BATCH = 1024
# Beams of sentences that a translator decodes at once, and tokens of a batch of prompts: more than any limit lets run.
TRANSLATED_AT_ONCE, TRANSLATED_TOKENS = 2048, 16384
# Mixtures with at least this many experts are spread over all devices of a node.
MANY_EXPERTS = 64


def is_submission(row: Row) -> bool:
    """Say whether a row is a result of MLPerf that tells a named data set and no lengths."""
    said = f"{row.source} {row.notes}".lower()
    return "mlperf" in said and row.prompt is None and row.batch is None and dataset_named(row.dataset) is not None


def submitted(row: Row, software: Software, model: ModelShape) -> dict[str, Any]:
    """Return the load of a submission, as fields of a `llmsim.accuracy.setups.Setup` and ``assumptions``.

    The load generator runs in the server's process: token ids go straight into the engine.

    Raises:
        NotRunError: the scenario is not known, or the limits of a server run are not.
    """
    data = dataset_named(row.dataset)
    assert data is not None
    workload: dict[str, Any] = {"dataset": _lengths(data, row.notes, model)}
    load = {"workload": workload, "engine": _flags(row, data, software, model), "served": False, "beams": data.beams,
            "assumptions": _said(data)}  # fmt: skip
    if row.kind == "offline-throughput":
        return {"kind": "offline", **load}
    if row.kind == "online-serving":
        limits = limits_of(row.model, f"MLPerf {row.notes}")
        if limits is None:
            raise NotRunError("the limits of the server run are not known")
        return {"kind": "limit", "limits": limits, **load}
    if row.kind != "static-batch":
        raise NotRunError(f"a submission of this class is not known (got {row.kind!r})")
    # Single stream: one query after the other.
    workload |= {"closed_loop": {"concurrency": data.beams}, "num_prompts": SINGLE_STREAM_REQUESTS * data.beams}
    return {"kind": "closed", **load}


def _lengths(data: Dataset, notes: str, model: ModelShape) -> dict[str, Any]:
    """Return the lengths of what the engine computes as one sequence: a request, or one of its beams.

    k beams are k sequences that read a cache each and share their prompt, which is computed and held once.  So is
    it here: a beam computes the last k-th of its prompt, behind a prefix that all have in common, and k such parts
    are the prompt of one request.  A recurrent model keeps no cache: its prompt is the k-th part alone.
    """
    section = drawn_from(data, notes)
    if data.beams == 1:
        return section
    prompt, beams = dict(section["prompt"]), data.beams
    whole, most = float(prompt["mean"]), int(prompt["max"])
    prompt |= {"mean": whole / beams, "sd": float(prompt["sd"]) / beams, "max": -(-most // beams)}
    if _has_cache(model):
        shared = round(whole * (beams - 1) / beams)
        prompt |= {"offset": shared, "min": shared + 1, "max": shared + prompt["max"]}
        section["shared_prefix"] = {"tokens": shared, "count": 1}
    return {**section, "prompt": prompt}


def many_experts(model: ModelShape) -> bool:
    """Say whether a model is a mixture that is dealt over all devices of a node."""
    blocks = [layer.feed_forward for layer in model.layers if layer.feed_forward is not None]
    return max((block.experts for block in blocks), default=0) >= MANY_EXPERTS


def _has_cache(model: ModelShape) -> bool:
    return any(layer.attention is not None for layer in model.layers)


def _flags(row: Row, data: Dataset, software: Software, model: ModelShape) -> dict[str, Any]:
    """Return the flags that submitters of this benchmark set, where the defaults are others."""
    flags: dict[str, Any] = {}
    if software.preset.startswith("trtllm") and many_experts(model):
        # These ran on the PyTorch back end, which forms a batch while the one before it runs.
        flags["async_scheduling"] = True
    if software.preset.startswith("trtllm") and row.kind != "online-serving":
        # Offline, batches are as large as they can be without evicting anybody.
        flags["capacity_scheduler_policy"] = "GUARANTEED_NO_EVICT"
    if software.preset.startswith("trtllm") and (model.encoder_only or model.encoder):
        flags["enable_chunked_prefill"] = False
    if model.encoder_only:
        longest = int(data.prompt["max"])
        flags |= {"max_num_seqs": ENCODER_BATCH, "max_num_batched_tokens": ENCODER_BATCH * longest}
    if model.encoder and row.kind != "static-batch":
        flags |= {"max_num_seqs": TRANSLATED_AT_ONCE, "max_num_batched_tokens": TRANSLATED_TOKENS}
    if data.beams > 1:
        flags["enable_prefix_caching"] = _has_cache(model)
    return flags


def _said(data: Dataset) -> tuple[str, ...]:
    beams = (f"{data.beams} beams are as many sequences behind one prompt",) if data.beams > 1 else ()
    return (f"lengths: {data.source}", *beams)
