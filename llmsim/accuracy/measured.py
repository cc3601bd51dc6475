"""Rows of measured results, as they stand in a table: read, checked, and with numbers as numbers."""

import csv
import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmsim.accuracy.replays import Recordings
from llmsim.errors import InputError

# Columns without which a row means nothing; all others may be missing.
NEEDED = ("id", "engine", "model", "device", "metric", "value", "class")
METRICS = ("e2e_ms", "ttft_ms", "tpot_ms", "itl_ms", "output_tok_s", "total_tok_s", "req_s", "tok_s_per_gpu")

_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number and what is told about it.  Numbers that are not given, or are words, are None.

    ``requests`` is the path of the recorded requests that it was measured with (`llmsim.accuracy.replays`), or empty.
    """

    id: str
    source: str
    engine: str
    model: str
    precision: str
    device: str
    devices: int | None
    tensor: int | None
    pipeline: int | None
    experts: int | None
    prompt: int | None
    output: int | None
    batch: int | None
    concurrency: int | None
    rate: float | None
    dataset: str
    metric: str
    statistic: str
    value: float
    kind: str
    device_norm: str
    model_norm: str
    tier: str
    notes: str
    line: int
    requests: str = ""

    @property
    def cell(self) -> tuple[str, str, str, str]:
        """What rows are put together by before anything is averaged: source, device, model, metric."""
        return self.source, self.device_norm or self.device, self.model_norm or self.model, self.metric


def read_measured(path: str | Path, requests: Mapping[str, str | Path] | None = None) -> list[Row]:
    """Return the rows of a CSV file of measured results, compressed if its name ends in ``.gz``.

    The columns are those of ``measured.csv``; rows are identified by their ``id``.

    Args:
        path: the table.
        requests: files of recorded requests by a text in the rows that were measured with them; others are looked
            for beside the table (`llmsim.accuracy.replays`).

    Raises:
        InputError: a file cannot be read, a needed column is missing, a value is no number, or an id occurs twice.
    """
    path = Path(path)
    recordings = Recordings(path, requests)
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            table = csv.DictReader(file)
            columns = table.fieldnames or ()
            missing = [name for name in NEEDED if name not in columns]
            if missing:
                raise InputError(f"{path}: not a table of measured results: no column {', '.join(missing)}")
            said = [{k: v or "" for k, v in cells.items() if k} for cells in table]
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    rows = [_row(path, line, cells, recordings) for line, cells in enumerate(said, 2)]
    seen: dict[str, int] = {}
    for row in rows:
        if row.id in seen:
            raise InputError(f"{path}:{row.line}: id {row.id!r} stands in line {seen[row.id]} already")
        seen[row.id] = row.line
    return rows


def _row(path: Path, line: int, said: Mapping[str, str], recordings: Recordings) -> Row:
    def text(name: str) -> str:
        return said.get(name, "").strip()

    try:
        value = float(text("value"))
    except ValueError:
        raise InputError(f"{path}:{line}: value: not a number (got {text('value')!r})") from None
    if not 0.0 < value < float("inf"):
        raise InputError(f"{path}:{line}: value: must be a positive number (got {text('value')!r})")
    return Row(
        id=text("id"),
        source=text("source_key") or text("source"),
        engine=text("engine"),
        model=text("model"),
        precision=text("precision"),
        device=text("device"),
        devices=_count(text("num_gpus")),
        tensor=_count(text("tp")),
        pipeline=_count(text("pp")),
        experts=_count(text("ep")),
        prompt=_amount(text("isl")),
        output=_amount(text("osl")),
        batch=_count(text("batch")),
        concurrency=_count(text("concurrency")),
        rate=_number(text("request_rate")) or None,
        dataset=text("dataset"),
        metric=text("metric"),
        statistic=text("statistic"),
        value=value,
        kind=text("class"),
        device_norm=text("device_norm"),
        model_norm=text("model_norm"),
        tier=text("tier"),
        notes=text("notes"),
        line=line,
        requests=recordings.find(said, f"{path}:{line}"),
    )


def _number(text: str) -> float | None:
    """Return a number that stands alone; None for anything else."""
    return float(text) if _NUMBER.fullmatch(text) else None


def _amount(text: str) -> int | None:
    """Return a whole number of zero or more."""
    number = _whole(text)
    return number if number is not None and number >= 0 else None


def _count(text: str) -> int | None:
    """Return a whole number above zero; nothing else says how many there were."""
    number = _whole(text)
    return number if number is not None and number > 0 else None


def _whole(text: str) -> int | None:
    number = _number(text)
    return int(number) if number is not None and number == int(number) else None


# Columns of the file whose field has a word of its own.
_FIELDS = {
    "source_key": "source", "class": "kind", "tp": "tensor", "pp": "pipeline", "ep": "experts", "isl": "prompt",
    "osl": "output", "num_gpus": "devices", "request_rate": "rate",
}  # fmt: skip


def select(rows: Sequence[Row], where: Mapping[str, str], limit: int | None = None) -> list[Row]:
    """Return the rows whose fields hold certain values, at most ``limit`` of them, evenly spread over the file.

    A value ends in ``*`` to match all that begin so.

    Raises:
        InputError: rows have no such field.
    """
    known = sorted({*Row.__dataclass_fields__, *_FIELDS})
    for key in where:
        if key not in known:
            raise InputError(f"--where: no column {key!r}\nhint: known: {', '.join(known)}")
    kept = [row for row in rows if all(_matches(getattr(row, _FIELDS.get(k, k)), v) for k, v in where.items())]
    if limit is None or limit >= len(kept):
        return kept
    return list(_spread(kept, limit))


def _matches(value: object, wanted: str) -> bool:
    text = "" if value is None else str(value)
    return text.startswith(wanted[:-1]) if wanted.endswith("*") else text == wanted


def _spread(rows: Sequence[Row], count: int) -> Iterator[Row]:
    for index in range(count):
        yield rows[index * len(rows) // count]
