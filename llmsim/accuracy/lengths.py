"""The lengths of a measured row's requests: told in numbers, or by the name of a data set."""

import re
from typing import Any

from llmsim.accuracy.datasets import Dataset, dataset_named
from llmsim.accuracy.measured import Row


class NotRunError(Exception):
    """A row that cannot be turned into a scenario; the message says why."""


def lengths_of(row: Row) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the lengths of a row's requests, and what had to be assumed."""
    if row.prompt is not None and row.output is not None:
        least = re.search(r"\[0\.(\d+) ?\*? ?(?:ISL|L)\b", row.notes)
        share = float(f"0.{least[1]}") if least else None
        if share is None:
            return fixed(row.prompt, row.output), ()
        return {"name": "uniform", "prompt": {"low": round(share * row.prompt), "high": row.prompt},
                "output": {"low": max(round(share * row.output), 1), "high": row.output}}, ()  # fmt: skip
    data = dataset_named(row.dataset)
    if data is None:
        raise NotRunError("the lengths of prompts and answers are not stated")
    return drawn_from(data, row.notes), (f"lengths: {data.source}",)


def fixed(prompt: int, output: int) -> dict[str, Any]:
    """Return the section of requests that are all alike; at least one token a side."""
    return {"name": "fixed", "prompt": {"value": max(prompt, 1)}, "output": {"value": max(output, 1)}}


def _rounded(mean: float) -> float:
    """Return a mean to 2 % of it: runs that differ by less share a simulation."""
    step = 5.0 if mean < 200 else 10.0 if mean < 1000 else 100.0
    return step * max(round(mean / step), 1)


def drawn_from(data: Dataset, notes: str = "") -> dict[str, Any]:
    """Return the dataset's section; where notes tell how many tokens a sample generated, that is the mean."""
    output = dict(data.output)
    told = re.search(r"generated tokens/sample[^=]*=(\d+(?:\.\d+)?)", notes)
    if told and "mean" in output:
        mean = _rounded(float(told[1]))
        output |= {"mean": mean, "sd": round(output["sd"] * mean / float(data.output["mean"]), 1)}
    section: dict[str, Any] = {"name": "lengths", "prompt": dict(data.prompt), "output": output}
    if data.shared is not None:
        section["shared_prefix"] = {"tokens": data.shared[0], "count": data.shared[1]}
    return section
