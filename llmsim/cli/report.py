"""``llmsim report``: one page of HTML about a run or a sweep."""

from pathlib import Path

import click

from llmsim.cli.console import common, console
from llmsim.cli.folders import run_of, sweep_in


@click.command()
@click.argument("source", metavar="FOLDER|SCENARIO")
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Where to. [FOLDER/report.html]")
@click.option("--slo", multiple=True, metavar="KEY=MS", help="Lines in the pictures of a sweep; repeatable.")
@common
def report(source: str, output: str | None, slo: tuple[str, ...]) -> None:
    """Write report.html about the run or the sweep in FOLDER, or about a run of SCENARIO.

    The page needs nothing else: pictures are in it, and a browser fetches nothing. A run is simulated again from its
    scenario.resolved.yaml, which gives the same results.
    """
    from llmsim.sweep_report import save_sweep_report

    folder = Path(source)
    target = Path(output) if output else (folder if folder.is_dir() else Path()) / "report.html"
    table = sweep_in(folder)
    if table is None:
        if slo:
            raise click.UsageError("--slo is for sweeps; a run has the objectives of its scenario")
        run_of(source).save_report(target)
    else:
        save_sweep_report(table, target, title=f"Sweep {folder.name}", slo=dict(limit(text) for text in slo))
    console().result(f"wrote {target}")


def limit(text: str) -> tuple[str, float]:
    """Return metric and milliseconds of ``p99_ttft_ms=500``."""
    name, _, value = text.replace("<=", "=").partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise click.UsageError(f"--slo: not of the form KEY=MS (got {text!r})") from None
