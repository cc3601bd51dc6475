"""Measured files, recognised by what is in them."""

import csv
import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsim.calibration.bench_files import TIMES, is_forward, is_serve, read_forward, read_serve
from llmsim.calibration.measured import Kernel, Kernels, Measured
from llmsim.calibration.request_files import is_requests, read_requests
from llmsim.errors import InputError

Rows = list[tuple[int, Mapping[str, Any]]]

# Operator -> the sizes that it needs, and those that it may have with what they are otherwise.
OPERATORS: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "gemm": (("m", "n", "k"), {}),
    "prefill_attention": (("tokens",), {"batch": 1.0, "prefix": 0.0}),
    "decode_attention": (("batch", "context"), {}),
    "all_reduce": (("bytes",), {}),
    "all_gather": (("bytes",), {}),
}
_HINT = (
    "hint: the JSON of vllm bench serve or vllm bench forward; requests with time stamps as CSV or JSON lines; "
    "or kernels as CSV: operator, sizes, seconds"
)


def read(path: str | Path) -> list[Measured]:
    """Return what is in a file: one entry, or one for each result of a file that holds several.

    Raises:
        InputError: the file cannot be read, is of no known kind, or is malformed.
    """
    path = Path(path)
    text = _text(path)
    if not text.strip():
        raise InputError(f"{path}: is empty")
    if text.lstrip()[0] in "[{":
        return _json(path, text)
    return [_table(path, text)]


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _json(path: Path, text: str) -> list[Measured]:
    name = path.name
    try:
        content = json.loads(text)
    except ValueError:
        return _lines(path, text)
    if is_serve(content):
        return [read_serve(name, content)]
    if is_forward(content):
        return [read_forward(name, content)]
    if isinstance(content, dict) and is_forward(content.get("cases") or content.get("results")):
        return [read_forward(name, content.get("cases") or content["results"])]
    if isinstance(content, list) and content and all(isinstance(one, dict) for one in content):
        return _several(path, [(index + 1, one) for index, one in enumerate(content)])
    if isinstance(content, dict) and is_requests(content):
        raise InputError(f"{path}: one request is too few")
    raise InputError(f"{path}: JSON of no known kind\n{_HINT}")


def _lines(path: Path, text: str) -> list[Measured]:
    """Return what JSON lines hold."""
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: not an object (got {line[:60]!r})")
        rows.append((number, row))
    return _several(path, rows)


def _several(path: Path, rows: list[tuple[int, Mapping[str, Any]]]) -> list[Measured]:
    if all(is_serve(row) for _, row in rows):
        return [read_serve(f"{path.name}:{number}", row) for number, row in rows]
    if is_requests(rows[0][1]):
        return [read_requests(path.name, rows)]
    raise InputError(f"{path}: JSON of no known kind (keys: {', '.join(list(rows[0][1])[:12])})\n{_HINT}")


def _table(path: Path, text: str) -> Measured:
    lines = io.StringIO(text, newline="")
    try:
        table = csv.DictReader(lines, strict=True)
        columns = [name.strip() for name in table.fieldnames or ()]
        rows: Rows = [
            (number, {str(key).strip(): value for key, value in row.items()}) for number, row in enumerate(table, 2)
        ]
    except csv.Error as error:
        raise InputError(f"{path}: not CSV ({error})") from None
    for number, row in rows:
        if "None" in row or any(value is None for value in row.values()):
            raise InputError(f"{path}:{number}: {len(columns)} columns in the header, but not in this row")
    if is_requests(columns):
        return read_requests(path.name, rows)
    if any(name.lower() in ("operator", "op", "kernel") for name in columns):
        return read_kernels(path.name, rows)
    raise InputError(f"{path}: a table of no known kind (columns: {', '.join(columns[:12])})\n{_HINT}")


def read_kernels(name: str, rows: list[tuple[int, Mapping[str, Any]]]) -> Kernels:
    """Return timed kernels: a column ``operator``, one of seconds (or ``us``, ``ms``), the others are sizes.

    Raises:
        InputError: an operator is not known, or a size or duration is missing or no number.
    """
    if not rows:
        raise InputError(f"{name}: no kernels")
    return Kernels(name, tuple(_kernel(name, number, row) for number, row in rows))


def _kernel(name: str, line: int, row: Mapping[str, Any]) -> Kernel:
    where = f"{name}:{line}"
    said = {key.lower(): value for key, value in row.items()}
    operator = str(said.get("operator") or said.get("op") or said.get("kernel")).strip().lower()
    if operator not in OPERATORS:
        raise InputError(f"{where}: operator: not known (got {operator!r})\nhint: known: {', '.join(OPERATORS)}")
    needed, more = OPERATORS[operator]
    sizes = {key: _positive(where, key, said.get(key)) for key in needed}
    for key, otherwise in more.items():
        sizes[key] = _positive(where, key, said[key], zero=True) if said.get(key) else otherwise
    unit = next((key for key in TIMES if said.get(key) not in (None, "")), None)
    if unit is None:
        raise InputError(f"{where}: no duration: none of the columns {', '.join(TIMES)}")
    return Kernel(operator, sizes, _positive(where, unit, said[unit]) * TIMES[unit], line)


def _positive(where: str, key: str, value: Any, *, zero: bool = False) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {key}: not a number (got {value!r})") from None
    if not (0.0 if zero else 1e-300) <= number < float("inf"):
        raise InputError(f"{where}: {key}: must be positive (got {value!r})")
    return number
