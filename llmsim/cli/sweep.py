"""``llmsim sweep``: a scenario at every point of a grid, side by side, with replications and paired differences."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import product
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsim.cli.axes import parse_axis
from llmsim.cli.catalogue import table
from llmsim.cli.console import common, console
from llmsim.cli.load_options import load_options
from llmsim.cli.options import EngineCommand, add, engine_options, option, said_of
from llmsim.cli.parameter_files import options_of
from llmsim.cli.pasted import pasted_options, read_bench, read_serve
from llmsim.cli.progress import Bar
from llmsim.cli.scenario_options import machine_options, points_from, scenario_from
from llmsim.errors import InfeasibleError

if TYPE_CHECKING:
    import pandas

SWEEP = "Sweep"
DEFAULT_METRICS = "mean_ttft_ms,p99_ttft_ms,mean_tpot_ms,output_throughput"
STOPPED = 5


@click.command(cls=EngineCommand)
@click.argument("scenario", nargs=-1)
@add([
    option("--set", "settings", section=SWEEP, multiple=True, metavar="KEY=A,B,C",
           help="Sweep a key over values, or FIRST:LAST:STEP, or FIRST:LAST:xFACTOR; one value: set it. Repeatable."),
    option("--serve-params", section=SWEEP, metavar="FILE", help="Engine points, as of `vllm bench sweep`."),
    option("--bench-params", section=SWEEP, metavar="FILE", help="Load points, likewise; all pairs are swept."),
    option("--replications", section=SWEEP, type=click.IntRange(1), metavar="N",
           help="Runs of each point, with seeds of their own, the same at all points. [3; 1 where nothing is random]"),
    option("--metrics", section=SWEEP, default=DEFAULT_METRICS, metavar="NAMES", help=f"Shown. [{DEFAULT_METRICS}]"),
    option("--first-tokens", section=SWEEP, metavar="N", help="Also time until the first N output tokens, ttfn."),
    option("--compare", section=SWEEP, metavar="KEY", help="Also print paired differences over this swept key."),
    option("--baseline", section=SWEEP, metavar="VALUE", help="Its value to compare with. [the first]"),
    option("--pareto", section=SWEEP, is_flag=True, help="Also print which points no other one beats in X and Y."),
    option("--pareto-x", section=SWEEP, default="speed_per_user", metavar="METRIC", help="X. [speed_per_user]"),
    option("--pareto-y", section=SWEEP, default="throughput_per_gpu", metavar="METRIC", help="Y. [throughput_per_gpu]"),
    option("-j", "--jobs", section=SWEEP, type=int, default=-1, metavar="N", help="Processes. [-1: one for each core]"),
    option("--joblib-backend", section=SWEEP, metavar="NAME", help="loky, threading, dask or ray. [loky]"),
    option("-o", "--output-dir", section=SWEEP, type=click.Path(file_okay=False), help="Folder. [runs/sweep_HASH]"),
    option("--resume", section=SWEEP, is_flag=True, help="Go on where the last sweep into this folder ended."),
    option("--time-limit", section=SWEEP, type=click.FloatRange(min=0, min_open=True), metavar="S",
           help="Stop a run after that long."),
    option("--dry-run", section=SWEEP, is_flag=True, help="Print the points; no run."),
    *pasted_options(),
    *machine_options(),
    *engine_options(),
    *load_options(),
])  # fmt: skip
@click.option("--name", metavar="TEXT", help="Name of the scenario. [model and device]")
@click.option("--seed", metavar="N", help="Of replication 0. [0]")
@click.option("--warmup", metavar="N|TIME", help="Requests, or 30s, or auto: left out of the metrics. [0]")
@common
@click.pass_context
def sweep(context: click.Context, /, **options: Any) -> None:
    """Simulate SCENARIO at every point of a grid.

    Prints the mean of each metric over the replications with its 95 % interval; writes sweep.csv (a row for each run),
    summary.csv and, with --compare, paired.csv, with --pareto, pareto.csv. A point that cannot run is a row with a
    reason.
    """
    import llmsim
    from llmsim.sweeps import usual_replications

    base, over = _ask(options)
    metrics = [name for name in options["metrics"].split(",") if name]
    if options["dry_run"]:
        _print_points(over, options["replications"] or usual_replications(base, over))
        return
    _check(base, over, metrics, options["compare"])
    folder = Path(options["output_dir"] or f"runs/sweep_{base.sha256[:8]}")
    checkpoint = folder / "sweep.jsonl"
    if not options["resume"]:
        checkpoint.unlink(missing_ok=True)
    out = console()
    with Bar(wanted=not (out.quiet or out.json)) as bar:
        runs = llmsim.sweep(
            base,
            over,
            replications=options["replications"],
            n_jobs=options["jobs"],
            backend=options["joblib_backend"],
            time_limit_s=options["time_limit"],
            checkpoint=checkpoint,
            progress=lambda done, total: bar.show(f"{done} of {total} runs", done, total),
        )
    tables = {"sweep": runs, "summary": llmsim.summarise(runs, metrics)}
    if options["compare"]:
        baseline = None if options["baseline"] is None else parse_axis(f"value={options['baseline']}")[1][0]
        tables["paired"] = llmsim.paired(runs, options["compare"], metrics, baseline=baseline)
    if options["pareto"]:
        tables["pareto"] = llmsim.pareto(runs, options["pareto_x"], options["pareto_y"])
    _report(tables, metrics, folder)
    if "stopped" in set(runs["status"]):
        context.exit(STOPPED)
    if set(runs["status"]) == {"infeasible"}:
        context.exit(InfeasibleError.exit_code)


def _ask(options: Mapping[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """Return the scenario of all points, and the points."""
    axes = dict(parse_axis(text) for text in options["settings"])
    over = {key: values for key, values in axes.items() if len(values) > 1}
    fixed = [text for text in options["settings"] if parse_axis(text)[0] not in over]
    names = ("settings", "metrics", "replications", "jobs", "joblib_backend", "time_limit", "serve_params",
             "bench_params", "pareto", "pareto_x", "pareto_y")  # fmt: skip
    said = said_of(options, names)
    files = _from_files(said, options["serve_params"], options["bench_params"])
    if not over and len(files) < 2:
        raise click.UsageError("nothing is swept\nhint: for example --set engine.max_num_seqs=64,128,256")
    grid = [dict(zip(over, values, strict=True)) for values in product(*over.values())]
    return scenario_from({**said, "settings": tuple(fixed)}), [{**one, **other} for one in files for other in grid]


def _from_files(said: Mapping[str, Any], serve: str | None, bench: str | None) -> list[dict[str, Any]]:
    """Return the points of vLLM's parameter files: all pairs of an engine and a load; one empty point without files."""
    engines = options_of(serve, read_serve) if serve else [{}]
    loads = options_of(bench, read_bench) if bench else [{}]
    return points_from(said, ({**one, **other} for one, other in product(engines, loads)))


def _check(base: Any, over: Sequence[Mapping[str, Any]], metrics: Sequence[str], compare: str | None) -> None:
    """Find out before the first run whether the tables can be made."""
    from llmsim.results.metrics import measure

    output = base.output
    known = measure([], percentiles=output.percentiles, first_tokens=output.first_tokens is not None)
    for name in metrics:
        if name not in known:
            close = get_close_matches(name, known, n=3) or ["p99_ttft_ms", "output_throughput"]
            raise click.UsageError(f"--metrics: no metric {name!r}\nhint: {', '.join(close)}")
    swept = list(dict.fromkeys(key for point in over for key in point))
    if compare is not None and compare not in swept:
        raise click.UsageError(f"--compare: {compare!r} is not swept\nhint: swept are {', '.join(swept)}")


def _print_points(points: Sequence[Mapping[str, Any]], replications: int) -> None:
    keys = dict.fromkeys(key for point in points for key in point)
    rows = [{key: _shown(point[key]) if key in point else None for key in keys} for point in points]
    console().result(table(rows))
    console().text(f"{len(points)} points x {replications} replications = {len(points) * replications} runs")


def _report(tables: Mapping[str, "pandas.DataFrame"], metrics: Sequence[str], folder: Path) -> None:
    """Print and write the tables."""
    out = console()
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in tables.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    if out.json:
        import json

        told = {name: json.loads(frame.to_json(orient="records")) for name, frame in tables.items()}
        out.result(json.dumps(told, indent=2))
    else:
        out.result(points(tables["summary"], metrics))
        if "paired" in tables:
            out.result("\n" + comparison(tables["paired"]))
        if "pareto" in tables:
            out.result("\n" + front(tables["pareto"]))
    for prices in dict.fromkeys(tables["sweep"]["prices"]):
        if prices:
            out.text(f"prices: {prices}")
    saturated = int(tables["summary"]["saturated"].sum())
    if saturated:
        out.warn(
            f"{saturated} runs are saturated: their queues never stopped growing, so their latencies say how long "
            "they ran"
        )
    for reason, count in _reasons(tables["sweep"]).items():
        out.warn(f"{count} runs: {reason}")
    if "stopped" in set(tables["sweep"]["status"]):
        out.note("hint: the same command with --resume goes on from here")
    out.text(f"\nwrote {', '.join(f'{name}.csv' for name in tables)} to {folder}/")


def points(summary: "pandas.DataFrame", metrics: Sequence[str]) -> str:
    """Return the table of what `llmsim.summarise` found: a row for each point, means with half their intervals."""
    rows = []
    any_failed = bool((summary["status"] != "ok").any())
    told = "saturated" in summary and bool(summary["saturated"].any())
    for line in summary.to_dict("records"):
        keys = [key for key in line if key == "replications" or key in list(summary.columns)[: _first(summary)]]
        row = {str(key): _shown(line[key]) for key in keys}
        if any_failed:
            row["status"] = line["status"]
        if told:
            row["saturated"] = f"{line['saturated']} of {line['replications']}" if line["saturated"] else "-"
        for metric in metrics:
            half = line[f"{metric}_hi95"] - line[metric]
            row[metric] = _figure(line[metric], ",.4g") + (f" +- {half:.2g}" if isfinite(half) else "")
        rows.append(row)
    return table(rows)


def _figure(value: float, form: str) -> str:
    """Return a number, or a dash where there is none."""
    return format(value, form) if isfinite(value) else "-"


def _first(summary: "pandas.DataFrame") -> int:
    return list(summary.columns).index("replications")


def comparison(paired: "pandas.DataFrame") -> str:
    """Return the table of what `llmsim.paired` found: a row for each difference, with its interval."""
    rows = []
    for line in paired.to_dict("records"):
        names = list(line)
        row = {str(key): _shown(line[key]) for key in names[: names.index("baseline")]}
        row["baseline"] = _figure(line["baseline"], ",.4g")
        row["difference"] = _figure(line["difference"], "+,.4g")
        # One pair says nothing of the luck in it.
        several = line["pairs"] > 1
        told = f"[{line['lo95']:+,.4g}, {line['hi95']:+,.4g}]" if several else "one pair" if line["pairs"] else "-"
        row["95 % interval"] = told
        row["%"] = _figure(line["percent"], "+.1f")
        row["differs"] = ("yes" if line["differs"] else "no") if several else "-"
        rows.append(row)
    return table(rows)


def front(points: "pandas.DataFrame") -> str:
    """Return the table of the points that `llmsim.pareto` found on the front."""
    rows = [
        {str(key): f"{value:,.4g}" if isinstance(value, float) and key in list(points.columns)[-3:-1] else _shown(value)
         for key, value in line.items() if key != "front"}
        for line in points.to_dict("records")
        if line["front"]
    ]  # fmt: skip
    return f"on the front, {len(rows)} of {len(points)} points:\n{table(rows)}"


def _reasons(runs: "pandas.DataFrame") -> dict[str, int]:
    """Return why runs have no metrics, and how many of each."""
    counts: dict[str, int] = {}
    for reason in runs["reason"]:
        if reason:
            counts[reason] = counts.get(reason, 0) + 1
    return counts


def _shown(value: Any) -> Any:
    """Return a value of an axis as one cell."""
    if isinstance(value, Mapping):
        with suppress(KeyError):
            rest = ", ".join(f"{key}={inner}" for key, inner in value.items() if key != "name")
            return f"{value['name']}({rest})"
    return value if isinstance(value, int | float | str) else str(value)
