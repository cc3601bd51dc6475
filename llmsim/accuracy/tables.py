"""The score as text: one page for the terminal, and the same as report.md."""

from collections.abc import Callable, Sequence
from typing import Any

from llmsim.accuracy.score import KINDS, Prediction, Score, grouped, reasons, score, scored
from llmsim.performance.correction import stack_of

Line = dict[str, Any]
# What the project aims at, median over cells in per cent, with stacks that never saw the device or model under test.
TARGETS = {"TPOT and E2E": 8.0, "throughput": 10.0, "unsaturated TTFT": 15.0}


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


def device_of(one: Prediction) -> str:
    """Return the device of a prediction."""
    return one.row.device_norm or one.row.device


def model_of(one: Prediction) -> str:
    """Return the model of a prediction."""
    return one.row.model_norm or one.row.model


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
    """Return the stacks that took part, with the free numbers that price them."""
    lines = []
    for name in sorted({one.stack for one in predictions if one.stack}):
        stack = stack_of(name)
        lines.append({
            "stack": name, "kernels of": stack.kernels, "numbers of": stack.like if stack.like != name else "its own",
            "free numbers": stack.correction.free_numbers,
        })  # fmt: skip
    return lines


def count_free_numbers(predictions: Sequence[Prediction]) -> int:
    """Return how many free numbers there are in all; those that are borrowed count once."""
    found = {stack_of(name).like for name in {one.stack for one in predictions if one.stack}}
    return sum(stack_of(name).correction.free_numbers for name in found)


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
