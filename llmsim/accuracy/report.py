"""What a validation writes: predictions.csv, report.md with its scatter plots, and the page for the terminal."""

import csv
from collections.abc import Sequence
from pathlib import Path

from llmsim.accuracy import tables
from llmsim.accuracy.score import Prediction
from llmsim.errors import InputError

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


def page(predictions: Sequence[Prediction], title: str = "") -> str:
    """Return the table for the terminal."""
    blocks = [
        title,
        tables.coverage(predictions),
        f"free numbers of stacks: {tables.count_free_numbers(predictions)} (kernel fits apart)",
        "",
        tables.aligned(tables.summary(predictions)),
        "",
        tables.aligned(tables.by(predictions, "engine family", tables.family_of)),
    ]
    return "\n".join(block for index, block in enumerate(blocks) if block or index)


def write(predictions: Sequence[Prediction], folder: Path, *, title: str, command: str = "", plots: bool = True,
          extra: str = "") -> list[Path]:  # fmt: skip
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
        report.write_text(report_text(predictions, title=title, command=command, plots=names, extra=extra), "utf-8")
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
    predictions: Sequence[Prediction], *, title: str, command: str = "", plots: Sequence[str] = (), extra: str = ""
) -> str:
    """Return the report as Markdown."""
    parts = [f"# {title}", ""]
    if command:
        parts += ["```", command, "```", ""]
    parts += [
        tables.coverage(predictions) + ".",
        f"Free numbers of software stacks: {tables.count_free_numbers(predictions)}, beside the fits of kernels.",
        "", SCORING, "", SATURATION, "", "## Score", "", tables.markdown(tables.summary(predictions)), "",
    ]  # fmt: skip
    if extra:
        parts += [extra, ""]
    for name, of in tables.GROUPS.items():
        heading = "engine family" if name == "family" else name
        parts += [f"## By {heading}, tiers A+B", "", tables.markdown(tables.by(predictions, heading, of)), ""]
    for plot in plots:
        parts += [f"![{Path(plot).stem.replace('_', ' ')}]({plot})", ""]
    parts += ["## Stacks", "", tables.markdown(tables.free_numbers(predictions)), ""]
    parts += ["## Rows not run", "", tables.markdown(tables.not_run(predictions)), ""]
    parts += ["## Assumptions", "", tables.markdown(_assumptions(predictions)), ""]
    return "\n".join(parts)


def _assumptions(predictions: Sequence[Prediction]) -> list[tables.Line]:
    """Return what rows did not state and was assumed, with the number of rows."""
    counts: dict[str, int] = {}
    for one in predictions:
        for text in one.assumptions:
            counts[text] = counts.get(text, 0) + 1
    return [
        {"rows": count, "assumed": text} for text, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
