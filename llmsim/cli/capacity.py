"""``llmsim capacity``: the highest load under objectives, or the smallest deployment that carries a load."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsim.cli.catalogue import table
from llmsim.cli.console import common, console
from llmsim.cli.load_options import load_options
from llmsim.cli.options import WORDS, EngineCommand, add, engine_options, option, said_of, without
from llmsim.cli.pasted import pasted_options
from llmsim.cli.progress import Bar
from llmsim.cli.scenario_options import machine_options, scenario_from
from llmsim.errors import InputError

if TYPE_CHECKING:
    from llmsim.planning.answer import Capacity

SEARCH = "Search"
NOT_MET = 1

_OWN = ("find", "attain", "low", "high", "tolerance", "replications", "jobs", "joblib_backend", "price_per_hour",
        "time_limit", "output_dir", "resume")  # fmt: skip


@click.command(cls=EngineCommand)
@click.argument("scenario", nargs=-1)
@add([
    option("--slo", section=SEARCH, multiple=True, metavar="KEY=VALUE", help="Objective: p99_ttft_ms=500; repeatable."),
    option("--goodput", section=SEARCH, multiple=True, metavar="KEY:MS", help="Limits of a good request: ttft:500."),
    option("--first-tokens", section=SEARCH, metavar="N", help="N of the time to the first N output tokens, ttfn."),
    option("--attain", section=SEARCH, type=click.FloatRange(0, 1, min_open=True), default=0.99, metavar="SHARE",
           help="With --goodput: the share of requests that must be good. [0.99]"),
    option("--find", section=SEARCH, type=click.Choice(["rate", "replicas", "gpus", "plan"]), default="rate",
           help="Highest load, fewest replicas, fewest GPUs over all plans, or cheapest plan. [rate]"),
    option("--low", section=SEARCH, type=float, metavar="X", help="Lowest value tried."),
    option("--high", section=SEARCH, type=float, metavar="X", help="Highest value tried."),
    option("--tolerance", section=SEARCH, type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.02,
           metavar="SHARE", help="How close the search for a load comes. [0.02]"),
    option("--replications", section=SEARCH, type=click.IntRange(1), metavar="N",
           help="Searches with seeds of their own. [3; 1 where nothing is random]"),
    option("--price-per-hour", section=SEARCH, multiple=True, metavar="X|GPU=X",
           help="Of one device, for --find plan; with names, of each kind that may be taken. Repeatable."),
    option("-j", "--jobs", section=SEARCH, type=int, default=-1, metavar="N", help="Processes. [-1: all cores]"),
    option("--joblib-backend", section=SEARCH, metavar="NAME", help="loky, threading, dask or ray. [loky]"),
    option("-o", "--output-dir", section=SEARCH, type=click.Path(file_okay=False), help="Folder. [runs/capacity_HASH]"),
    option("--resume", section=SEARCH, is_flag=True, help="Take over the runs of the last search in this folder."),
    option("--time-limit", section=SEARCH, type=click.FloatRange(min=0, min_open=True), metavar="S",
           help="A run that takes longer counts as missed."),
    *pasted_options(),
    *machine_options(),
    *engine_options(),
    *load_options(),
])  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of a scenario; repeatable.")
@click.option("--name", metavar="TEXT", help="Name of the scenario. [model and device]")
@click.option("--seed", metavar="N", help="Of replication 0. [0]")
@click.option("--warmup", metavar="N|TIME", help="Requests, or seconds such as 30s, left out of the metrics. [0]")
@common
@click.pass_context
def capacity(context: click.Context, /, **options: Any) -> None:
    """Find the highest load of SCENARIO under its objectives, or the smallest deployment that carries its load.

    The load is a request rate, the speedup of a trace, or the users of a closed loop, whichever SCENARIO has. Writes
    capacity.json and probes.csv, a row for each run. Exit code 1: nothing that was tried meets the objectives.
    """
    import llmsim

    said = said_of(options, _OWN)
    base = scenario_from(said)
    out = console()
    folder = Path(options["output_dir"] or f"runs/capacity_{base.sha256[:8]}")
    checkpoint = folder / "capacity.jsonl"
    if not options["resume"]:
        checkpoint.unlink(missing_ok=True)
    with _going_on(), Bar(wanted=not (out.quiet or out.json)) as bar:
        answer = llmsim.capacity(
            base,
            find=options["find"],
            attain=options["attain"],
            low=options["low"],
            high=options["high"],
            tolerance=options["tolerance"],
            replications=options["replications"],
            price=_price(options["price_per_hour"]),
            n_jobs=options["jobs"],
            backend=options["joblib_backend"],
            time_limit_s=options["time_limit"],
            checkpoint=checkpoint,
            progress=lambda done, what: bar.show(f"{done} runs, {what}", done, None),
        )
    _write(answer, folder)
    if out.json:
        out.result(json.dumps(answer.to_dict(), indent=2))
    else:
        _report(answer, _words(context.meta[WORDS], options, base), folder)
    if answer.answer is None:
        context.exit(NOT_MET)


@contextmanager
def _going_on() -> Iterator[None]:
    """After Ctrl-C, say how the search goes on."""
    try:
        yield
    except KeyboardInterrupt:
        console().note("hint: the same command with --resume goes on from here")
        raise


def _write(answer: "Capacity", folder: Path) -> None:
    """Write the answer, and a row for each run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "capacity.json").write_text(json.dumps(answer.to_dict(), indent=2) + "\n", encoding="utf-8")
        answer.table.to_csv(folder / "probes.csv", index=False)
    except OSError as error:
        raise InputError(f"--output-dir: cannot be written ({error.strerror or error})") from error


def _price(texts: Sequence[str]) -> float | dict[str, float] | None:
    """Return one price for all, or the price of each kind of device."""
    if not texts:
        return None
    pairs = [text.rpartition("=") for text in texts]
    try:
        prices = [(name, float(value)) for name, _, value in pairs]
    except ValueError:
        raise click.UsageError(f"--price-per-hour: not a number (got {', '.join(texts)})") from None
    if len(prices) == 1 and not prices[0][0]:
        return prices[0][1]
    if not all(name for name, _ in prices):
        raise click.UsageError("--price-per-hour: one price for all, or GPU=X for each kind of device")
    return dict(prices)


def _words(words: Sequence[str], options: Mapping[str, Any], base: Any) -> list[str]:
    """Return the words that were said; the demonstration stops being one as soon as an option is given."""
    told = [*words]
    if not any(options[name] for name in ("scenario", "bench_cmd", "num_prompts", "trace", "workload")):
        count = base.workload.num_prompts
        told += ["--num-prompts", str(count)] if count is not None else []
    return told


def _report(answer: "Capacity", words: Sequence[str], folder: Path) -> None:
    """Print the probes, the answer, and what may come next."""
    out = console()
    out.text(table(plan_rows(answer) if answer.plans else probe_rows(answer)))
    out.text()
    out.result(answer.sentence())
    if answer.binding is not None:
        out.result(f"breaks first: {_broken(answer.binding)}{_waited(answer.waits)}")
    for note in answer.notes:
        out.note(f"note: {note}")
    out.text(f"wrote capacity.json and probes.csv to {folder}/")
    for index, line in enumerate(_next_commands(answer, words)):
        out.text(("next: " if index == 0 else "      ") + line)


def probe_rows(answer: "Capacity") -> list[dict[str, Any]]:
    """Return a row for each value that was tried: in how many replications it did, and the means of the objectives."""
    values: dict[float, list[Any]] = {}
    for probe in answer.probes:
        values.setdefault(probe.point[answer.key], []).append(probe)
    names = list(dict.fromkeys(name for probe in answer.probes for name in probe.values))
    rows = []
    for value, probes in sorted(values.items()):
        row: dict[str, Any] = {answer.key.rpartition(".")[2]: f"{value:,.4g}",
                               "met": f"{sum(probe.met for probe in probes)} of {len(probes)}"}  # fmt: skip
        for name in names:
            known = [probe.values[name] for probe in probes if probe.values.get(name) is not None]
            # Of runs that were cut short, only that they missed is known.
            row[name] = f"{sum(known) / len(known):,.4g}" if len(known) == len(probes) else "beyond"
        row["missed"] = ", ".join(dict.fromkeys(name for probe in probes for name in probe.missed)) or "-"
        reasons = dict.fromkeys(probe.reason for probe in probes if probe.reason)
        rows.append({**row, "missed": ", ".join(reasons) or row["missed"]})
    return rows


def plan_rows(answer: "Capacity") -> list[dict[str, Any]]:
    """Return a row for each plan, and how many replicas of it do."""
    priced = answer.unit != "GPUs"
    words = {"dearer": "dearer" if priced else "needs no fewer"}
    rows = []
    for row in answer.plans:
        told: dict[str, Any] = {"gpu": row.gpu, "TP": row.tensor, "PP": row.pipeline, "replicas": row.replicas,
                                "GPUs": row.devices}  # fmt: skip
        if priced:
            told["an hour"] = None if row.cost is None else float(f"{row.cost:.6g}")
        told["verdict"] = {"ok": "best" if row is answer.best else "does"}.get(
            row.status, words.get(row.status, row.status)
        )
        reached = answer.reached(row)
        told |= {name: f"{reached[name]:,.4g}" if name in reached else None for name in answer.objectives}
        rows.append({**told, "why": row.reason or (row.binding or "" if row.status == "too little" else "")})
    return rows


def _broken(objective: str) -> str:
    """Return in words what breaks first."""
    if objective == "saturated":
        return "the queue never stops growing (saturated), though runs this short end within their limits"
    return objective


def _waited(waits: Mapping[str, float]) -> str:
    """Return in words what requests waited for."""
    words = {"seats": "a seat (max_num_seqs)", "cache": "room in the cache", "compute": "the steps themselves"}
    told = [f"{words[name]} {share:.0%}" for name, share in waits.items() if share >= 0.005]
    return f"; while requests queued, they waited for {', '.join(told)}" if told else ""


def _next_commands(answer: "Capacity", words: Sequence[str]) -> list[str]:
    """Return the run at the answer, and the question the other way around."""
    told = without(words, ("--find", "--low", "--high", "--tolerance", "--attain", "--replications", "-j", "--jobs",
                            "--joblib-backend", "--price-per-hour", "-o", "--output-dir"))  # fmt: skip
    told = [word for word in told if word != "--resume"]
    if answer.answer is None:
        return [shlex.join(["llmsim", "simulate", *told]), "llmsim list hardware"]
    at = {answer.key: f"{answer.answer:.4g}"}
    if answer.best is not None:
        if len({row.gpu for row in answer.plans}) > 1:
            told = [*without(told, ("--gpu",)), "--gpu", answer.best.gpu]
        at = {"engine.tensor_parallel_size": str(answer.best.tensor), "engine.pipeline_parallel_size":
              str(answer.best.pipeline), "deployment.replicas": str(answer.best.replicas)}  # fmt: skip
    elif answer.unit in ("users", "replicas"):
        at = {answer.key: str(int(answer.answer))}
    settings = [word for key, value in at.items() for word in ("--set", f"{key}={value}")]
    lines = [shlex.join(["llmsim", "simulate", *told, *settings])]
    if answer.find == "rate":
        again = shlex.join(["llmsim", "capacity", *told])
        lines += [f"{again} --find plan", f"{again} --max-num-seqs 256"]
    return lines
