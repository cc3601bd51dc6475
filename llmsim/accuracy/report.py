"""What a validation writes: predictions.csv, report.md with its scatter plots, and the page for the terminal."""

import csv
from collections.abc import Sequence
from pathlib import Path

from llmsim.accuracy import tables
from llmsim.accuracy.score import Prediction, scored
from llmsim.errors import InputError

MOST_WORST, SHOWN_WORST = 25, 6
COLUMNS = ("id", "predicted", "status", "reason", "layer", "seconds")
SATURATION = (
    "A point counts as saturated when, in the simulation, the median request waits longer to be admitted than it "
    "then takes to its first token. What was measured has no say in it."
)
SCORING = (
    "Absolute percentage error of each row; its median in each cell (source x device x model x metric); then the "
    "median and the 90th percentile over cells. Bias is the median of the cells' signed errors: below zero, predicted "
    "times are too short, or throughputs too low."
)


def page(predictions: Sequence[Prediction], title: str = "", how: str = "") -> str:
    """Return the table for the terminal; ``how`` says in a sentence how left-out predictions were made."""
    head = [title, *_counts(predictions), *([how] if how else [])]
    blocks = [
        *(line for line in head if line),
        "",
        tables.aligned([line for line in tables.summary(predictions) if line["cells"]]),
        "",
        tables.aligned(tables.by(predictions, "engine family", tables.family_of)),
        "",
        f"furthest off (all {MOST_WORST} in report.md):",
        tables.aligned(tables.worst(predictions, SHOWN_WORST)),
    ]
    return "\n".join(blocks)


def _counts(predictions: Sequence[Prediction]) -> list[str]:
    """Return in sentences how many rows were run, on how many free numbers, and how many rest on assumptions."""
    ran = [one for one in scored(predictions) if one.value is not None]
    assumed, borrowed = sum(bool(one.assumptions) for one in ran), sum(one.borrowed for one in ran)
    return [
        tables.coverage(predictions),
        f"free numbers of stacks: {tables.count_free_numbers(predictions)} (kernel fits apart)",
        f"{assumed:,} of these rows rest on an assumption about their set-up"
        + (f", {borrowed:,} of them on the shape of another model" if borrowed else ""),
    ]


def write(predictions: Sequence[Prediction], folder: Path, *, title: str, command: str = "", plots: bool = True,
          extra: str = "", how: str = "") -> list[Path]:  # fmt: skip
    """Write everything to ``folder`` and return the files.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [write_predictions(predictions, folder / "predictions.csv")]
        names: list[str] = []
        if plots:
            from llmsim.accuracy.plots import save_plots

            drawn = save_plots(predictions, folder)
            names = [path.name for path in drawn]
            written += drawn
        report = folder / "report.md"
        text = report_text(predictions, title=title, command=command, plots=names, extra=extra, how=how)
        report.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot write the results ({error.strerror or error})") from None
    return [*written, report]


def write_predictions(predictions: Sequence[Prediction], path: Path) -> Path:
    """Write one row for each prediction, in the order of the measured rows."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for one in predictions:
            value = "" if one.value is None else f"{one.value:.6g}"
            table.writerow([one.row.id, value, one.status, one.reason, one.layer, f"{one.seconds:.4f}"])
    return path


def report_text(
    predictions: Sequence[Prediction], *, title: str, command: str = "", plots: Sequence[str] = (), extra: str = "",
    how: str = "",
) -> str:  # fmt: skip
    """Return the report as Markdown: counts and scores, pictures, what is furthest off, then every group."""
    parts = [f"# {title}", ""]
    if command:
        parts += ["```", command, "```", ""]
    parts += [*(f"- {line}" for line in _counts(predictions)), *([f"- {how}"] if how else []), ""]
    parts += _section("Score", tables.summary(predictions))
    if extra:
        parts += [extra, ""]
    for plot in plots:
        parts += [f"![{Path(plot).stem.replace('_', ' ')}]({plot})", ""]
    parts += _section("By engine family, tiers A+B", tables.by(predictions, "engine family", tables.family_of))
    parts += _section(f"The {MOST_WORST} cells furthest off, tiers A+B", tables.worst(predictions, MOST_WORST))
    parts += ["## How it is scored", "", SCORING, "", SATURATION, ""]
    parts += _section("Stacks and their free numbers", tables.free_numbers(predictions))
    parts += _section("Assumptions", tables.assumptions(predictions))
    parts += _section("Rows not run", tables.not_run(predictions))
    if any(one.borrowed for one in predictions):
        parts += _section("Models that are not in the catalogue", tables.borrowed(predictions))
    parts += _section("By layer of knowledge, tiers A+B", tables.layers(predictions))
    for name, of in tables.GROUPS.items():
        if name != "family":
            parts += _section(f"By {name}, tiers A+B", tables.by(predictions, name, of))
    return "\n".join(parts)


def _section(heading: str, lines: Sequence[tables.Line]) -> list[str]:
    return [f"## {heading}", "", tables.markdown(lines), ""]
