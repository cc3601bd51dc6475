"""``llmsim transform``: a model beside its pruned or distilled self: latency, memory and cost in one table."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsim.cli.catalogue import table
from llmsim.cli.console import common, console
from llmsim.cli.load_options import load_options
from llmsim.cli.options import EngineCommand, add, engine_options, option, said_of
from llmsim.cli.scenario_options import machine_options, scenario_from

if TYPE_CHECKING:
    from llmsim.comparison import Row

COST = "Cost"


@click.command(cls=EngineCommand)
@click.argument("scenario", nargs=-1, metavar="[MODEL]")
@add([
    *machine_options(),
    option("--price-per-hour", section=COST, type=click.FloatRange(min=0), metavar="X",
           help="What one device costs an hour, in any currency; without it cost is in device seconds."),
    *engine_options(),
    *load_options(),
])  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of a scenario; repeatable.")
@click.option("--seed", metavar="N", help="Of every random stream. [0]")
@common
def transform(**options: Any) -> None:
    """Simulate MODEL (a name, or a scenario file) as it is and pruned or distilled, under the same load.

    Prints latency, memory and cost side by side: under the load given, and with all its requests sent at once.
    """
    from llmsim.comparison import compare

    said = said_of(options)
    price = said.pop("price_per_hour", None)
    base = scenario_from(_with_model(said))
    if not base.model_transform.prune and base.model_transform.distill_to is None:
        raise click.UsageError("nothing is done to the model\nhint: --prune 0.5, or --distill-to layers=12")
    rows, warnings = compare(base, price_per_hour=price)
    out = console()
    for warning in warnings:
        out.warn(warning)
    if out.json:
        told = [{"what": row.what, "unit": row.unit, "before": row.before, "after": row.after} for row in rows]
        out.result(json.dumps({"rows": told, "warnings": warnings}, indent=2))
    else:
        out.result(table([_cells(row) for row in rows]))


def _with_model(said: dict[str, Any]) -> dict[str, Any]:
    """Return the options with the argument as what it is: a scenario file, or the name of a model."""
    names = said.get("scenario", ())
    if len(names) != 1 or Path(names[0]).suffix in (".yaml", ".yml"):
        return said
    return {**said, "scenario": (), "model": names[0]}


def _cells(row: "Row") -> dict[str, Any]:
    def shown(value: float | str | None) -> str:
        return value if isinstance(value, str) else "-" if value is None else f"{value:,.4g}"

    change = "-" if row.change is None else f"{row.change:+.1%}"
    return {"what": row.what, "unit": row.unit, "original": shown(row.before), "transformed": shown(row.after),
            "change": change}  # fmt: skip
