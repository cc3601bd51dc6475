"""The report of a sweep: a page of HTML with its pictures, a table of all points, and what could not run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsim import plot
from llmsim.errors import InputError
from llmsim.results import page
from llmsim.summaries import summarise

if TYPE_CHECKING:
    import pandas

CAPTION = (
    "Latency against load: means over the replications and their intervals. Circles are knees, behind which latency "
    "rises faster than before."
)
METRICS = ("p50_ttft_ms", "p99_ttft_ms", "p99_tpot_ms", "p99_e2el_ms", "request_throughput", "output_throughput")


def save_sweep_report(
    table: "pandas.DataFrame",
    path: str | Path,
    *,
    title: str = "Sweep",
    scenario: str | None = None,
    slo: Mapping[str, float] | None = None,
) -> Path:
    """Write the report of a sweep, one file that needs nothing else, and return its path.

    Args:
        table: what `sweep` returned, or its sweep.csv.
        path: where to.
        title: of the page.
        scenario: what all points share, as text.
        slo: the most milliseconds of latencies, by metric; each gets a picture with its line.

    Raises:
        InputError: the table is not that of a sweep, or the file cannot be written.
    """
    columns = list(table.columns)
    if "replication" not in columns:
        raise InputError("report: not the table of a sweep: it has no column 'replication'")
    keys = columns[: columns.index("replication")]
    metrics = [name for name in METRICS if name in columns]
    metrics += [name for name in slo or {} if name in columns and name not in metrics]
    means = summarise(table, metrics)
    points = len(means)
    lead = [
        f"{points} points of {', '.join(keys) or 'one scenario'}, {len(table)} runs, "
        f"{(table['status'] == 'ok').sum()} of which came to an end",
        *(f"prices: {prices}" for prices in dict.fromkeys(table["prices"].dropna()) if prices),
    ]
    sections = [
        page.section("What could not run", page.warnings(_reasons(table))),
        page.section("Pictures", *_pictures(table, slo or {})),
        page.section(
            "Points",
            "<p>Means over the replications, with half the width of their 95 % interval. Saturated: runs whose queue "
            "never stopped growing; their latencies grow with the length of the run.</p>",
            page.table(_rows(means, keys, metrics), words=[*keys, "status", "saturated"]),
        ),
        page.section("What all points share", page.text(scenario)) if scenario else "",
    ]
    return page.write(path, page.page(title, lead, sections))


def _reasons(table: "pandas.DataFrame") -> list[str]:
    counts: dict[str, int] = {}
    for reason in table["reason"].dropna():
        if reason:
            counts[reason] = counts.get(reason, 0) + 1
    return [f"{count} of {len(table)} runs: {reason}" for reason, count in counts.items()]


def _pictures(table: "pandas.DataFrame", slo: Mapping[str, float]) -> list[str]:
    """Return those pictures that the table has data for."""
    limits = {name: float(most) for name, most in slo.items() if name.endswith("_ms") and name in table.columns}
    pairs: list[tuple[tuple[str, ...], float | None]]
    pairs = [(beside(name, list(table.columns)), most) for name, most in limits.items()]
    drawn = []
    for names, most in pairs or [(("p50_ttft_ms", "p99_ttft_ms"), None)]:
        try:
            picture = plot.latency_throughput(table, y=names, slo=most)
        except InputError:  # no load was swept, or no point ran
            continue
        drawn.append(page.image(picture, CAPTION))
    try:
        caption = "Throughput against the speed of a user. On the front no other point is better in both."
        drawn.append(page.image(plot.pareto(table), caption))
    except InputError:
        pass
    return drawn


def beside(metric: str, columns: Sequence[str]) -> tuple[str, ...]:
    """Return a percentile with the median before it, where there is one."""
    median = f"p50_{metric.partition('_')[2]}"
    return (median, metric) if median in columns and median != metric else (metric,)


def _rows(means: "pandas.DataFrame", keys: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    told = "saturated" in means and bool(means["saturated"].any())
    for line in means.to_dict("records"):
        row: dict[str, Any] = {key: str(line[key]) for key in keys}
        row |= {"runs": int(line["replications"]), "status": line["status"]}
        if told:
            row["saturated"] = f"{line['saturated']} of {line['replications']}" if line["saturated"] else ""
        for metric in metrics:
            half = line[f"{metric}_hi95"] - line[metric]
            row[metric] = page.with_half(float(line[metric]), float(half))
        rows.append(row)
    return rows
