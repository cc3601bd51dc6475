"""``llmsim validate``: predictions for a table of measured results, scored by cell."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsim.cli.console import common, console
from llmsim.cli.progress import Bar
from llmsim.errors import InputError

if TYPE_CHECKING:
    from llmsim.accuracy.run import Simulator
    from llmsim.accuracy.score import Prediction
    from llmsim.performance.correction import StackCorrection


@click.command()
@click.argument("measured", type=click.Path())
@click.option("-o", "--output-dir", type=click.Path(file_okay=False), help="Folder. [runs/validate_NAME]")
@click.option("--resume", is_flag=True, help="Take over what the same code has predicted into this folder.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Only such rows; VALUE* begins so. Repeatable.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N rows, spread over the file.")
@click.option("--requests", multiple=True, metavar="TEXT=FILE", help="Requests of rows that say TEXT. Repeatable.")
@click.option("--leave-out", type=click.Choice(["device", "model"]), help="Score each on numbers fitted without it.")
@click.option("--fit", is_flag=True, help="Fit the stacks' free numbers to the rows; write stacks.fitted.yaml.")
@click.option("--first-order", is_flag=True, help="--fit and --leave-out simulate nothing anew: quicker, less exact.")
@click.option("--stacks", type=click.Path(), metavar="FILE", help="YAML: numbers of stacks, not the catalogue's.")
@click.option("-j", "--jobs", type=int, default=-1, metavar="N", help="Processes. [-1: one for each core]")
@click.option("--no-plots", is_flag=True, help="Draw nothing.")
@common
def validate(measured: str, **options: Any) -> None:
    """Predict every row of MEASURED (CSV, .gz) and score the predictions.

    Rows become scenarios by their class; those that cannot are counted with a reason. Writes predictions.csv, report.md
    and scatter plots. docs/accuracy.md tells the columns, the classes and the scores.
    """
    from llmsim.accuracy.measured import read_measured, select
    from llmsim.accuracy.run import Simulator

    if options["first_order"] and not (options["fit"] or options["leave_out"]):
        raise click.UsageError("--first-order: belongs to --fit or --leave-out")
    requests = _pairs(options["requests"], "--requests", "TEXT=FILE")
    if measured.lower().endswith(".json"):
        raise InputError(
            f"{measured}: not a table of measured results (CSV)\n"
            f"hint: one result of vllm bench serve: llmsim compare RUN {measured}, or llmsim calibrate {measured}"
        )
    rows = select(read_measured(measured, requests), _pairs(options["where"]), options["limit"])
    if not rows:
        raise InputError(f"{measured}: no rows" + (" hold what --where asks for" if options["where"] else ""))
    folder = Path(options["output_dir"] or f"runs/validate_{Path(measured).name.split('.')[0]}")
    out = console()
    overrides = None if options["stacks"] is None else _numbers(options["stacks"])
    with Bar(wanted=not (out.quiet or out.json)) as bar:
        simulator = Simulator(
            n_jobs=options["jobs"],
            kept=folder / "outcomes.jsonl",
            resume=options["resume"],
            progress=lambda done, total: bar.show(f"{done} of {total} set-ups", done, total),
            dropped=lambda count: out.note(f"--resume: {count:,} outcomes of older code or data are predicted anew"),
        )
        predictions = simulator(rows, [overrides] * len(rows))
        # What was predicted a moment ago is taken over.
        again = None if options["first_order"] else replace(simulator, resume=True)
        extra, base = "", predictions
        if options["fit"]:
            extra, base = _fit(predictions, overrides, again, folder)
        title, how = f"Predictions against {Path(measured).name}", ""
        if options["leave_out"]:
            title += f", each {options['leave_out']} by stacks fitted without it"
            predictions, how = _left_out(base, options["leave_out"], again)
    _report(predictions, folder, (title, extra, how), plots=not options["no_plots"])


def _left_out(
    predictions: "list[Prediction]", what: str, simulate: "Simulator | None"
) -> "tuple[list[Prediction], str]":
    """Return predictions by stacks that never saw the device (model), and in a sentence how they were made."""
    from llmsim.accuracy.folds import leave_out

    made = leave_out(predictions, what, simulate=simulate)
    again = sum(one.value != other.value for one, other in zip(predictions, made, strict=True))
    way = "scaled to first order" if simulate is None else "each simulated with them"
    return made, f"each {what} left out: {again:,} predictions changed with the numbers of their fold, {way}"


def _pairs(said: Sequence[str], option: str = "--where", form: str = "COLUMN=VALUE") -> dict[str, str]:
    pairs = {}
    for text in said:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{option}: wants {form} (got {text!r})")
        pairs[name.strip()] = value.strip()
    return pairs


def _numbers(path: str) -> "Mapping[str, StackCorrection]":
    """Return the numbers in a YAML file: ``stacks: {NAME: {numbers: {...}}}``, as in the catalogue."""
    import yaml

    from llmsim.performance.correction import NEUTRAL, relatives, with_numbers

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    stacks = content.get("stacks") if isinstance(content, dict) else None
    if not isinstance(stacks, dict) or not all(isinstance(entry, dict) for entry in stacks.values()):
        raise InputError(f"{path}: not a mapping with stacks, as hardware/performance/stacks.yaml")
    return {relatives(name)[0]: with_numbers(NEUTRAL, entry.get("numbers") or {}) for name, entry in stacks.items()}


def _fit(
    predictions: "list[Prediction]",
    overrides: "Mapping[str, StackCorrection] | None",
    simulate: "Simulator | None",
    folder: Path,
) -> "tuple[str, list[Prediction]]":
    """Write fitted numbers; return the score that they have, as a section of the report, and the predictions."""
    import yaml

    from llmsim.accuracy import tables
    from llmsim.accuracy.fit import fit_all, with_numbers_of
    from llmsim.accuracy.rounds import settle
    from llmsim.performance.correction import StackCorrection, stack_of

    if simulate is None:
        fitted, how = fit_all(predictions), "fitted once, to first order"
    else:
        found = settle(predictions, simulate)
        fitted, how = found.numbers, str(found)
    every = {**(overrides or {}), **fitted}
    if simulate is None:
        present = sorted({one.stack for one in predictions if one.stack})
        after = with_numbers_of(predictions, {name: stack_of(name, every).correction for name in present})
    else:
        after = simulate([one.row for one in predictions], [every] * len(predictions))
    plain = asdict(StackCorrection())
    stacks = {
        name: {"numbers": {key: value for key, value in asdict(numbers).items() if value != plain[key]}}
        for name, numbers in sorted(fitted.items())
    }
    text = f"# llmsim validate --fit: {how}\n" + yaml.safe_dump({"stacks": stacks}, sort_keys=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stacks.fitted.yaml").write_text(text, encoding="utf-8")
    lines = [line for line in tables.summary(after) if line["cells"]]
    console().text(f"with the fitted numbers ({how}):\n{tables.aligned(lines)}\n")
    return f"## With fitted numbers\n\n{how.capitalize()}.\n\n{tables.markdown(tables.summary(after))}", after


def _report(predictions: "Sequence[Prediction]", folder: Path, said: tuple[str, str, str], *, plots: bool) -> None:
    """Write everything and print the page; ``said`` are title, a section of the report, and how rows were left out."""
    from llmsim.accuracy import report, tables

    out = console()
    title, extra, how = said
    command = " ".join(["llmsim", *map(shlex.quote, sys.argv[1:])])
    written = report.write(predictions, folder, title=title, command=command, plots=plots, extra=extra, how=how)
    if out.json:
        told = {
            "coverage": tables.coverage(predictions),
            "summary": tables.summary(predictions),
            "free_numbers": tables.count_free_numbers(predictions),
            "left_out": how,
            "worst": tables.worst(predictions),
            "families": tables.by(predictions, "family", tables.family_of),
            "not_run": tables.not_run(predictions),
            "files": [str(path) for path in written],
        }
        out.result(json.dumps(told, indent=2))
        return
    out.result(report.page(predictions, title, how))
    reasons = tables.not_run(predictions)
    if reasons:
        out.text("\nnot run:\n" + tables.aligned(reasons[:MOST_REASONS]))
        if len(reasons) > MOST_REASONS:
            out.text(f"... and {len(reasons) - MOST_REASONS} more reasons in report.md")
    out.text(f"\nwrote {', '.join(path.name for path in written)} to {folder}/")


MOST_REASONS = 12
