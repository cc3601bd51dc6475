"""Pictures: of a run, and of the table of a sweep.  Each function returns a matplotlib figure, and a notebook shows it.

>>> llmsim.plot.latency_cdfs(run)                                                      # doctest: +SKIP
>>> llmsim.plot.latency_throughput(llmsim.summarise(table, ["p99_ttft_ms"]), slo=500)  # doctest: +SKIP
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsim import fronts
from llmsim.errors import InputError
from llmsim.fronts import SPEED, YIELD
from llmsim.gates import more_is_better
from llmsim.results.lifelines import life_lines
from llmsim.results.odometer import Floats
from llmsim.results.plots import PLOTS, batch_size, latency_cdfs, queue_and_cache, time_per_kind
from llmsim.results.style import CYCLE, GREY, MARKERS, dress, figure, log_scale, short

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PLOTS",
    "batch_size",
    "latency_cdfs",
    "latency_throughput",
    "life_lines",
    "pareto",
    "queue_and_cache",
    "time_per_kind",
]

RATES = ("request_rate", "concurrency", "speedup", "users")  # last words of keys that say how much is asked
SOLID, DASHED = "-", (0, (2, 1.5))
LEAST_BEND = 0.2  # of the height of a curve: one that bends less has no knee
_LATENCIES = {"ttft": "time to first token", "ttfn": "time to first N tokens", "tpot": "time per output token",
              "itl": "inter-token latency", "e2el": "end-to-end latency", "queue_time": "queue time"}  # fmt: skip
_AXES = {SPEED: "speed of a user (output tokens/s)", YIELD: "throughput of a device (output tokens/s)",
         "request_throughput": "throughput (requests/s)", "output_throughput": "throughput (output tokens/s)",
         "total_token_throughput": "throughput (tokens/s)", "request_goodput": "goodput (requests/s)",
         "duration": "duration (s)", "devices": "devices (count)"}  # fmt: skip
_X_NAMES = {"request_rate": "request rate (requests/s)", "concurrency": "concurrent users (count)",
            "speedup": "speed of the trace (x)", "users": "users (count)"}  # fmt: skip


def latency_throughput(
    table: "pandas.DataFrame",
    *,
    y: str | Sequence[str] = ("p50_ttft_ms", "p99_ttft_ms"),
    hue: str | None = None,
    x: str | None = None,
    slo: float | None = None,
    confidence: float = 0.95,
) -> "Figure":
    """Draw a latency against the load, with the knee of each curve and the limit of an SLO.

    A curve goes through the means over replications; bands are their intervals.  The knee is the point that lies
    farthest below the straight line between the ends of a curve, both axes scaled to 0..1 (Satopaa and others 2011,
    "Finding a 'Kneedle' in a haystack"), so it depends on the range that was swept; a curve that hardly bends has none.
    Points that could not run are left out.  Those with replications whose queue never stopped growing are hollow: their
    latencies grow with the length of the run.

    Args:
        table: what `sweep` or `summarise` returned.
        y: one metric or several, in ms; the columns of the table.  What the table lacks of the default is left out.
        hue: the swept key that tells the curves apart; default: all the others.
        x: the swept key of the load; default: the one that ends in request_rate, concurrency, speedup or users.
        slo: most milliseconds.  The highest load of each curve that keeps it is written into the legend.
        confidence: of the intervals, where ``table`` is that of `sweep`.

    Raises:
        InputError: the table has no such columns, or there is nothing in it to draw.
    """
    names = [y] if isinstance(y, str) else list(y)
    means, keys = _means(table, names, confidence)
    names = [name for name in names if name in means.columns]
    across = _load_key(keys) if x is None else _key(keys, x, "x")
    hues = [key for key in keys if key != across] if hue is None else [_key(keys, hue, "hue")]
    picture = figure(8, 5.2)
    axes = picture.subplots()
    shown: list[float] = []
    overloaded = False
    for place, (label, lines) in enumerate(_groups(means, hues)):
        for dash, name in enumerate(names):
            curve = _curve(lines, across, name)
            if not len(curve[0]):
                continue
            shown += [value for part in curve[1:] for value in part.tolist() if math.isfinite(value)]
            solid = dash == len(names) - 1
            _draw_curve(axes, curve, place, solid)
            overloaded |= _hollow(axes, curve, _saturated(lines, across), place)
            if solid:
                _entry(axes, place, label, _kept(curve, slo))
    if not shown:
        raise InputError("latency_throughput: no point of the table ran")
    if slo is not None:
        axes.axhline(slo, color="black", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        # The left end, where curves are low.
        axes.annotate(f"SLO {short(slo)} ms", (0, slo), (4, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=9)  # fmt: skip
        shown.append(slo)
    positive = [value for value in shown if value > 0]
    if max(positive) > 4 * min(positive):
        log_scale(axes.yaxis, axes.set_yscale, min(positive), max(positive))
    axes.set_xlabel(_X_NAMES.get(across.rpartition(".")[2], f"{across} (as swept)"))
    axes.set_ylabel(f"{_shared_words(names)} (ms)")
    dress(axes)
    for dash, name in enumerate(names if len(names) > 1 else ()):
        axes.plot([], [], color=GREY, linestyle=SOLID if dash == len(names) - 1 else DASHED, label=_words(name))
    if overloaded:
        axes.plot([], [], "o", color=GREY, markerfacecolor="white", markersize=5, label="saturated")
    _legend(axes, picture)
    picture.suptitle("Latency against load" + _by(hues))
    return picture


def pareto(table: "pandas.DataFrame", *, hue: str | None = None, x: str = SPEED, y: str = YIELD) -> "Figure":
    """Draw what plans and loads trade for each other, with the front of points that no other beats in both.

    By default that is throughput per device against speed per user; what is better is said in `llmsim.pareto`.

    Args:
        table: what `sweep` or `pareto` returned; the latter has its ``x`` and ``y`` already.
        hue: the swept key that tells plans apart; default: all that are no load.
        x: a metric, or ``speed_per_user``.
        y: a metric, or ``throughput_per_gpu``.

    Raises:
        InputError: the table has no such columns, or there is nothing in it to draw.
    """
    points = table if "front" in table.columns else fronts.pareto(table, x, y)
    columns = list(points.columns)
    keys = columns[: columns.index("devices")]
    x, y = columns[columns.index("replications") + 1 : columns.index("front")]
    hues = [key for key in keys if key.rpartition(".")[2] not in RATES] if hue is None else [_key(keys, hue, "hue")]
    best = points[points["front"].astype(bool)].sort_values([x, y])
    if not len(best):
        raise InputError("pareto: no point of the table ran")
    picture = figure(8, 5.4)
    axes = picture.subplots()
    for place, (label, lines) in enumerate(_groups(_by_keys(points, keys), hues)):
        curve = _curve(lines, _load_or(keys, x), x), _curve(lines, _load_or(keys, x), y)
        colour, marker = CYCLE[place % len(CYCLE)], MARKERS[place % len(MARKERS)]
        axes.plot(curve[0][1], curve[1][1], color=colour, marker=marker, markersize=6, linewidth=1.2, zorder=3)
        _entry(axes, place, label)
    # Where more is better of both, what lies between two points of the front is a step.
    climbs = all(name in (SPEED, YIELD) or more_is_better(name) for name in (x, y))
    axes.plot(
        best[x],
        best[y],
        drawstyle="steps-pre" if climbs else "default",
        color=GREY,
        linewidth=5,
        alpha=0.45,
        zorder=1,
        label="front",
    )
    axes.set_xlabel(_axis(x))
    axes.set_ylabel(_axis(y))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    dress(axes)
    _legend(axes, picture)
    said = "Throughput against speed" if (x, y) == (SPEED, YIELD) else "What no other point beats"
    picture.suptitle(said + _by(hues))
    return picture


def knee(x: Floats, y: Floats) -> int | None:
    """Return the index of the knee of a rising curve, None when it has less than four points or hardly bends.

    Source: see `latency_throughput`.
    """
    if len(x) < 4 or y[-1] <= y[0]:
        return None
    below = (x - x[0]) / (x[-1] - x[0]) - (y - y[0]) / (y[-1] - y[0])
    index = int(below.argmax())
    return index if below[index] >= LEAST_BEND else None


# ---------------------------------------------------------------------- tables

Line = dict[str, Any]
Curve = tuple[Floats, Floats, Floats, Floats]  # x, mean, low, high


def _means(
    table: "pandas.DataFrame", metrics: Sequence[str], confidence: float
) -> tuple["pandas.DataFrame", list[str]]:
    """Return a row for each point with the means of the metrics, and the swept keys."""
    from llmsim.summaries import summarise

    columns = list(table.columns)
    there = [name for name in metrics if name in columns]
    if not there:
        raise InputError(f"plot: the table has none of {', '.join(metrics)}\nhint: llmsim.summarise(table, [...])")
    if "replication" in columns:
        return summarise(table, there, confidence=confidence), columns[: columns.index("replication")]
    if "replications" not in columns:
        raise InputError("plot: not the table of a sweep: it has no column 'replication' or 'replications'")
    return table, columns[: columns.index("replications")]


def _key(keys: Sequence[str], name: str, option: str) -> str:
    """Return the swept key called ``name`` or ending in it."""
    found = [key for key in keys if key == name] or [key for key in keys if key.rpartition(".")[2] == name]
    if not found:
        raise InputError(f"plot: {option}: {name!r} was not swept\nhint: swept keys are {', '.join(keys)}")
    return found[0]


def _load_key(keys: Sequence[str]) -> str:
    for word in RATES:
        for key in keys:
            if key.rpartition(".")[2] == word:
                return key
    raise InputError(f"plot: no load was swept\nhint: name the key with x=; swept keys are {', '.join(keys)}")


def _by(hues: Sequence[str]) -> str:
    return f", by {' and '.join(key.rpartition('.')[2] for key in hues)}" if hues else ""


def _groups(means: "pandas.DataFrame", hues: Sequence[str]) -> list[tuple[str, list[Line]]]:
    """Return the lines of each combination of values of ``hues``, with a label, in the order of the table."""
    groups: dict[str, list[Line]] = {}
    for row in means.to_dict("records"):
        line = {str(name): value for name, value in row.items()}
        label = ", ".join(f"{key.rpartition('.')[2]} {_value(line[key])}" for key in hues)
        groups.setdefault(label, []).append(line)
    return list(groups.items())


def _value(value: Any) -> str:
    return str(value["name"]) if isinstance(value, dict) and "name" in value else str(value)


def _curve(lines: Sequence[Line], across: str, name: str) -> Curve:
    """Return x, mean and the ends of the interval of the points that ran, by x; NaN where there is no interval."""
    low_name = next((key for key in lines[0] if key.startswith(f"{name}_lo")), None)
    high_name = next((key for key in lines[0] if key.startswith(f"{name}_hi")), None)
    rows = [
        (float(line[across]), float(line[name]), float(line[low_name]) if low_name else math.nan,
         float(line[high_name]) if high_name else math.nan)
        for line in lines if math.isfinite(line[name])
    ]  # fmt: skip
    columns = np.array(sorted(rows)).reshape(-1, 4).T
    return columns[0], columns[1], columns[2], columns[3]


def _by_keys(points: "pandas.DataFrame", keys: Sequence[str]) -> "pandas.DataFrame":
    """Return the points in the order of their keys, as far as these have one."""
    try:
        return points.sort_values(list(keys), kind="stable")
    except TypeError:  # a mapping, or numbers beside texts
        return points


def _load_or(keys: Sequence[str], otherwise: str) -> str:
    """Return the swept load, along which a curve of points runs, or ``otherwise``."""
    return next((key for key in keys if key.rpartition(".")[2] in RATES), otherwise)


# ---------------------------------------------------------------------- drawing


def _draw_curve(axes: "Axes", curve: Curve, place: int, solid: bool) -> None:
    """Draw one curve and its band, and, if it is the solid one of its colour, its knee."""
    x, mean, low, high = curve
    colour = CYCLE[place % len(CYCLE)]
    marker = MARKERS[place % len(MARKERS)]
    style, width = (SOLID, 1.7) if solid else (DASHED, 1.1)
    axes.plot(x, mean, linestyle=style, color=colour, marker=marker, markersize=5, linewidth=width, zorder=3)
    if np.isfinite(low).any():
        floor = np.where(low > 0, low, mean / 3)  # a logarithmic axis has no place below zero
        axes.fill_between(x, floor, high, color=colour, alpha=0.15, linewidth=0)
    bend = knee(x, mean) if solid else None
    if bend is not None:
        at = (x[bend], mean[bend])
        axes.plot(
            *at, "o", markersize=14, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.6, zorder=4
        )
        axes.annotate(f"knee {x[bend]:g}", at, (9, -12), textcoords="offset points", fontsize=9, color=colour)


def _saturated(lines: Sequence[Line], across: str) -> list[float]:
    """Return the loads at which replications were saturated."""
    return [float(line[across]) for line in lines if line.get("saturated")]


def _hollow(axes: "Axes", curve: Curve, loads: Sequence[float], place: int) -> bool:
    """Make the markers at ``loads`` hollow; say whether there are any."""
    x, mean, _, _ = curve
    these = np.isin(x, loads)
    colour, marker = CYCLE[place % len(CYCLE)], MARKERS[place % len(MARKERS)]
    axes.plot(x[these], mean[these], marker, color=colour, markerfacecolor="white", markersize=5, zorder=5)
    return bool(these.any())


def _kept(curve: Curve, slo: float | None) -> str:
    """Return up to which load the means of a curve keep the SLO: the last one before the first that breaks it."""
    x, mean, _, _ = curve
    if slo is None:
        return ""
    broken = np.flatnonzero(mean > slo)
    if not len(broken):
        return "keeps the SLO throughout"
    kept = x[: broken[0]]
    return f"keeps the SLO to {kept[-1]:g}" if len(kept) else "never keeps the SLO"


def _entry(axes: "Axes", place: int, *words: str) -> None:
    """Put the colour of a curve into the legend, if there is anything to say of it."""
    text = ": ".join(word for word in words if word)
    if text:
        colour, marker = CYCLE[place % len(CYCLE)], MARKERS[place % len(MARKERS)]
        axes.plot([], [], color=colour, marker=marker, markersize=5, linewidth=1.7, label=text)


def _legend(axes: "Axes", picture: "Figure") -> None:
    """Put the legend below the axes, where no data is."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        picture.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _axis(metric: str) -> str:
    """Return the label of an axis for a metric, with its unit."""
    if metric in _AXES:
        return _AXES[metric]
    return f"{_words(metric)} (ms)" if metric.endswith("_ms") else _words(metric)


def _words(metric: str) -> str:
    """Return a metric in words, without its unit: ``p99 time to first token``."""
    statistic, _, rest = metric.removesuffix("_ms").partition("_")
    return f"{statistic} {_LATENCIES[rest]}" if rest in _LATENCIES else metric.replace("_", " ")


def _shared_words(metrics: Sequence[str]) -> str:
    """Return what all metrics have in common, in words."""
    kinds = list(dict.fromkeys(metric.removesuffix("_ms").partition("_")[2] for metric in metrics))
    return _words(metrics[0]) if len(metrics) == 1 else " / ".join(_LATENCIES.get(kind, kind) for kind in kinds)
