"""What a run says on the terminal: vLLM's result block, where the time went, and the lines around them."""

from collections.abc import Sequence

from llmsim.results.metrics import Metrics, measure
from llmsim.results.outcome import Outcome
from llmsim.results.percentiles import label

WIDTH = 50
TITLES = {
    "ttft": ("TTFT", "Time to First Token"),
    "ttfn": ("TTFN", "Time to First N Tokens"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
    "queue_time": ("Queue time", "Queue Time (part of TTFT)"),
}
BOTTLENECKS = {
    "compute": "compute",
    "memory": "memory bandwidth",
    "communication": "links",
    "launch": "kernel launches",
    "host": "host",
    "bubble": "pipeline bubbles",
}


def titles(outcome: Outcome) -> dict[str, tuple[str, str]]:
    """Return short name and title of each latency that a run has."""
    told = dict(TITLES)
    if outcome.first_tokens is None:
        del told["ttfn"]
    else:
        told["ttfn"] = ("TTFN", f"Time to First {outcome.first_tokens} Tokens")
    return told


def block(outcome: Outcome, percentiles: Sequence[float], metrics: Sequence[str]) -> str:
    """Return the result block of `vllm bench serve`, then whatever qualifies its figures.

    Raises:
        ValueError: there is no such metric or percentile.
    """
    for name in metrics:
        if name not in titles(outcome):
            raise ValueError(f"summary: unknown metric (got {name!r})\nhint: one of {', '.join(titles(outcome))}")
    values = outcome.metrics if tuple(percentiles) == tuple(outcome.percentiles) else outcome.measure(percentiles)
    lines = [f"{' Serving Benchmark Result ':=^{WIDTH}}", *_totals(outcome, values)]
    for name in metrics:
        lines += _section(*titles(outcome)[name], name, values, percentiles)
    lines += _drafts(outcome)
    lines.append("=" * WIDTH)
    lines += _intervals(outcome, percentiles, metrics)
    lines += [f"slo: {text}" for text in _objectives(outcome)]
    if outcome.stopped:
        done = f"{outcome.counts['finished']} of {len(outcome.records)} requests finished"
        lines.append(f"stopped early: {outcome.stopped} ({done})")
    lines += [f"note: {note}" for note in outcome.notes(percentiles)]
    return "\n".join(lines)


def closing(outcome: Outcome, *, wall_s: float | None = None, folder: str | None = None) -> list[str]:
    """Return the lines after the block: how busy things were, and what the simulation cost.

    Args:
        outcome: the run.
        wall_s: seconds that the simulation took; the caller's, because a result holds no wall clock.
        folder: where the files went.
    """
    resources, counts = outcome.resources, outcome.counts
    parts = [f"GPU busy {_share(resources['gpu_busy'])}"] if resources["gpu_busy"] is not None else []
    parts += [f"KV peak {_share(resources['kv_usage_peak'])}"] if resources["kv_usage_peak"] is not None else []
    found = resources["prefix_hit_rate"]
    parts += [f"prefix hits {_share(found)}"] if found else []
    parts.append(f"preemptions {counts['preemptions']}")
    parts += [f"max waiting {resources['max_waiting']}"] if resources["max_waiting"] is not None else []
    bottleneck = _bottleneck(outcome)
    parts += [f"bottleneck: {bottleneck}"] if bottleneck else []
    took = f" in {wall_s:.1f} s" if wall_s is not None else ""
    simulated = outcome.metrics["duration"]
    span = f" (simulated {simulated:.1f} s)" if simulated is not None else ""
    where = f"   results: {folder}" if folder else ""
    last = f"{counts['requests']:,} requests, {counts['steps']:,} steps{took}{span}{where}"
    return ["   ".join(parts), *_joined(outcome), last]


def _joined(outcome: Outcome) -> list[str]:
    """Return a line on the requests as they were asked, where long inputs were cut."""
    if not outcome.joined:
        return []
    whole = measure(outcome.joined, percentiles=(50.0, 99.0))
    told = f"{len(outcome.joined):,} requests as asked ({len(outcome.records):,} with their pieces)"
    if not whole["completed"]:
        return [f"{told}: none finished"]
    return [
        f"{told}: end-to-end mean {whole['mean_e2el_ms']:,.1f} ms, median {whole['p50_e2el_ms']:,.1f}, "
        f"p99 {whole['p99_e2el_ms']:,.1f}"
    ]


def where_the_time_went(outcome: Outcome) -> str:
    """Return a table of the time of all replicas by resource and operator, greatest first; zero rows are left out.

    The share is of the wall time of all replicas, so it adds up to 100 %.
    """
    if outcome.lane_totals is None:
        return "where the time went: this run kept no odometers"
    seconds = outcome.lane_totals.sum(axis=0).tolist()
    whole = sum(seconds)
    tokens = outcome.metrics["total_output_tokens"]
    clock = outcome.clock_hz
    lines = [f"{'resource':<14} {'operator':<13} {'share':>7} {'ms/token':>10} {'cycles/token':>14}"]
    rows = sorted(zip(seconds, outcome.bill_kinds, strict=True), key=lambda row: -row[0])
    rows = [row for row in rows if row[0] > 0]
    for spent, (resource, operator) in [*rows, (whole, ("total", ""))]:
        per_token = f"{spent / tokens * 1e3:10.4f}" if tokens else f"{'-':>10}"
        cycles = f"{spent / tokens * clock:14,.0f}" if tokens and clock else f"{'-':>14}"
        share = f"{spent / whole:7.1%}" if whole else f"{'-':>7}"
        lines.append(f"{resource:<14} {operator if operator != 'none' else '':<13} {share} {per_token} {cycles}")
    return "\n".join(lines)


def html(outcome: Outcome) -> str:
    """Return a table of the latencies and a line of totals, for a notebook."""
    metrics = outcome.metrics
    statistics = ["mean", *(f"p{label(percent)}" for percent in outcome.percentiles)]
    head = "".join(f"<th>{name} (ms)</th>" for name in statistics)
    body = ""
    for name, (short, _) in titles(outcome).items():
        if name == "queue_time":
            continue
        cells = "".join(f"<td>{_with_ends(outcome, f'{statistic}_{name}_ms')}</td>" for statistic in statistics)
        body += f"<tr><th>{short}</th>{cells}</tr>"
    facts = [
        f"{metrics['completed']} of {len(outcome.records)} requests finished",
        f"{_number(metrics['request_throughput'])} req/s",
        f"{_number(metrics['output_throughput'])} output tokens/s",
        f"{_number(metrics['duration'])} s simulated",
        "small: 95 % intervals",
    ]
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table><p>{' · '.join(facts)}</p>"


def _with_ends(outcome: Outcome, key: str) -> str:
    """Return a figure with its interval below it, as HTML."""
    estimate = outcome.intervals().get(key)
    told = _number(outcome.metrics[key])
    if estimate is None:
        return told
    return f"{told}<br><small>{_ends(estimate.low, estimate.high)}</small>"


def _totals(outcome: Outcome, metrics: Metrics) -> list[str]:
    setup, counts = outcome.setup, outcome.counts
    lines = [_line("Successful requests:", metrics["completed"]), _line("Failed requests:", metrics["failed"])]
    # vLLM counts all of these as failed; the reader wants to know which.
    lines += [_line(f"  of these {status}:", counts[status]) for status in ("rejected", "cancelled") if counts[status]]
    if setup.max_concurrency is not None:
        lines.append(_line("Maximum request concurrency:", setup.max_concurrency))
    if setup.has_request_rate:
        lines.append(_line("Request rate configured (RPS):", setup.request_rate))
    lines += [
        _line("Benchmark duration (s):", metrics["duration"]),
        _line("Total input tokens:", metrics["total_input_tokens"]),
        _line("Total generated tokens:", metrics["total_output_tokens"]),
        _line("Request throughput (req/s):", metrics["request_throughput"]),
    ]
    if outcome.goodput is not None:
        lines.append(_line("Request goodput (req/s):", metrics["request_goodput"]))
    peak = metrics["max_concurrent_requests"]
    return [
        *lines,
        _line("Output token throughput (tok/s):", metrics["output_throughput"]),
        _line("Peak output token throughput (tok/s):", metrics["max_output_tokens_per_s"]),
        _line("Peak concurrent requests:", None if peak is None else float(peak)),
        _line("Total token throughput (tok/s):", metrics["total_token_throughput"]),
    ]


def _section(short: str, title: str, name: str, metrics: Metrics, percentiles: Sequence[float]) -> list[str]:
    rows = [("Mean", "mean"), ("Median", "median"), *((f"P{label(p)}", f"p{label(p)}") for p in percentiles)]
    lines = [_line(f"{word} {short} (ms):", metrics[f"{key}_{name}_ms"]) for word, key in rows]
    return [f"{title:-^{WIDTH}}", *lines]


def _drafts(outcome: Outcome) -> list[str]:
    """Return vLLM's lines about drafts, none without speculation."""
    figures = outcome.speculation
    if not figures:
        return []
    words = {
        "Acceptance rate (%):": "acceptance_rate",
        "Acceptance length:": "acceptance_length",
        "Drafts:": "num_drafts",
        "Draft tokens:": "draft_tokens",
        "Accepted tokens:": "accepted_tokens",
    }
    lines = [f"{'Speculative Decoding':-^{WIDTH}}"]
    for said, key in words.items():
        value = figures[f"spec_decode_{key}"]
        lines.append(_line(said, None if isinstance(value, list) else value))
    rates = figures["spec_decode_per_position_acceptance_rates"]
    if isinstance(rates, list):
        lines.append("Per-position acceptance (%):")
        lines += [_line(f"  Position {place}:", 100 * rate) for place, rate in enumerate(rates)]
    return lines


def _intervals(outcome: Outcome, percentiles: Sequence[float], metrics: Sequence[str]) -> list[str]:
    """Return a line of 95 % intervals for each latency that has any."""
    found = outcome.intervals(percentiles)
    words = {"request_throughput": "req/s", "output_throughput": "output tok/s", "request_goodput": "goodput req/s"}
    rates = [(said, found[key]) for key, said in words.items() if key in found]
    told = ", ".join(f"{said} {_ends(one.low, one.high)}" for said, one in rates)
    lines = [f"ci95: {told}"] if any(one.estimable for _, one in rates) else []
    for name in metrics:
        keys = ["mean", *(f"p{label(percent)}" for percent in percentiles)]
        estimates = [(key, found[f"{key}_{name}_ms"]) for key in keys if f"{key}_{name}_ms" in found]
        if any(one.estimable for _, one in estimates):
            parts = [f"{key} {_ends(one.low, one.high)}" for key, one in estimates]
            lines.append(f"ci95: {TITLES[name][0]} (ms) {', '.join(parts)}")
    return lines


def _ends(low: float | None, high: float | None) -> str:
    return "not estimable" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _line(words: str, value: float | int | None) -> str:
    if value is None:
        return f"{words:<40} {'n/a':<10}"
    return f"{words:<40} {value:<10}" if isinstance(value, int) else f"{words:<40} {value:<10.2f}"


def _objectives(outcome: Outcome) -> list[str]:
    lines = []
    for name, result in outcome.slo_results().items():
        verdict = "met" if result["pass"] else "MISSED"
        lines.append(f"{name} {_number(result['value'])} (target {_number(result['target'])}) {verdict}")
    return lines


def _bottleneck(outcome: Outcome) -> str | None:
    """Return the resource that takes most of the time in which there is something to do."""
    times = {name: seconds for name, seconds in outcome.time_by_resource().items() if name in BOTTLENECKS}
    busy = sum(times.values())
    if busy <= 0:
        return None
    name = max(times, key=lambda resource: times[resource])
    return f"{BOTTLENECKS[name]} ({times[name] / busy:.0%} of the busy time)"


def _number(value: float | bool | None) -> str:
    return "n/a" if value is None else f"{value:,.2f}"


def _share(value: float | int | None) -> str:
    return "n/a" if value is None else f"{value:.0%}"
