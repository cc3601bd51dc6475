"""Plots of a run: latency distributions, queue and cache, batch size, where the time went, and the worst requests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmsim.results import occupancy
from llmsim.results.estimates import Estimate
from llmsim.results.lifelines import life_lines
from llmsim.results.metrics import pooled, timings
from llmsim.results.odometer import WAITING, Floats
from llmsim.results.outcome import Outcome
from llmsim.results.percentiles import Integers, percentiles
from llmsim.results.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    VERMILION,
    YELLOW,
    dress,
    figure,
    log_scale,
    short,
    write,
)
from llmsim.results.text import titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESOURCE_COLOURS = {
    "compute": BLUE,
    "memory": ORANGE,
    "communication": GREEN,
    "launch": PURPLE,
    "host": VERMILION,
    "bubble": YELLOW,
    "waiting": PALE,
}
MOST_POINTS = 2000  # of a distribution's curve; more than a plot has pixels
MOST_BINS = 1200  # of a curve over time
MOST_BARS = 16  # replicas that get a bar of their own
LEAST_BAR = 0.003  # of the longest one: shorter ones cannot be seen
BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}  # of labels that lines run behind
MARKED = ((50, "o"), (90, "s"), (99, "D"))  # percentiles that a distribution's curve shows, and their markers


def save_plots(
    outcome: Outcome, folder: str | Path, *, kinds: Sequence[str] | None = None, form: str = "png"
) -> list[Path]:
    """Draw those of ``kinds`` (None: all `PLOTS`) that there is data for into ``folder``, and return the files.

    Args:
        outcome: the run.
        folder: where to; made when it is not there.
        kinds: names of `PLOTS`.
        form: ``png`` or ``svg``.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name in PLOTS if kinds is None else kinds:
        picture = PLOTS[name](outcome)
        if picture is not None:
            written.append(write(picture, target / f"{name}.{form}"))
    return written


def latency_cdfs(outcome: Outcome) -> "Figure | None":
    """Return the cumulative distributions of TTFT, TPOT, ITL and E2E latency (and TTFN), with marked percentiles.

    Bars through the marks are 95 % intervals; a mark without one is hollow.
    """
    records, since = outcome.measured()
    measured = timings(records)
    samples: list[tuple[str, Floats, Integers | None]] = [
        ("ttft", measured.ttft, None),
        *([("ttfn", measured.ttfn, None)] if outcome.first_tokens is not None else []),
        ("tpot", measured.tpot, None),
        ("itl", *pooled([log.client_gaps(since) for log in outcome.steps])),
        ("e2el", measured.e2el, None),
    ]
    if len(measured.e2el) == 0:
        return None
    rows = (len(samples) + 1) // 2
    picture = figure(10, 3.5 * rows)
    places = picture.subplots(rows, 2).ravel()
    for axes in places[len(samples) :]:
        axes.set_visible(False)
    known = outcome.intervals([percent for percent, _ in MARKED])
    for axes, (name, values, weights) in zip(places, samples, strict=False):
        short, title = titles(outcome)[name]
        curves = [(short, BLUE, values, weights)]
        if name == "ttft":
            curves.append(("of which queue time", ORANGE, measured.queue_time, None))
        marks = [known.get(f"p{percent}_{name}_ms") for percent, _ in MARKED]
        _cdf(axes, curves, _limits(outcome, name), marks)
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_xlabel(f"{short} (ms)")
        axes.set_ylabel("fraction of gaps" if name == "itl" else "fraction of requests")
    picture.suptitle(_title(outcome, "Latency distributions"))
    return picture


def queue_and_cache(outcome: Outcome) -> "Figure | None":
    """Return the requests running and waiting, and the blocks of the cache in use, over time."""
    edges = occupancy.grid(outcome.steps, most_bins=MOST_BINS)
    if edges is None:
        return None
    picture = figure(10, 6)
    top, bottom = picture.subplots(2, 1, sharex=True)
    colours = {"running": BLUE, "waiting": VERMILION}
    _over_time(top, [(name, colour, _summed(outcome, name, edges)) for name, colour in colours.items()])
    top.set_ylabel(f"requests{_all_replicas(outcome)}")
    blocks = outcome.setup.blocks
    scale = 100 / (blocks * len(outcome.steps)) if blocks else 1.0
    _over_time(bottom, [("in use", GREEN, _scaled(_summed(outcome, "blocks_used", edges), scale))])
    bottom.set_ylabel("KV cache in use (%)" if blocks else "KV cache in use (blocks)")
    bottom.set_xlabel("simulated time (s)")
    picture.suptitle(_title(outcome, "Queue and cache"))
    return picture


def batch_size(outcome: Outcome) -> "Figure | None":
    """Return the sequences that decode in a step, and the tokens of the batches that compute prompts, over time."""
    edges = occupancy.grid(outcome.steps, most_bins=MOST_BINS)
    if edges is None:
        return None
    picture = figure(10, 6)
    top, bottom = picture.subplots(2, 1, sharex=True)
    several = len(outcome.steps) > 1
    _over_time(top, [("decoding", BLUE, _scaled(_summed(outcome, "decodes", edges), 1 / len(outcome.steps)))])
    top.set_ylabel("decoding sequences\nper step" + (", mean of replicas" if several else ""))
    logs = [log.columns() for log in outcome.steps]
    starts, tokens, prompts = (
        np.concatenate([part[name] for part in logs]) for name in ("start_s", "decodes", "prefill_tokens")
    )
    chosen = np.flatnonzero(prompts)
    every = max(1, -(-len(chosen) // MOST_POINTS))
    chosen = chosen[::every]
    bottom.plot(starts[chosen], (tokens + prompts)[chosen], ".", color=ORANGE, markersize=3, alpha=0.7, clip_on=False)
    dress(bottom)
    if len(chosen):
        shown = (tokens + prompts)[chosen]
        log_scale(bottom.yaxis, bottom.set_yscale, shown.min(), shown.max())
    bottom.set_ylabel("tokens of a batch\nwith prompts" + (f" (one in {every})" if every > 1 else ""))
    bottom.set_xlabel("simulated time (s)")
    picture.suptitle(_title(outcome, "Batch size"))
    return picture


def time_per_kind(outcome: Outcome) -> "Figure | None":
    """Return where the time went: each replica's wall time by resource, and the busy time by operator."""
    if outcome.lane_totals is None or outcome.lane_totals.sum() <= 0:
        return None
    lanes = outcome.lane_totals
    names = [f"replica {index}" for index in range(len(lanes))]
    if len(lanes) > MOST_BARS:
        lanes, names = lanes.mean(axis=0, keepdims=True), [f"mean of {len(lanes)} replicas"]
    picture = figure(10, max(3.6, 2.2 + 0.25 * len(lanes)))
    left, right = picture.subplots(1, 2)
    shares = lanes / lanes.sum(axis=1, keepdims=True) * 100
    _stacked(left, names, {name: shares[:, _columns(outcome, name)].sum(axis=1) for name in _resources(outcome)})
    left.set_xlabel("share of wall time (%)")
    left.set_xlim(0, 100)

    per_token = outcome.lane_totals.sum(axis=0) / (outcome.metrics["total_output_tokens"] or 1) * 1e3
    busy = {kind: float(ms) for kind, ms in zip(outcome.bill_kinds, per_token, strict=True) if ms and kind != WAITING}
    by_operator: dict[str, float] = {}
    for (_, operator), milliseconds in busy.items():
        by_operator[operator] = by_operator.get(operator, 0.0) + milliseconds
    # A bar that is less than a pixel wide says nothing.
    visible = [each for each, ms in by_operator.items() if ms >= LEAST_BAR * max(by_operator.values())]
    operators = sorted(visible, key=lambda operator: -by_operator[operator])
    parts = {name: np.array([busy.get((name, each), 0.0) for each in operators]) for name in _resources(outcome)}
    _stacked(right, ["other" if name == "none" else name.replace("_", " ") for name in operators], parts)
    right.set_xlim(0, 1.05 * max(by_operator.values(), default=1.0))
    right.set_xlabel("replica time per output token (ms)")
    handles, labels = left.get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    picture.suptitle(_title(outcome, "Where the time went"))
    return picture


PLOTS: dict[str, Callable[[Outcome], "Figure | None"]] = {
    "latency_cdf": latency_cdfs,
    "queue_and_cache": queue_and_cache,
    "batch_size": batch_size,
    "time_per_kind": time_per_kind,
    "life_lines": life_lines,
}
"""Name of the file -> the function that draws it; None: the run has no data for it."""


def _limits(outcome: Outcome, metric: str) -> list[tuple[float, float]]:
    """Return percentage and milliseconds of each objective that limits a percentile of ``metric``."""
    limits = []
    for name, most_ms in (outcome.slo or {}).items():
        percent = name.removesuffix(f"_{metric}_ms").removeprefix("p")
        if name == f"p{percent}_{metric}_ms":
            limits.append((float(percent), float(most_ms)))
    return limits


def _cdf(
    axes: "Axes",
    curves: Sequence[tuple[str, str, Floats, Integers | None]],
    limits: Sequence[tuple[float, float]],
    marks: Sequence[Estimate | None],
) -> None:
    """Draw cumulative distributions of values in seconds, in milliseconds, marks of the first, and limits of an SLO."""
    drawn = []
    for name, colour, values, weights in curves:
        present = ~np.isnan(values)
        values, weights = values[present] * 1e3, None if weights is None else weights[present]
        if len(values) == 0 or (weights is not None and weights.sum() == 0):
            continue
        fractions = np.linspace(0, 1, min(MOST_POINTS, max(2, 4 * len(values))))
        curve = np.array(percentiles(values, list(fractions * 100), weights))
        drawn.append(curve)
        axes.plot(curve, fractions, color=colour, label=name, linewidth=1.6, zorder=4 - len(drawn))
        if len(drawn) == 1:
            _mark(axes, percentiles(values, [percent for percent, _ in MARKED], weights), marks, colour)
    dress(axes)
    if not drawn:
        axes.text(0.5, 0.5, "nothing to measure", ha="center", va="center", transform=axes.transAxes)
        return
    axes.set_ylim(-0.02, 1.04)
    for limited, most_ms in limits:
        # The curve must pass left of the cross.
        axes.plot([most_ms], [limited / 100], "x", color="black", markersize=8, markeredgewidth=1.8, zorder=5)
        axes.axvline(most_ms, color="black", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        text = f"SLO p{limited:g}"
        axes.annotate(text, (most_ms, 0), (-4, 2), textcoords="offset points", rotation=90, ha="right", fontsize=8)
    least = float(drawn[0].min())
    greatest = max([*(float(curve.max()) for curve in drawn), *(most_ms for _, most_ms in limits)])
    if 0 < least < greatest / 8:
        # Room for the labels on the right; a queue time of a microsecond should not stretch the axis.
        least = max(least / 10, min(float(curve[curve > 0].min(initial=least)) for curve in drawn))
        greatest *= (greatest / least) ** 0.35
        log_scale(axes.xaxis, axes.set_xscale, least, greatest)
        axes.set_xlim(least / 1.1, greatest)
    else:
        least = min(float(curve.min()) for curve in drawn)
        if greatest - least < 0.01 * greatest:  # all the same: a line in the middle, not at the edge
            least = 0.0
        axes.set_xlim(least - 0.03 * (greatest - least), greatest + 0.35 * (greatest - least) + 1e-9)
    if len(drawn) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.99), ncols=2, frameon=False, fontsize=9)


def _mark(axes: "Axes", values: Sequence[float], estimates: Sequence[Estimate | None], colour: str) -> None:
    """Mark the percentiles of a distribution, with bars for their intervals."""
    for (percent, marker), value, estimate in zip(MARKED, values, estimates, strict=True):
        height = percent / 100
        face = "white"
        if estimate is not None and estimate.low is not None and estimate.high is not None:
            face = colour
            ends = [estimate.low, estimate.high]
            axes.plot(ends, [height, height], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt", zorder=2)
        axes.plot([value], [height], marker, color=colour, markerfacecolor=face, markersize=5.5, zorder=5)
        # Below and to the right of a point of a rising curve there is no curve.
        text = f"p{percent}  {short(value)} ms"
        axes.annotate(text, (value, height), (8, -10), textcoords="offset points", fontsize=9, bbox=BEHIND)


def _over_time(axes: "Axes", curves: Sequence[tuple[str, str, occupancy.Curve]]) -> None:
    """Draw step functions: the mean in each bin, and a band from its least to its greatest value."""
    for name, colour, curve in curves:
        if (curve.greatest > curve.least).any():
            low, high = (np.append(values, values[-1]) for values in (curve.least, curve.greatest))
            axes.fill_between(curve.edges, low, high, step="post", color=colour, alpha=0.25, linewidth=0)
        axes.stairs(curve.mean, curve.edges, color=colour, label=name, linewidth=1.2, baseline=None)
        axes.set_xlim(curve.edges[0], curve.edges[-1])
    dress(axes)
    axes.set_ylim(bottom=0)
    if len(curves) > 1:
        # Above the axes, where no data is.
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9, borderaxespad=0.2)


def _stacked(axes: "Axes", names: Sequence[str], parts: dict[str, Floats]) -> None:
    """Draw one horizontal bar for each of ``names``, stacked of the ``parts`` [names] of each resource."""
    left = np.zeros(len(names))
    for resource, values in parts.items():
        colour = RESOURCE_COLOURS.get(resource, GREY)
        axes.barh(np.arange(len(names)), values, left=left, color=colour, label=resource, height=0.7)
        left = left + values
    axes.set_yticks(np.arange(len(names)), names)
    # A single bar stays a bar, and the first is on top.
    middle, half = (len(names) - 1) / 2, max(len(names), 4) / 2
    axes.set_ylim(middle + half, middle - half)
    dress(axes)
    axes.grid(axis="y", visible=False)


def _resources(outcome: Outcome) -> list[str]:
    """Return the resources that took any time, in the order of the run's kinds."""
    return [name for name, seconds in outcome.time_by_resource().items() if seconds > 0]


def _columns(outcome: Outcome, resource: str) -> list[bool]:
    return [name == resource for name, _ in outcome.bill_kinds]


def _summed(outcome: Outcome, name: str, edges: Floats) -> occupancy.Curve:
    return occupancy.total([occupancy.curve(log, log.columns()[name], edges) for log in outcome.steps])


def _scaled(curve: occupancy.Curve, factor: float) -> occupancy.Curve:
    return occupancy.Curve(curve.edges, curve.mean * factor, curve.least * factor, curve.greatest * factor)


def _title(outcome: Outcome, what: str) -> str:
    setup = outcome.setup
    return "  ·  ".join(part for part in (what, setup.model, setup.devices, setup.plan) if part)


def _all_replicas(outcome: Outcome) -> str:
    return f", all {len(outcome.steps)} replicas" if len(outcome.steps) > 1 else ""
