"""``llmsim calibrate``: the few numbers of somebody's own stack, from what was measured on it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from llmsim.cli.console import common, console
from llmsim.cli.load_options import load_options
from llmsim.cli.options import WORDS, EngineCommand, add, engine_options, option, said_of, without
from llmsim.cli.pasted import pasted_options
from llmsim.cli.progress import Bar
from llmsim.cli.scenario_options import machine_options, scenario_from

CALIBRATE = "Calibration"


@click.command(cls=EngineCommand)
@click.argument("measured", nargs=-1, required=True)
@add([
    option("-o", "--output", section=CALIBRATE, type=click.Path(dir_okay=False), default="calibration.yaml",
           metavar="FILE", help="Where the numbers go. [calibration.yaml]"),
    option("--set", "settings", section=CALIBRATE, multiple=True, metavar="KEY=VALUE",
           help="Set any key of the scenario. Repeatable."),
    *pasted_options(),
    *machine_options(),
    *engine_options(),
    *load_options(),
])  # fmt: skip
@click.option("--seed", metavar="N", help="Of generated loads. [0]")
@common
@click.pass_context
def calibrate(context: click.Context, /, **options: Any) -> None:
    """Fit a few numbers of your own stack to MEASURED files, by replaying them.

    MEASURED: results of vllm bench serve (JSON, best with --save-detailed and at several loads) or vllm bench
    forward; requests with time stamps (CSV, JSON lines); kernels (CSV: operator, sizes, seconds). A .yaml among them
    is the scenario that says device, model and engine; options of simulate lie over it.

    Prints each number with its 95 % interval, the errors before, in sample and held out, and what the data cannot tell.
    Use it with performance: {calibration: calibration.yaml}.
    """
    from llmsim.calibration import calibrate as fit
    from llmsim.calibration.words import report
    from llmsim.performance.calibration import write_calibration

    measured, scenario = _ask(options)
    out = console()
    with Bar(wanted=not (out.quiet or out.json)) as bar:
        found = fit(measured, scenario, progress=lambda done: bar.show(f"{done} evaluations", done, None))
    calibration = found.calibration
    write_calibration(calibration, options["output"])
    if out.json:
        out.result(_json(calibration))
    else:
        out.result(report(calibration))
    out.text(f"\nwrote {options['output']} after {found.evaluations} evaluations")
    calibrated = ("--set", f"performance.calibration={options['output']}")
    out.text("next: " + shlex.join(["llmsim", "simulate", *_described(context.meta[WORDS], options), *calibrated]))


def _described(words: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Return the words that said what was measured: without the measurements, and where the numbers go."""
    measured = [name for name in options["measured"] if not _is_scenario(name)]
    return [word for word in without(words, ("-o", "--output")) if word not in (*measured, "-v", "--verbose")]


def _is_scenario(name: str) -> bool:
    return Path(name).suffix.lower() in (".yaml", ".yml")


def _ask(options: Mapping[str, Any]) -> tuple[list[str], Any]:
    """Return the measured files, and the scenario that was measured."""
    files = options["measured"]
    scenarios = tuple(name for name in files if _is_scenario(name))
    measured = [name for name in files if name not in scenarios]
    if not measured:
        raise click.UsageError("nothing was measured: no file but the scenario")
    said = said_of(options)
    if not scenarios and not {"model", "gpu", "cluster", "serve_cmd"} & said.keys():
        raise click.UsageError(
            "what was measured?\nhint: a scenario file, or --model and --gpu with the flags that the server had"
        )
    own = {name: value for name, value in said.items() if name not in ("measured", "output")}
    return measured, scenario_from({**own, "scenario": scenarios})


def _json(calibration: Any) -> str:
    import json
    from dataclasses import asdict

    return json.dumps(asdict(calibration), indent=2)
