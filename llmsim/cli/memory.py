"""``llmsim memory``: what a scenario takes of its devices' memory, each number with its formula and source."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from llmsim.cli.catalogue import table
from llmsim.cli.console import common, console
from llmsim.cli.load_options import load_options
from llmsim.cli.options import EngineCommand, add, engine_options, said_of
from llmsim.cli.pasted import pasted_options
from llmsim.cli.scenario_options import machine_options, scenario_from

if TYPE_CHECKING:
    from llmsim.performance.memory_report import Memory

INFEASIBLE = 4
_GIB = 2.0**30


@click.command(cls=EngineCommand)
@click.argument("scenario", nargs=-1)
@add([*pasted_options(), *machine_options(), *engine_options(), *load_options()])
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of a scenario; repeatable.")
@common
@click.pass_context
def memory(context: click.Context, /, **options: Any) -> None:
    """Show what SCENARIO, or what the options describe, takes of the memory of each device. Nothing is simulated.

    The exit code is 4 when it does not fit.
    """
    from llmsim.footprint import memory as memory_of
    from llmsim.schema import resolve

    said = said_of(options)
    resolved = resolve(scenario_from(said))
    found = memory_of(resolved)
    out = console()
    out.warnings(resolved.warnings)
    if out.json:
        out.result(json.dumps({**found.to_dict(), "warnings": list(resolved.warnings)}, indent=2))
    else:
        out.result(text(found))
    if not found.fits:
        context.exit(INFEASIBLE)


def text(found: "Memory") -> str:
    """Return a report as text: the items, their sources, and what fits."""
    sources = list(dict.fromkeys(line.source for line in found.lines))
    rows = [
        {"one device of stage " + str(found.stage): line.part, "size": _size(line.value, line.unit),
         "formula": line.formula, "source": f"[{1 + sources.index(line.source)}]"}
        for line in found.lines
    ]  # fmt: skip
    head = f"{found.model} on {found.plan} of {found.device}, {found.preset}, memory rule {found.rule}"
    parts = [head, table(rows), *(f"[{place}] {source}" for place, source in enumerate(sources, 1))]
    if not any(line.unit != "bytes" for line in found.lines):
        parts.append("cache: none, nothing is kept between steps")
    elif found.fits:
        parts.append(f"cache: {found.blocks:,} blocks of {found.block_size} tokens, {found.tokens:,} tokens")
        parts.append(_concurrency(found))
    parts += [f"does not fit: {problem}" for problem in found.problems]
    parts.append(_fewest(found))
    parts.append(f"trust: {found.trust}")
    return "\n".join(parts)


def _size(value: float, unit: str) -> str:
    whole, _, per = unit.partition("/")
    assert whole == "bytes"
    if per:
        return f"{value / 1024:,.1f} KiB/{per}"
    return f"{value / _GIB:.3f} GiB"


def _concurrency(found: "Memory") -> str:
    rows: Iterable[tuple[int, float]] = found.concurrency.items()
    said = ", ".join(f"{count:,.1f} of {length:,}" for length, count in rows)
    return f"sequences at once, by tokens each: {said} (at most {found.max_num_seqs:,} seats)"


def _fewest(found: "Memory") -> str:
    def words(tensor: int | None) -> str:
        return "none that divides the model" if tensor is None else f"{tensor}"

    return (
        f"fewest tensor-parallel devices that fit: {words(found.fewest_tensor)}; for one request of "
        f"{found.max_model_len:,} tokens: {words(found.fewest_tensor_longest)}"
    )
