"""``llmsim trace``: describe a trace, convert it, or write a generated one."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from llmsim.cli.console import common, console
from llmsim.cli.load_options import load_options, named_columns
from llmsim.cli.options import SectionedCommand, add, said_of
from llmsim.cli.scenario_options import scenario_from

_FORMAT = click.option("--format", "format_", default="auto", metavar="NAME", help="Say which format it is. [auto]")
_COLUMNS = click.option(
    "--columns", metavar="WHAT=NAME,...", help="Which column is which: time=when,prompt=tokens_in,output=tokens_out."
)
_TO = click.option(
    "--to", default="csv", metavar="NAME", help="Format to write: csv, mooncake, vllm, azure or vidur. [csv]"
)
_LONGEST = 2**62  # tokens: a trace is written whole, whatever window a model has


@click.group()
def trace() -> None:
    """Describe, convert or generate traces."""


@trace.command()
@click.argument("file")
@_FORMAT
@_COLUMNS
@common
def info(file: str, format_: str, columns: str | None) -> None:
    """Say what is in FILE: requests, span, rate, burstiness, token percentiles, prefix re-use."""
    from llmsim.workload.info import trace_info
    from llmsim.workload.readers.rows import ReadOptions

    found = trace_info(file, format_, ReadOptions(columns=named_columns(columns)))
    out = console()
    if out.json:
        out.result(json.dumps(asdict(found), indent=2, default=str))
    else:
        out.result(found.text())


@trace.command()
@click.argument("source")
@click.argument("target")
@_TO
@_FORMAT
@_COLUMNS
@click.option("--speedup", type=float, default=1.0, metavar="X", help="2 halves all times. [1]")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="First N requests only.")
@click.option("--start-s", type=float, metavar="S", help="Leave out what comes before.")
@click.option("--stop-s", type=float, metavar="S", help="Leave out what comes from then on.")
@click.option("--thin", type=click.FloatRange(0, 1, min_open=True), metavar="P", help="Chance to keep a request.")
@click.option("--jitter-s", type=float, metavar="S", help="Spread rounded stamps over S seconds.")
@common
def convert(source: str, target: str, to: str, format_: str, columns: str | None, **options: Any) -> None:
    """Write the trace SOURCE to TARGET in another format; a TARGET that ends in .gz is compressed."""
    from llmsim.workload.convert import convert as convert_trace
    from llmsim.workload.readers.rows import ReadOptions
    from llmsim.workload.replay import TraceOptions

    chosen = TraceOptions(**options, read=ReadOptions(columns=named_columns(columns)))
    written = convert_trace(source, target, to, format=format_, options=chosen)
    _done(written, target, to)


@trace.command(cls=SectionedCommand)
@click.argument("target")
@click.argument("scenario", nargs=-1)
@_TO
@add(load_options())
@click.option("--seed", metavar="N", help="Of every random stream. [0]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of a scenario; repeatable.")
@common
def generate(target: str, to: str, **options: Any) -> None:
    """Write the requests of a workload to TARGET: of a SCENARIO file, or of the load options."""
    from llmsim.schema import resolve
    from llmsim.workload.build import build
    from llmsim.workload.convert import generate as write_requests

    said = said_of(options)
    resolved = resolve(scenario_from(said))
    workload = build(resolved.workload, seed=resolved.seed, max_model_len=_LONGEST)
    console().note(workload.description)
    _done(write_requests(workload, target, to), target, to)


def _done(written: int, target: str, to: str) -> None:
    out = console()
    if out.json:
        out.result(json.dumps({"requests": written, "path": target, "format": to}))
    else:
        out.text(f"{written:,} requests written to {Path(target)} ({to})")
