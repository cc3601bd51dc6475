"""``llmsim plot``: pictures of a run or of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmsim.cli.console import common, console
from llmsim.cli.folders import run_of, sweep_in

if TYPE_CHECKING:
    import pandas

RUN_KINDS = ("latency_cdf", "queue_and_cache", "batch_size", "time_per_kind", "life_lines")
SWEEP_KINDS = ("latency_throughput", "pareto")


@click.command()
@click.argument("source", metavar="FOLDER|SCENARIO")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([*RUN_KINDS, *SWEEP_KINDS]),
    metavar="NAME",
    help=f"Repeatable. Of a run: {', '.join(RUN_KINDS)}; of a sweep: {', '.join(SWEEP_KINDS)}. [all]",
)
@click.option("-o", "--output-dir", type=click.Path(file_okay=False), help="Folder. [FOLDER/plots]")
@click.option("--format", "form", type=click.Choice(["png", "svg"]), default="png", help="[png]")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Of latency_throughput, in ms; repeatable. [p50_ttft_ms, p99_ttft_ms]",
)
@click.option("--hue", metavar="KEY", help="Swept key that tells curves apart. [all but the load]")
@click.option("--slo", metavar="KEY=MS", help="Line of latency_throughput, of the metric KEY; or MS alone.")
@common
def plot(
    source: str, kinds: tuple[str, ...], output_dir: str | None, form: str, metrics: tuple[str, ...], hue: str | None,
    slo: str | None,
) -> None:  # fmt: skip
    """Draw the run or the sweep in FOLDER, or a run of SCENARIO.

    A run is simulated again from its scenario.resolved.yaml, which gives the same results.
    """
    folder = Path(source)
    table = sweep_in(folder)
    possible = RUN_KINDS if table is None else SWEEP_KINDS
    for kind in kinds:
        if kind not in possible:
            what = "run" if table is None else "sweep"
            raise click.UsageError(f"--kind: {kind} is not a picture of a {what}\nhint: {', '.join(possible)}")
    target = Path(output_dir) if output_dir else (folder if folder.is_dir() else Path()) / "plots"
    if table is None:
        from llmsim.results.plots import save_plots

        if slo is not None:
            raise click.UsageError("--slo is for sweeps; a run has the objectives of its scenario")
        written = save_plots(run_of(source), target, kinds=kinds or None, form=form)
    else:
        metrics, line = _limited(metrics, slo, list(table.columns))
        written = _draw(table, target, kinds, form, metrics, hue, line)
    if not written:
        console().warn("there is no data for a picture")
    for path in written:
        console().result(f"wrote {path}")


def _limited(metrics: tuple[str, ...], slo: str | None, columns: Sequence[str]) -> tuple[tuple[str, ...], float | None]:
    """Return the metrics to draw, those of the SLO where none are named, and its milliseconds."""
    if slo is None:
        return metrics, None
    name, given, value = slo.replace("<=", "=").partition("=")
    try:
        most = float(value if given else slo)
    except ValueError:
        most = 0.0
    if most <= 0:
        raise click.UsageError(f"--slo: not of the form KEY=MS, with MS above 0 (got {slo!r})")
    if not given or metrics:
        return metrics, most
    from llmsim.sweep_report import beside

    return beside(name.strip(), columns), most


def _draw(
    table: "pandas.DataFrame", target: Path, kinds: tuple[str, ...], form: str, metrics: tuple[str, ...],
    hue: str | None, slo: float | None,
) -> list[Path]:  # fmt: skip
    """Draw a sweep; a picture that was asked for by name must be possible."""
    from llmsim import plot as pictures
    from llmsim.errors import InputError
    from llmsim.results.style import write

    written = []
    for kind in kinds or SWEEP_KINDS:
        try:
            if kind == "pareto":
                picture = pictures.pareto(table, hue=hue)
            else:
                names = metrics or ("p50_ttft_ms", "p99_ttft_ms")
                picture = pictures.latency_throughput(table, y=names, hue=hue, slo=slo)
        except InputError:
            if kinds:
                raise
            continue
        target.mkdir(parents=True, exist_ok=True)
        written.append(write(picture, target / f"{kind}.{form}"))
    return written
