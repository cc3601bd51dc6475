"""What ``llmsim sweep --set`` says: a list, a range, or one value for all points."""

from typing import Any

import click

# More values than anybody means; a step that is too small by mistake ends here.
MOST_VALUES = 10_000


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Return key and values of ``KEY=A,B,C``, ``KEY=[A, B]``, ``KEY=FIRST:LAST:STEP`` or ``KEY=FIRST:LAST:xFACTOR``.

    Values that are lists stand side by side too: ``KEY=[1, 2],[1, 4]``.

    Ranges hold their last value when the steps meet it.  One value alone is a list of one.

    Raises:
        click.UsageError: it is none of these.
    """
    from llmsim.schema.source import value_of

    key, given, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not given or not key or not value:
        raise click.UsageError(f"--set {text}: not of the form KEY=VALUE or KEY=A,B,C")
    if value[0] == "[" and len(_split(value)) == 1:
        values = value_of(value)
        if not isinstance(values, list):
            raise click.UsageError(f"--set {text}: not a list")
        return key, values
    parts = value.split(":")
    if len(parts) == 3 and all(isinstance(value_of(part.lstrip("x")), int | float) for part in parts):
        return key, _range(text, value_of(parts[0]), value_of(parts[1]), parts[2])
    return key, [value_of(part) for part in _split(value)]


def _range(text: str, first: float, last: float, step: str) -> list[float]:
    """Return the values from ``first`` to ``last``."""
    from llmsim.schema.source import value_of

    factor = step.startswith("x")
    by = value_of(step.lstrip("x"))
    grows = first > 0 and by > 1 if factor else by > 0
    if not grows or last < first:
        raise click.UsageError(f"--set {text}: a range goes up: FIRST:LAST:STEP, or FIRST:LAST:xFACTOR with FACTOR > 1")
    values = [first]
    # A billionth of grace for what rounding takes away: 0.1:0.3:0.1 has three values.
    while True:
        following = first * by ** len(values) if factor else first + by * len(values)
        if following > last * (1 + 1e-9) or len(values) > MOST_VALUES:
            break
        values.append(following)
    if len(values) > MOST_VALUES:
        raise click.UsageError(f"--set {text}: more than {MOST_VALUES} values")
    return [float(f"{value:.12g}") if isinstance(value, float) else value for value in values]


def _split(value: str) -> list[str]:
    """Cut at the commas that stand outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and not depth:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts]
