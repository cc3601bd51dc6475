"""``llmsim simulate``: one run, from options or a scenario file to the result block and the run's folder."""

import math
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from llmsim.cli import load_options
from llmsim.cli.console import common, console
from llmsim.cli.options import WORDS, EngineCommand, add, engine_options, option, said_of
from llmsim.cli.pasted import pasted_options
from llmsim.cli.progress import Bar
from llmsim.cli.scenario_options import DEMONSTRATION, machine_options, scenario_from
from llmsim.errors import InputError

GATE_FAILED = 1
EXIT_CODES = {"interrupted": 130}
STOPPED = 5

RESULTS = "Results"


@click.command(cls=EngineCommand)
@click.argument("scenario", nargs=-1)
@add([
    *pasted_options(),
    *machine_options(),
    *engine_options(),
    *load_options.load_options(),
    option("-o", "--output-dir", section=RESULTS, type=click.Path(), help="Folder of the run. [runs/NAME_HASH]"),
    option("--no-output", section=RESULTS, is_flag=True, help="Write nothing."),
    option("--plots/--no-plots", section=RESULTS, default=False, help="Also draw plots. [off]"),
    option("--timeline/--no-timeline", section=RESULTS, default=False, help="Also timeline.json.gz. [off]"),
    option("--timeline-seconds", section=RESULTS, type=click.FloatRange(min=0, min_open=True), metavar="S",
           help="Simulated time that it shows; inf: all. [60]"),
    option("--report/--no-report", section=RESULTS, default=False, help="Also report.html. [off]"),
    option("--format", "formats", section=RESULTS, default="llmsim", metavar="NAMES", help="Also vllm-bench. [llmsim]"),
    option("--requests", section=RESULTS, type=click.Choice(["csv", "none"]), help="Table of requests. [csv]"),
    option("--steps", section=RESULTS, is_flag=True, help="Also write steps.csv."),
    option("--decisions", section=RESULTS, type=click.Path(), metavar="FILE", help="Log every step's decision there."),
    option("--percentile-metrics", section=RESULTS, metavar="NAMES", help="Latencies shown. [ttft,tpot,itl,e2el]"),
    option("--metric-percentiles", section=RESULTS, metavar="P,P,...", help="Their percentiles. [50,90,95,99]"),
    option("--first-tokens", section=RESULTS, metavar="N", help="Also time until the first N output tokens, ttfn."),
    option("--goodput", section=RESULTS, multiple=True, metavar="KEY:MS", help="Limits of a good request."),
    option("--slo", section=RESULTS, multiple=True, metavar="KEY=VALUE", help="Gate: exit code 1 unless met."),
])  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of a scenario; repeatable.")
@click.option("--name", metavar="TEXT", help="Name of the run. [model and device]")
@click.option("--seed", metavar="N", help="Of every random stream. [0]")
@click.option("--warmup", metavar="N|TIME", help="Requests, or 30s, or auto: left out of the metrics. [0]")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Stop after that long.")
@click.option("--dry-run", is_flag=True, help="Print the resolved scenario, with the origin of every value; no run.")
@common
@click.pass_context
def simulate(context: click.Context, /, **options: Any) -> None:
    """Simulate SCENARIO, a YAML file, or what the options describe; without either, a demonstration.

    Options override the file. Results go to runs/NAME_HASH, see -o.
    """
    from llmsim.schema import resolve, resolved_yaml

    said = said_of(options)
    resolved = resolve(scenario_from(said))
    out = console()
    for name in (*load_options.NO_EFFECT, *load_options.NO_EFFECT_VALUES):
        if name in said:
            out.warn(f"--{name.replace('_', '-')}: ignored, it does not change simulated times")
    if options["dry_run"]:
        out.warnings(resolved.warnings)
        out.result(resolved_yaml(resolved))
        return
    folder = _folder(options, resolved)
    _check_output(options["formats"], folder)
    run, wall_s = _run(resolved, options["time_limit"], options["decisions"])
    again = _again(folder, resolved, said, context.meta[WORDS])
    _report(run, resolved, options, folder, wall_s, again)
    if run.stopped:
        context.exit(EXIT_CODES.get(run.stopped, STOPPED))
    if any(result["pass"] is False for result in run.slo_results().values()):
        context.exit(GATE_FAILED)


def _run(resolved: Any, time_limit_s: float | None, decisions: str | None) -> tuple[Any, float]:
    from llmsim.simulation import simulate as simulate_resolved

    out = console()
    begun = time.perf_counter()
    with Bar(wanted=not (out.quiet or out.json)) as bar:
        run = simulate_resolved(resolved, progress=bar, time_limit_s=time_limit_s, decisions=decisions)
    return run, time.perf_counter() - begun


def _folder(options: Mapping[str, Any], resolved: Any) -> Path | None:
    if options["no_output"]:
        return None
    if options["output_dir"]:
        return Path(options["output_dir"])
    plain = re.sub(r"[^\w.-]+", "-", resolved.name)
    return Path("runs") / f"{plain}_{resolved.scenario.sha256[:8]}"


def _check_output(formats: str, folder: Path | None) -> None:
    """Find out before the run whether its results can be written."""
    from llmsim.results.formats import FORMATS

    for name in formats.split(","):
        if name not in FORMATS:
            raise InputError(f"--format: unknown format (got {name!r})\nhint: one of {', '.join(FORMATS)}")
    if folder is not None:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise InputError(f"--output-dir: cannot be written (got {str(folder)!r})")


def _report(
    run: Any, resolved: Any, options: Mapping[str, Any], folder: Path | None, wall_s: float, again: str
) -> None:
    """Print the run and write its files; ``again`` is the command that would do the same run."""
    out = console()
    created = datetime.now(UTC).isoformat(timespec="seconds")
    # Before anything is printed: who reads only the first lines, as head does, wants the files too.
    files = []
    if folder is not None:
        files = run.save(
            folder,
            formats=options["formats"].split(","),
            requests=(options["requests"] or resolved.scenario.output.requests) != "none",
            steps=options["steps"],
            plots=options["plots"],
            timeline_seconds=_timeline_seconds(options),
            report=options["report"],
            created=created,
        )
    for line in run.header_lines():
        out.text(line)
    out.warnings(run.warnings)
    summary = run.summary(percentiles=resolved.percentiles, metrics=resolved.metrics)
    if out.json:
        out.result(run.to_json(created=created).rstrip("\n"))
    else:
        out.result(summary)
    for line in run.closing_lines(wall_s=wall_s, folder=f"{folder}/" if folder is not None else None):
        out.text(line)
    if out.verbose:
        for path in files:
            out.note(f"wrote {path}")
    for index, line in enumerate(_next_commands(again, resolved, options["settings"] if folder is None else ())):
        out.text(("next: " if index == 0 else "      ") + line)


def _timeline_seconds(options: Mapping[str, Any]) -> float | None:
    """Return how much of the run its timeline shows, None without one; naming the seconds asks for one too."""
    seconds: float | None = options["timeline_seconds"]
    return 60.0 if seconds is None and options["timeline"] else seconds


def _again(folder: Path | None, resolved: Any, said: Mapping[str, Any], words: Sequence[str]) -> str:
    """Return the command that would do the same run: its file, or the words that were said and what they left out."""
    if folder is not None:
        return f"llmsim simulate {folder}/scenario.resolved.yaml"
    told = [*words]
    if all(":" in word for word in said.get("scenario", ())):  # such as ttft:500, after --goodput
        scenario = resolved.scenario.to_dict()
        # The demonstration stops being one as soon as an option is given.
        load = DEMONSTRATION["workload"] if scenario.get("workload") == DEMONSTRATION["workload"] else {}
        unsaid = {
            "model": scenario["model"], "gpu": scenario["cluster"].get("gpu"),
            "request_rate": load.get("arrival", {}).get("request_rate"), "num_prompts": load.get("num_prompts"),
        }  # fmt: skip
        for name, value in unsaid.items():
            if name not in said and isinstance(value, str | int | float):
                told += [f"--{name.replace('_', '-')}", f"{value}"]
    return shlex.join(["llmsim", "simulate", *told])


def _next_commands(again: str, resolved: Any, settings: Sequence[str] = ()) -> list[str]:
    """Return three commands that a reader of a result may want: another plan, another load, another machine.

    What ``settings`` (of --set) say goes before options, so it is said anew.
    """
    from llmsim.schema.overrides import full_key

    said = {full_key(name): name for name in (text.partition("=")[0].strip() for text in settings)}

    def word(option: str, key: str, value: str) -> str:
        name = said.get(tuple(key.split(".")))
        return f"{option} {value}" if name is None else f"--set {name}={value}"

    rate = (resolved.workload.arrival or {}).get("request_rate")
    if resolved.workload.trace is not None:
        load = word("--speedup", "workload.trace.speedup", "2")
    elif isinstance(rate, int | float) and math.isfinite(rate):
        load = word("--request-rate", "workload.arrival.request_rate", f"{2 * rate:g}")
    else:
        load = word("--request-rate", "workload.arrival.request_rate", "8")
    plan = (
        word("-tp", "engine.tensor_parallel_size", f"{2 * resolved.plan.tensor}")
        if _can_widen(resolved)
        else word("--max-num-seqs", "engine.max_num_seqs", "64")
    )
    return [f"{again} {plan}", f"{again} {load} --plots", "llmsim list hardware"]


def _can_widen(resolved: Any) -> bool:
    from llmsim.errors import InfeasibleError
    from llmsim.parallel import Plan, check

    if resolved.scenario.cluster.gpu is None or resolved.scenario.cluster.num_gpus is not None:
        return False
    try:
        check(resolved.model, Plan(2 * resolved.plan.tensor, resolved.plan.pipeline))
    except InfeasibleError:
        return False
    return bool(2 * resolved.plan.tensor <= resolved.node.devices or resolved.device.kind != "cpu")
