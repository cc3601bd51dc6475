"""The report of one run: a page of HTML with its figures, warnings, pictures, worst requests and scenario."""

from pathlib import Path
from typing import Any

from llmsim.results import page, plots, text
from llmsim.results.lifelines import worst
from llmsim.results.outcome import Outcome
from llmsim.results.percentiles import label
from llmsim.results.records import Record

CAPTIONS = {
    "latency_cdf": "What share of the requests (or gaps between tokens) took at most so long. Crosses are objectives: "
    "the curve should pass to their left. Bars are 95 % intervals of the percentiles marked; a hollow mark has none.",
    "queue_and_cache": "Requests running and waiting, and the KV cache in use. The line is the mean of a bin, the band "
    "its least and greatest value.",
    "batch_size": "Above: sequences that decode in a step. Below: the tokens of each batch that computes prompts.",
    "time_per_kind": "Left: the wall time of each replica by what it waited for. Right: the same for an output token, "
    "by operator. Bars too short to see are left out.",
    "life_lines": "The requests that had to wait longest: in the queue, for their prompt, for their tokens.",
}


def save_report(outcome: Outcome, path: str | Path) -> Path:
    """Write the report of a run, one file that needs nothing else, and return its path.

    Raises:
        InputError: the file cannot be written.
    """
    return page.write(path, report(outcome))


def report(outcome: Outcome) -> str:
    """Return the report of a run as HTML; the same run gives the same text."""
    setup = outcome.setup
    title = setup.name or "llmsim run"
    pictures = [(name, draw(outcome)) for name, draw in plots.PLOTS.items()]
    sections = [
        page.tiles(_tiles(outcome)),
        page.section("Objectives", page.table(_objectives(outcome), words=["objective"])),
        page.section(
            "What to know before trusting this",
            page.warnings([*_stopped(outcome), *outcome.warnings, *outcome.notes()]),
        ),
        page.section(
            "Latency",
            "<p>Below each figure its 95 % interval: that of a run without end.</p>" if outcome.intervals() else "",
            page.table(_latencies(outcome), words=["latency"]),
        ),
        page.section(
            "Pictures", *(page.image(figure, CAPTIONS[name]) for name, figure in pictures if figure is not None)
        ),
        page.section("Slowest first tokens", page.table(_rows(outcome, "ttft"), words=["request", "session"])),
        page.section("Slowest to the end", page.table(_rows(outcome, "e2el"), words=["request", "session"])),
        page.section("Where the time went", page.text(text.where_the_time_went(outcome))),
        page.section("All figures", page.text(text.block(outcome, outcome.percentiles, [*text.titles(outcome)][:-1]))),
        page.section("Scenario", *_scenario(outcome)),
    ]
    return page.page(title, [line.strip() for line in setup.lines(seed=outcome.seed)], sections)


def _tiles(outcome: Outcome) -> dict[str, str]:
    metrics, resources = outcome.metrics, outcome.resources
    facts = {
        "of the requests finished": f"{outcome.counts['finished']:,} of {outcome.counts['requests']:,}",
        f"p99 time to first token{_range(outcome, 'p99_ttft_ms')}": _milliseconds(outcome, "p99_ttft_ms"),
        f"p99 time per output token{_range(outcome, 'p99_tpot_ms')}": _milliseconds(outcome, "p99_tpot_ms"),
        f"output tokens a second{_range(outcome, 'output_throughput')}": page.number(metrics["output_throughput"]),
        f"requests a second{_range(outcome, 'request_throughput')}": page.number(metrics["request_throughput"]),
    }
    for name, key in (("devices busy", "gpu_busy"), ("of the KV cache in use, at most", "kv_usage_peak")):
        share = resources[key]
        facts |= {name: f"{share:.0%}"} if share is not None else {}
    return facts


def _range(outcome: Outcome, key: str) -> str:
    """Return the 95 % interval of a figure in brackets, or that it has none."""
    estimate = (outcome.intervals() | outcome.intervals([99.0])).get(key)
    if estimate is None:
        return ""
    there = estimate.low is not None and estimate.high is not None
    return f" ({page.number(estimate.low)} to {page.number(estimate.high)})" if there else " (no interval)"


def _milliseconds(outcome: Outcome, key: str) -> str:
    metrics = outcome.metrics if key in outcome.metrics else outcome.measure([99.0])
    value = metrics[key]
    return "n/a" if value is None else f"{page.number(float(value))} ms"


def _objectives(outcome: Outcome) -> list[dict[str, Any]]:
    known = outcome.intervals()
    return [
        {
            "objective": name,
            "target": float(one["target"] or 0),
            "value": known.get(name, one["value"]),
            "": bool(one["pass"]),
        }
        for name, one in outcome.slo_results().items()
    ]


def _stopped(outcome: Outcome) -> list[str]:
    return (
        [f"The run was stopped early ({outcome.stopped}): these are the results until then."] if outcome.stopped else []
    )


def _latencies(outcome: Outcome) -> list[dict[str, Any]]:
    statistics = ["mean", *(f"p{label(percent)}" for percent in outcome.percentiles)]
    values = outcome.metrics | outcome.intervals()
    return [
        {"latency": f"{short}: {title}" if short.isupper() else title}
        | {f"{each} (ms)": values[f"{each}_{name}_ms"] for each in statistics}
        for name, (short, title) in text.titles(outcome).items()
    ]


def _rows(outcome: Outcome, by: str) -> list[dict[str, Any]]:
    """Return the worst requests, as rows."""
    found = worst(outcome, lambda record: record.first_token_s if by == "ttft" else record.finished_s)
    sessions = any(record.session_id for record in found)
    return [_row(record, sessions) for record in found]


def _row(record: Record, sessions: bool) -> dict[str, Any]:
    def since(moment_s: float | None) -> float | None:
        return None if moment_s is None else (moment_s - record.arrival_s) * 1e3

    return {
        "request": record.id,
        **({"session": record.session_id or ""} if sessions else {}),
        "arrival (s)": record.arrival_s,
        "prompt": record.prompt_tokens,
        "cached": record.cached_tokens,
        "output": record.output_tokens,
        "queued (ms)": since(record.admitted_s),
        "TTFT (ms)": since(record.first_token_s),
        "E2EL (ms)": since(record.finished_s),
        "preemptions": record.preemptions,
        "replica": record.replica,
    }


def _scenario(outcome: Outcome) -> list[str]:
    if outcome.resolved_yaml is None:
        return []
    told = outcome.setup.scenario_sha256
    return [
        f"<p>sha256 {told}</p>" if told else "",
        page.text(outcome.resolved_yaml, hidden="every value, with where it comes from"),
    ]
