"""Requests with time stamps, as CSV or JSON lines: when each came, when its first token and its last one."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import isfinite, nan
from typing import Any

import numpy as np

from llmsim.calibration.measured import Load
from llmsim.errors import InputError
from llmsim.workload.readers.synonyms import (
    ENGINE_TIME_NAMES,
    OUTPUT_NAMES,
    PROMPT_NAMES,
    TIME_NAMES,
    normal,
    pick,
    unit_of,
)

_FIRST = ("first_token_s", "first_token_ts", "first_token_time", "first_token_at", "first_token", "first_token_ms")
_LAST = (
    "finished_s", "last_token_ts", "last_token_s", "finished_at", "finish_time", "finish_ts", "end_time", "end_ts",
    "end_s", "completed_at", "end", "finished", "end_ms", "finished_ms",
)  # fmt: skip
_FIRST_SPANS = ("ttft_s", "ttft_ms", "ttft", "time_to_first_token_ms", "time_to_first_token_s", "time_to_first_token")
_LAST_SPANS = (
    "e2el_s", "e2el_ms", "e2el", "e2e_s", "e2e_ms", "e2e_latency_s", "e2e_latency_ms", "e2e_latency", "latency_s",
    "latency_ms", "latency", "duration_s", "duration_ms", "request_latency_ms", "elapsed_time",
)  # fmt: skip
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_ENDED = ("finished", "ok", "success", "succeeded", "completed", "stop", "length", "200", "")
_FEWEST = 2


def is_requests(columns: Iterable[str]) -> bool:
    """Say whether a table with these columns holds requests with time stamps."""
    names = list(columns)
    timed = pick((*_FIRST, *_FIRST_SPANS, *_LAST, *_LAST_SPANS), names)
    return timed is not None and pick(PROMPT_NAMES, names) is not None and pick(OUTPUT_NAMES, names) is not None


def read_requests(name: str, rows: list[tuple[int, Mapping[str, Any]]]) -> Load:
    """Return the requests of a table, ``rows`` with their line numbers; times are s unless a column's name says ms.

    Raises:
        InputError: a column is missing, a value is none, or times run backward.
    """
    if not rows:
        raise InputError(f"{name}: no requests")
    columns = list(rows[0][1])
    at_engine = pick(ENGINE_TIME_NAMES, columns)  # first: a client's clock may stand beside
    arrival = at_engine or pick(TIME_NAMES, columns)
    prompt, output = pick(PROMPT_NAMES, columns), pick(OUTPUT_NAMES, columns)
    first, last = _column(columns, _FIRST, _FIRST_SPANS), _column(columns, _LAST, _LAST_SPANS)
    if arrival is None or prompt is None or output is None:
        raise InputError(f"{name}: no column of arrivals, prompt or output tokens (got {', '.join(columns)})")
    status = next((column for column in columns if normal(column) == "status"), None)
    table: list[tuple[float, int, int, float, float]] = []
    for line, row in rows:
        if status is not None and str(row.get(status, "")).strip().lower() not in _ENDED:
            continue
        where = f"{name}:{line}"
        moment = _time(where, row, arrival)
        begun, ended = (_span(where, row, one, moment) for one in (first, last))
        table.append((moment, _count(where, row, prompt), _count(where, row, output), begun, ended))
    return _load(name, table, left_out=len(rows) - len(table), at_engine=at_engine is not None)


def _load(name: str, table: list[tuple[float, int, int, float, float]], *, left_out: int, at_engine: bool) -> Load:
    if len(table) < _FEWEST:
        raise InputError(f"{name}: too few requests that ended (got {len(table)})")
    table.sort(key=lambda row: row[0])
    moments, prompts, outputs, first, last = (np.array(column) for column in zip(*table, strict=True))
    notes = (f"{left_out} requests that did not end are left out",) if left_out else ()
    return Load(
        name=name,
        arrivals=moments - moments[0],
        prompts=prompts.astype(np.int64),
        outputs=outputs.astype(np.int64),
        first_token=first,
        end_to_end=last,
        at_engine=at_engine,
        notes=notes,
    )


def _column(columns: list[str], stamps: tuple[str, ...], spans: tuple[str, ...]) -> tuple[str, bool] | None:
    """Return the column and whether it is a span since the arrival; None without one."""
    stamp, span = pick(stamps, columns), pick(spans, columns)
    if stamp is not None:
        return stamp, False
    return None if span is None else (span, True)


def _span(where: str, row: Mapping[str, Any], column: tuple[str, bool] | None, arrival: float) -> float:
    if column is None or row.get(column[0]) in (None, ""):
        return nan
    name, since_arrival = column
    seconds = _time(where, row, name)
    span = seconds if since_arrival else seconds - arrival
    if not 0.0 < span < 1e7:
        raise InputError(
            f"{where}: {name}: not after the arrival (got {span:g} s after it)\n"
            "hint: arrival, first token and end must be of one clock"
        )
    return span


def _time(where: str, row: Mapping[str, Any], column: str) -> float:
    value: Any = row.get(column)
    try:
        seconds = float(value) * _UNITS[unit_of(column) or "s"]
    except (TypeError, ValueError):
        seconds = _date(where, column, value)
    if not isfinite(seconds):
        raise InputError(f"{where}: {column}: not a time (got {value!r})")
    return seconds


def _date(where: str, column: str, value: Any) -> float:
    try:
        moment = datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise InputError(f"{where}: {column}: not a time (got {value!r})") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _count(where: str, row: Mapping[str, Any], column: str) -> int:
    value: Any = row.get(column)
    try:
        count = float(value)
        if count != int(count) or count < 1:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: {column}: not a number of tokens (got {value!r})") from None
    return int(count)
