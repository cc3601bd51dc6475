"""The result of a run in the shapes of other tools, and as llmsim's own summary."""

import json
import platform
from collections.abc import Callable
from datetime import datetime
from importlib import metadata
from typing import Any

from llmsim.results.estimates import Estimate
from llmsim.results.metrics import measure
from llmsim.results.outcome import Outcome

SCHEMA_VERSION = 1


def summary(outcome: Outcome, *, created: str | None = None) -> dict[str, Any]:
    """Return the content of summary.json.

    Args:
        outcome: the run.
        created: the moment of writing, as text; the caller's, because a result holds no wall clock.
    """
    setup = outcome.setup
    return {
        "schema_version": SCHEMA_VERSION,
        "llmsim_version": setup.version,
        "versions": _versions(),
        "created": created,
        "name": setup.name,
        "scenario_sha256": setup.scenario_sha256,
        "seed": outcome.seed,
        "engine": setup.engine,
        "scheduler": setup.scheduler,
        "model": setup.model,
        "cluster": {"devices": setup.devices, "plan": setup.plan, "formats": setup.formats, "replicas": setup.replicas},
        "kv_cache": {"blocks": setup.blocks, "block_tokens": setup.block_tokens, "origin": setup.blocks_origin},
        "perf_model": {
            "name": setup.performance,
            "calibrated": setup.calibrated,
            "expected_error": setup.expected_error,
        },
        "workload": setup.workload,
        "stopped": outcome.stopped,
        "warnings": [*outcome.warnings, *outcome.notes()],
        "metrics": outcome.metrics,
        "ci95": {key: _ends(estimate) for key, estimate in outcome.intervals().items()},
        "not_estimable": {key: one.reason for key, one in outcome.intervals().items() if not one.estimable},
        "saturated": outcome.steadiness.saturated,
        "settled": outcome.steadiness.settled,
        "warmup_requests": len(outcome.records) - len(outcome.measured_records()),
        "resources": outcome.resources,
        "counts": outcome.counts,
        "time_by_resource_s": outcome.time_by_resource(),
        "time_by_operator_s": outcome.time_by_operator(),
        "cycles_per_token": outcome.cycles_per_token(),
        "goodput": dict(outcome.goodput) if outcome.goodput is not None else None,
        "slo": outcome.slo_results(),
        **({"first_tokens": outcome.first_tokens} if outcome.first_tokens is not None else {}),
        **({"joined": measure(outcome.joined, percentiles=outcome.percentiles)} if outcome.joined else {}),
        **({"speculative_decoding": outcome.speculation} if outcome.speculation else {}),
    }


def vllm_bench_json(outcome: Outcome, *, date: str | None = None, detailed: bool = False) -> dict[str, Any]:
    """Return the content of the file that ``vllm bench serve --save-result`` writes, with its keys in its order.

    Latencies of a request that did not finish are 0.0, as there.  Gaps are pooled in a simulation, so ``itls``,
    vLLM's lists of each request's gaps, is left out, and so is the text.

    Args:
        outcome: the run.
        date: the moment of writing, in vLLM's form ``%Y%m%d-%H%M%S``.
        detailed: also write one entry per request (``--save-detailed``).
    """
    setup, metrics, records = outcome.setup, outcome.metrics, outcome.records
    rate = setup.request_rate
    result: dict[str, Any] = {
        "date": date,
        "endpoint_type": "llmsim",
        "backend": "llmsim",
        "label": setup.name,
        "model_id": setup.model,
        "tokenizer_id": setup.model,
        "num_prompts": len(records),
        "request_rate": rate if setup.has_request_rate else "inf",
        "burstiness": 1.0 if setup.burstiness is None else setup.burstiness,
        "max_concurrency": setup.max_concurrency,
        "duration": metrics["duration"],
        "completed": metrics["completed"],
        "failed": metrics["failed"],
        "total_input_tokens": metrics["total_input_tokens"],
        "total_output_tokens": metrics["total_output_tokens"],
        "request_throughput": metrics["request_throughput"],
        "request_goodput": metrics["request_goodput"],
        "output_throughput": metrics["output_throughput"],
        "total_token_throughput": metrics["total_token_throughput"],
        "max_output_tokens_per_s": metrics["max_output_tokens_per_s"],
        "max_concurrent_requests": metrics["max_concurrent_requests"],
        "rtfx": 0.0,  # of audio, which is not simulated
    }
    finished = [record.status == "finished" for record in records]
    spans = zip(finished, records, strict=True)
    result["latencies"] = [_span(record.arrival_s, record.finished_s) if done else 0.0 for done, record in spans]
    result["queue_times"] = [0.0] * len(records)  # the client's wait for a slot; a simulated client has none
    if detailed:
        result |= _per_request(outcome)
    latencies = ("_ttft_ms", "_tpot_ms", "_itl_ms", "_e2el_ms")
    timed = {key: value for key, value in metrics.items() if key.endswith(latencies)}
    return result | timed | outcome.speculation


def dump(content: dict[str, Any]) -> str:
    """Return ``content`` as JSON text.

    Raises:
        ValueError: a number in it is not finite, which JSON cannot say.
    """
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


FORMATS: dict[str, tuple[str, Callable[[Outcome, str | None], dict[str, Any]]]] = {
    "llmsim": ("summary.json", lambda outcome, created: summary(outcome, created=created)),
    "vllm-bench": ("vllm_bench.json", lambda outcome, created: vllm_bench_json(outcome, date=_date(created))),
}
"""Name -> (file, content) of each format that a run can be saved in."""


def _ends(estimate: Estimate) -> list[float] | None:
    """Return the ends of an interval as JSON has them, None where there is none."""
    return None if estimate.low is None or estimate.high is None else [estimate.low, estimate.high]


def _versions() -> dict[str, str]:
    """Return the versions on which the figures may depend."""
    return {"python": platform.python_version(), "numpy": metadata.version("numpy"), "simpy": metadata.version("simpy")}


def _per_request(outcome: Outcome) -> dict[str, Any]:
    """Return vLLM's arrays with one entry for each request, in seconds."""
    records = outcome.records
    first_tokens = [_span(record.arrival_s, record.first_token_s) for record in records]
    return {
        "input_lens": [record.prompt_tokens for record in records],
        "output_lens": [record.output_tokens for record in records],
        "start_times": [record.arrival_s for record in records],
        "ttfts": first_tokens,
        "errors": ["" if record.status == "finished" else record.reason or record.status for record in records],
        "server_queue_times": [_span(record.arrival_s, record.admitted_s) for record in records],
        "server_ttfts": first_tokens,
    }


def _date(created: str | None) -> str | None:
    """Return a moment in ISO form, as the summary has it, in the form of vLLM's files."""
    return None if created is None else datetime.fromisoformat(created).strftime("%Y%m%d-%H%M%S")


def _span(start: float, end: float | None) -> float:
    return 0.0 if end is None else end - start
