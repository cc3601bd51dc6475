"""``llmsim validate``: predictions for a table of measured results, scored by cell."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsim.cli.console import common, console
from llmsim.cli.progress import Bar
from llmsim.errors import InputError

if TYPE_CHECKING:
    from llmsim.accuracy.score import Prediction
    from llmsim.performance.correction import StackCorrection


@click.command()
@click.argument("measured", type=click.Path())
@click.option("-o", "--output-dir", type=click.Path(file_okay=False), help="Folder. [runs/validate_NAME]")
@click.option("--resume", is_flag=True, help="Take over what the last validation into this folder has predicted.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Only such rows; VALUE* begins so. Repeatable.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N rows, spread over the file.")
@click.option("--leave-out", type=click.Choice(["device", "model"]), help="Score each on numbers fitted without it.")
@click.option("--fit", is_flag=True, help="Fit the stacks' free numbers to the rows; write stacks.fitted.yaml.")
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
    from llmsim.accuracy.run import predictions_of

    rows = select(read_measured(measured), _where(options["where"]), options["limit"])
    if not rows:
        raise InputError(f"{measured}: no rows" + (" hold what --where asks for" if options["where"] else ""))
    folder = Path(options["output_dir"] or f"runs/validate_{Path(measured).name.split('.')[0]}")
    out = console()
    overrides = None if options["stacks"] is None else _numbers(options["stacks"])
    with Bar(wanted=not (out.quiet or out.json)) as bar:
        predictions = predictions_of(
            rows,
            n_jobs=options["jobs"],
            kept=folder / "outcomes.jsonl",
            resume=options["resume"],
            overrides=overrides,
            progress=lambda done, total: bar.show(f"{done} of {total} set-ups", done, total),
        )
    title = f"Predictions against {Path(measured).name}"
    extra = _fit(predictions, folder) if options["fit"] else ""
    if options["leave_out"]:
        from llmsim.accuracy.folds import leave_out

        predictions = leave_out(predictions, options["leave_out"])
        title += f", each {options['leave_out']} by stacks fitted without it"
    _report(predictions, folder, title, extra, plots=not options["no_plots"])


def _where(said: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in said:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--where: wants COLUMN=VALUE (got {text!r})")
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


def _fit(predictions: "Sequence[Prediction]", folder: Path) -> str:
    """Write fitted numbers and return the score that they would have, to first order."""
    import yaml

    from llmsim.accuracy import tables
    from llmsim.accuracy.fit import fit_all, with_numbers_of
    from llmsim.performance.correction import StackCorrection

    fitted = fit_all(predictions)
    plain = asdict(StackCorrection())
    stacks = {
        name: {"numbers": {key: value for key, value in asdict(numbers).items() if value != plain[key]}}
        for name, numbers in fitted.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stacks.fitted.yaml").write_text(yaml.safe_dump({"stacks": stacks}, sort_keys=False), encoding="utf-8")
    after = with_numbers_of(predictions, fitted)
    console().text(f"with the fitted numbers, to first order:\n{tables.aligned(tables.summary(after))}\n")
    return f"## With fitted numbers, to first order\n\n{tables.markdown(tables.summary(after))}"


def _report(predictions: "Sequence[Prediction]", folder: Path, title: str, extra: str, *, plots: bool) -> None:
    from llmsim.accuracy import report, tables

    out = console()
    command = " ".join(["llmsim", *map(shlex.quote, sys.argv[1:])])
    written = report.write(predictions, folder, title=title, command=command, plots=plots, extra=extra)
    if out.json:
        told = {
            "coverage": tables.coverage(predictions),
            "summary": tables.summary(predictions),
            "families": tables.by(predictions, "family", tables.family_of),
            "not_run": tables.not_run(predictions),
            "files": [str(path) for path in written],
        }
        out.result(json.dumps(told, indent=2))
        return
    out.result(report.page(predictions, title))
    reasons = tables.not_run(predictions)
    if reasons:
        out.text("\nnot run:\n" + tables.aligned(reasons[:MOST_REASONS]))
        if len(reasons) > MOST_REASONS:
            out.text(f"... and {len(reasons) - MOST_REASONS} more reasons in report.md")
    out.text(f"\nwrote {', '.join(path.name for path in written)} to {folder}/")


MOST_REASONS = 12
