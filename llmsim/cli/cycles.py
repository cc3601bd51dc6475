"""``llmsim cycles``: one request as a table of moments, clock cycles and resources."""

import json
from typing import TYPE_CHECKING, Any

import click

from llmsim.cli.catalogue import table
from llmsim.cli.console import common, console
from llmsim.cli.options import EngineCommand, add, engine_options, option, said_of
from llmsim.cli.scenario_options import machine_options, scenario_from

if TYPE_CHECKING:
    from llmsim.performance.life import Life, Moment

REQUEST = "Request"


@click.command(cls=EngineCommand)
@click.argument("scenario", nargs=-1)
@add([
    option("--input-len", section=REQUEST, type=click.IntRange(min=1), metavar="N", help="Tokens in. [1024]"),
    option("--output-len", section=REQUEST, type=click.IntRange(min=0), metavar="N", help="Tokens out. [128]"),
    *machine_options(),
    *engine_options(),
])  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of a scenario; repeatable.")
@common
def cycles(**options: Any) -> None:
    """Show where the clock cycles of one request go, alone on the machine of SCENARIO or of the options.

    Moments are those of its way: tokenizing, the prefill, and all steps that decode. Nothing is simulated.
    """
    from llmsim.cycles import OUTPUT, PROMPT
    from llmsim.cycles import cycles as cycles_of
    from llmsim.schema import resolve

    lengths = {"prompt": options.pop("input_len"), "output": options.pop("output_len")}
    said = said_of(options)
    resolved = resolve(scenario_from(said))
    defaults = {"prompt": PROMPT, "output": OUTPUT}
    life = cycles_of(resolved, **{name: defaults[name] if value is None else value for name, value in lengths.items()})
    out = console()
    for warning in resolved.warnings:
        out.warn(warning)
    if out.json:
        out.result(json.dumps(as_dict(life, resolved.model.name, resolved.device.name), indent=2))
        return
    out.text(
        f"{resolved.model.name} on {resolved.plan.devices}x {resolved.device.title} ({life.clock_hz / 1e9:.3g} GHz), "
        f"{life.prompt_tokens} tokens in, {life.output_tokens} out"
    )
    out.result(text(life))


def text(life: "Life") -> str:
    """Return the table, its sums, and what the host did beside the device."""
    rows = [_row(life, moment) for moment in life.moments]
    lines = [table(rows)]
    lines.append(
        f"first token after {life.first_token_s * 1e3:.3f} ms, last after {life.total_s * 1e3:.3f} ms = "
        f"{life.total_s * life.clock_hz / 1e6:,.1f} million cycles of the device"
    )
    if life.hidden_host_s:
        lines.append(f"host work under the device's time: {life.hidden_host_s * 1e3:.3f} ms")
    return "\n".join(lines)


def _row(life: "Life", moment: "Moment") -> dict[str, Any]:
    from llmsim.performance.life import RESOURCES

    row: dict[str, Any] = {"phase": moment.phase, "moment": moment.name, "ms": round(moment.total_s * 1e3, 3)}
    row["share"] = f"{moment.total_s / life.total_s:.1%}"
    row["Mcycles"] = round(sum(moment.cycles.values()) / 1e6, 2)
    return row | {resource: round(moment.cycles.get(resource, 0.0) / 1e6, 2) for resource in RESOURCES}


def as_dict(life: "Life", model: str, device: str) -> dict[str, Any]:
    """Return a life as JSON: seconds and cycles of each moment by resource."""
    return {
        "model": model,
        "device": device,
        "prompt_tokens": life.prompt_tokens,
        "output_tokens": life.output_tokens,
        "clock_hz": life.clock_hz,
        "host_clock_hz": life.host_clock_hz,
        "first_token_s": life.first_token_s,
        "total_s": life.total_s,
        "hidden_host_s": life.hidden_host_s,
        "moments": [
            {"phase": one.phase, "moment": one.name, "seconds": one.seconds, "cycles": one.cycles}
            for one in life.moments
        ],
    }
