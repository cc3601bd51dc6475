"""The score as text: one page for the terminal, and the same as report.md."""

from collections.abc import Callable, Sequence
from typing import Any

from llmsim.accuracy.score import (
    KINDS,
    LEAST_DEVICES,
    LEAST_MODELS,
    Prediction,
    Score,
    cells_of,
    device_of,
    grouped,
    model_of,
    reasons,
    score,
    scored,
)
from llmsim.performance.correction import stack_of

Line = dict[str, Any]


def summary(predictions: Sequence[Prediction]) -> list[Line]:
    """Return median and p90 over cells by tier and kind, saturated points apart."""
    lines = []
    for tiers, name in (("A", "A"), ("B", "B"), ("AB", "A+B")):
        for kind in KINDS:
            chosen = [one for one in scored(predictions, tiers) if one.kind == kind]
            parts: list[tuple[str, bool | None]] = [("all", None)]
            if kind == "TTFT":
                parts = [("not saturated", False), ("saturated", True)]
            for label, saturated in parts:
                came = [one for one in chosen if saturated is None or one.saturated == saturated]
                lines.append({"tier": name, "what": kind, "points": label, **_figures(score(came))})
    return lines


def by(predictions: Sequence[Prediction], name: str, of: Callable[[Prediction], str]) -> list[Line]:
    """Return scores of tiers A+B by a group, one line for each kind of number in it; saturated TTFT left out."""
    lines = []
    for group, members in grouped(scored(predictions), of).items():
        for kind in KINDS:
            came = [one for one in members if one.kind == kind and not (kind == "TTFT" and one.saturated)]
            found = score(came)
            if found is not None:
                lines.append({name: group, "what": kind, **_figures(found)})
    return lines


def _figures(found: Score | None) -> Line:
    if found is None:
        return {"median %": "-", "p90 %": "-", "bias %": "-", "cells": 0, "rows": 0}
    return {
        "median %": f"{found.median:.1f}", "p90 %": f"{found.p90:.1f}", "bias %": f"{found.bias:+.1f}",
        "cells": found.cells, "rows": found.rows,
    }  # fmt: skip


def family_of(one: Prediction) -> str:
    """Return the engine family of a prediction."""
    return one.family or "unknown"


GROUPS: dict[str, Callable[[Prediction], str]] = {"family": family_of, "device": device_of, "model": model_of}


def coverage(predictions: Sequence[Prediction]) -> str:
    """Return how many rows were run, in one sentence."""
    chosen = [one for one in scored(predictions) if one.row.kind != "closed-loop-disaggregated"]
    ran = sum(one.value is not None for one in chosen)
    share = f" ({100 * ran / len(chosen):.1f} %)" if chosen else ""
    every = sum(one.value is not None for one in predictions)
    return (
        f"{ran:,} of {len(chosen):,} rows of tiers A and B that are not disaggregated were run{share}; "
        f"{every:,} of {len(predictions):,} rows of the file"
    )


def not_run(predictions: Sequence[Prediction]) -> list[Line]:
    """Return why rows were not run, with their number by tier."""
    lines = []
    left = [one for one in predictions if one.value is None]
    for reason, count in reasons(left).items():
        members = [one for one in left if one.reason == reason]
        tiers = {tier: sum(one.row.tier == tier for one in members) for tier in "ABCX"}
        told = " ".join(f"{tier}:{number}" for tier, number in tiers.items() if number)
        sources = ", ".join(sorted({one.row.source for one in members}))
        lines.append({"rows": count, "tiers": told, "reason": reason, "sources": sources})
    return lines


def free_numbers(predictions: Sequence[Prediction]) -> list[Line]:
    """Return the stacks that took part: whose numbers price them, how many are free, and on what they were measured.

    Constants of kernels' formulas that were chosen with measured results in view count like numbers.

    ``may have`` says whether these rows allow a stack numbers of its own: two devices, or three models.
    """
    lines = []
    for name, members in grouped([one for one in predictions if one.stack], lambda one: one.stack).items():
        stack, ran = stack_of(name), [one for one in members if one.value is not None]
        told = [one.numbers for one in ran if one.numbers is not None]
        chosen = len(stack_of(stack.like).constants)
        counts = sorted({chosen + one.free_numbers for one in told or [stack.correction]})
        own = stack.like == name
        devices, models = ({of(one) for one in ran} for of in (device_of, model_of))
        enough = len(devices) >= LEAST_DEVICES or len(models) >= LEAST_MODELS
        lines.append({
            "stack": name, "kernels of": stack.kernels, "numbers of": "its own" if own else stack.like,
            "free numbers": "-".join(str(count) for count in (counts[0], counts[-1])[: len(counts)]),
            "devices": len(devices), "models": len(models), "rows": len(ran), "may have": "yes" if enough else "no",
        })  # fmt: skip
    return lines


def count_free_numbers(predictions: Sequence[Prediction]) -> int:
    """Return how many free numbers there are in all; those that are borrowed count once.

    Where each device (model) was left out, stacks have several sets of numbers: the largest counts.
    """
    found: dict[str, int] = {}
    for one in predictions:
        if one.stack:
            like = stack_of(one.stack).like
            numbers = stack_of(like).correction if one.numbers is None else one.numbers
            found[like] = max(found.get(like, 0), numbers.free_numbers + len(stack_of(like).constants))
    return sum(found.values())


def worst(predictions: Sequence[Prediction], count: int = 20) -> list[Line]:
    """Return the cells of tiers A+B that are furthest off, with their signs; saturated TTFT left out."""
    chosen = [one for one in scored(predictions) if not (one.kind == "TTFT" and one.saturated)]
    cells = sorted(cells_of(chosen), key=lambda cell: (-cell.error, cell.key))
    families = {one.row.cell: family_of(one) for one in chosen}
    return [
        {"off %": f"{cell.error:.0f}", "signed %": f"{cell.bias:+.0f}", "rows": cell.rows, "family": families[cell.key],
         **dict(zip(("source", "device", "model", "metric"), cell.key, strict=True))}
        for cell in cells[:count]
    ]  # fmt: skip


def borrowed(predictions: Sequence[Prediction]) -> list[Line]:
    """Return the score of tiers A+B of the rows whose model borrowed another's shape, and of the others."""
    lines = []
    for label, wanted in (("in the catalogue", False), ("borrowed shape", True)):
        for kind in KINDS:
            came = [one for one in scored(predictions) if one.kind == kind and one.borrowed == wanted
                    and not (one.kind == "TTFT" and one.saturated)]  # fmt: skip
            found = score(came)
            if found is not None:
                lines.append({"models": label, "what": kind, **_figures(found)})
    return lines


def assumptions(predictions: Sequence[Prediction]) -> list[Line]:
    """Return what rows did not state and was assumed, with the number of rows, most frequent first."""
    counts: dict[str, int] = {}
    for one in predictions:
        for text in one.assumptions:
            counts[text] = counts.get(text, 0) + 1
    return [
        {"rows": count, "assumed": text} for text, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def layers(predictions: Sequence[Prediction]) -> list[Line]:
    """Return the score of tiers A+B by the layer of knowledge behind the prices; saturated TTFT left out."""
    return by(predictions, "layer", lambda one: one.layer or "not run")


def aligned(lines: Sequence[Line]) -> str:
    """Return lines as a table of aligned columns; numbers to the right."""
    if not lines:
        return "(nothing)"
    names = list(lines[0])
    rows = [[f"{line[name]:,}" if isinstance(line[name], int) else str(line[name]) for name in names] for line in lines]
    widths = [max(len(row[index]) for row in [names, *rows]) for index in range(len(names))]
    right = [all(_is_figure(row[index]) for row in rows) for index in range(len(names))]
    made = []
    for row in [names, *rows]:
        cells = [
            text.rjust(width) if flag else text.ljust(width)
            for text, width, flag in zip(row, widths, right, strict=True)
        ]
        made.append("  ".join(cells).rstrip())
    return "\n".join(made)


def markdown(lines: Sequence[Line]) -> str:
    """Return lines as a table of Markdown."""
    if not lines:
        return "(nothing)"
    names = list(lines[0])
    head = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*head, *(f"| {' | '.join(_cell(line[name]) for name in names)} |" for line in lines)])


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")


def _is_figure(text: str) -> bool:
    return text == "-" or text.replace(",", "").lstrip("+-").replace(".", "", 1).isdigit()
