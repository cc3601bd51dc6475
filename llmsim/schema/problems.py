"""What is wrong with a scenario, in words: pydantic's findings as lines with file, line, column and key."""

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from llmsim.schema.other_flags import ALL_FLAGS
from llmsim.schema.overrides import SHORT
from llmsim.schema.source import Key, Source, dotted

# pydantic's "Input should be ..." in our words; what is missing here keeps pydantic's own sentence.
_BOUNDS = re.compile(r"Input should be (greater|less) than (or equal to )?(.*)")


def translate(error: ValidationError, root: type[BaseModel], source: Source) -> list[str]:
    """Return one line for each finding of ``error``, in the order of the file."""
    lines: dict[str, None] = {}
    for finding in error.errors(include_url=False):
        key = real_key(finding["loc"], source.data)
        lines[f"{source.where(key)}: {_what(finding, key, root)}"] = None
    return in_file_order(list(lines))


def real_key(location: tuple[int | str, ...], data: Any) -> Key:
    """Return ``location`` without the parts that pydantic adds for the members of a union."""
    key: list[int | str] = []
    for index, part in enumerate(location):
        if isinstance(data, dict) and part in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif index < len(location) - 1 or not isinstance(data, dict):
            continue
        key.append(part)
    return tuple(key)


def split(message: str) -> list[str]:
    """Return the findings in ``message``, each with its hint."""
    return re.split(r"\n(?!hint: )", message)


def in_file_order(lines: list[str]) -> list[str]:
    """Return ``lines`` by file position; those without a position keep their place at the end."""

    def position(line: str) -> tuple[int, int, int]:
        match = re.match(r"\S+?:(\d+):(\d+): ", line)
        return (0, int(match[1]), int(match[2])) if match else (1, 0, 0)

    return sorted(lines, key=position)


def _what(finding: Any, key: Key, root: type[BaseModel]) -> str:
    kind, given = finding["type"], finding["input"]
    if kind == "extra_forbidden":
        return _unknown(key, root)
    if kind == "missing":
        return "missing"
    if kind == "value":
        return str(finding["msg"])
    if kind == "value_error":
        return str(finding["ctx"]["error"])
    if kind == "literal_error":
        known = re.findall(r"'([^']+)'|(\b\d+\b)", finding["ctx"]["expected"])
        return _not_among([word or digit for word, digit in known], given)
    bounds = _BOUNDS.fullmatch(finding["msg"])
    if bounds:
        word = {"greater": "at least" if bounds[2] else "above", "less": "at most" if bounds[2] else "below"}[bounds[1]]
        return f"must be {word} {bounds[3]} (got {given})"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"must be a mapping of keys to values (got {given!r})"
    if kind == "list_type":
        return f"must be a list (got {given!r})"
    return f"{finding['msg'][0].lower()}{finding['msg'][1:]} (got {given!r})"


def _not_among(known: list[str], given: Any) -> str:
    close = difflib.get_close_matches(str(given), known, n=1)
    if len(known) <= 6 or not close:
        return f"must be {' or '.join([', '.join(known[:-1]), known[-1]]) if known[:-1] else known[-1]} (got {given!r})"
    return f"unknown value (got {given!r})\nhint: did you mean {close[0]!r}?"


def _unknown(key: Key, root: type[BaseModel]) -> str:
    name = str(key[-1])
    section = _section(root, key[:-1])
    siblings = list(section.model_fields) if section else []
    close = difflib.get_close_matches(name.replace("-", "_"), siblings, n=1, cutoff=0.7)
    if not close:
        elsewhere = [full for full in all_keys(root) if full.rsplit(".", 1)[-1] == name.replace("-", "_")]
        close = elsewhere[:1]
    if not close and len(key) == 1:
        close = difflib.get_close_matches(name.replace("-", "_"), [*SHORT, *ALL_FLAGS], n=1, cutoff=0.8)
    if close:
        return f"unknown key (did you mean {close[0]!r}?)"
    if len(siblings) <= 12:
        return f"unknown key (known: {', '.join(siblings)})"
    return "unknown key"


def _section(root: type[BaseModel], key: Key) -> type[BaseModel] | None:
    section: type[BaseModel] | None = root
    for part in key:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part) if section else None
        section = inner_model(field.annotation) if field else None
    return section


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic model within ``annotation``, which may be optional or a list of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for model in map(inner_model, get_args(annotation)) if model), None)


def all_keys(root: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key below ``root``."""
    for name, field in root.model_fields.items():
        yield dotted((prefix, name)) if prefix else name
        model = inner_model(field.annotation)
        if model:
            yield from all_keys(model, f"{prefix}.{name}".removeprefix("."))
