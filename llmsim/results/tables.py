"""Requests and steps as tables: CSV files, and columns for a DataFrame.

Numbers in the files have a fixed form: seconds with nine decimals and milliseconds with six, so both resolve a
nanosecond, far below what the model can tell, and the last bits that may differ from one machine's
mathematics library to another's don't show.  The DataFrame has the exact values.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsim.results.metrics import good, timings
from llmsim.results.records import Record
from llmsim.results.steps import COLUMNS, StepLog

if TYPE_CHECKING:
    import pandas

REQUEST_COLUMNS = (
    "request_id",
    "replica",
    "arrival_s",
    "admitted_s",
    "first_token_s",
    "finished_s",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "num_preemptions",
    "queue_ms",
    "prefill_ms",
    "ttft_ms",
    "tpot_ms",
    "e2el_ms",
    "priority",
    "session_id",
    "turn",
    "status",
    "good",
    "reason",
)
FIRST_TOKENS = "ttfn_ms"
STEP_COLUMNS = (
    "replica",
    "step",
    "start_s",
    "duration_ms",
    "num_reqs",
    "prefill_tokens",
    "decode_tokens",
    "kv_blocks_used",
    "waiting",
    "steps",
)


def requests_csv(
    records: Sequence[Record], goodput: Mapping[str, float] | None = None, *, first_tokens: bool = False
) -> Iterator[str]:
    """Yield the lines of requests.csv, with their newlines, the header first, in the order of ``records``.

    An empty field means "never came to that" or "was not asked".  Latencies over a whole answer (tpot, e2el) are
    those of finished requests only; ``good`` is empty without ``goodput`` (most milliseconds, by metric).
    With ``first_tokens`` there is one more column at the end, `FIRST_TOKENS`.
    """
    yield ",".join((*REQUEST_COLUMNS, *((FIRST_TOKENS,) if first_tokens else ()))) + "\n"
    verdicts = _verdicts(records, goodput)
    for record, verdict in zip(records, verdicts, strict=True):
        arrival, admitted, first, end = (
            record.arrival_s,
            record.admitted_s,
            record.first_token_s,
            record.finished_s,
        )
        finished = record.status == "finished" and end is not None
        output = record.output_tokens
        yield (
            f"{_quoted(record.id)},{'' if record.replica is None else record.replica},{arrival:.9f},"
            f"{'' if admitted is None else f'{admitted:.9f}'},{'' if first is None else f'{first:.9f}'},"
            f"{'' if end is None else f'{end:.9f}'},{record.prompt_tokens},{output},{record.cached_tokens},"
            f"{record.preemptions},{_milliseconds(arrival, admitted)},{_milliseconds(admitted, first)},"
            f"{_milliseconds(arrival, first)},"
            f"{_milliseconds(first, end, output - 1) if finished and output > 1 else ''},"
            f"{_milliseconds(arrival, end) if finished else ''},{record.priority},{_quoted(record.session_id)},"
            f"{'' if record.turn is None else record.turn},{record.status},{verdict},{_quoted(record.reason)}"
            f"{',' + _milliseconds(arrival, record.nth_token_s) if first_tokens else ''}\n"
        )


def steps_csv(logs: Sequence[StepLog]) -> Iterator[str]:
    """Yield the lines of steps.csv: one per batch, with the engine steps that it stands for in the last column.

    ``step`` is the number of the batch's first engine step, from 0; tokens and requests are those of one step.
    """
    yield ",".join(STEP_COLUMNS) + "\n"
    for replica, log in enumerate(logs):
        columns = log.columns()
        step = np.cumsum(columns["steps"]) - columns["steps"]
        duration_ms = (columns["end_s"] - columns["start_s"]) * 1e3
        batch = columns["decodes"] + columns["prefill_sequences"]
        names = ("prefill_tokens", "decodes", "blocks_used", "waiting", "steps")
        parts = [step, columns["start_s"], duration_ms, batch, *(columns[name] for name in names)]
        for row in zip(*(part.tolist() for part in parts), strict=True):
            yield f"{replica},%d,%.9f,%.6f,%d,%d,%d,%d,%d,%d\n" % row


def requests_frame(
    records: Sequence[Record], goodput: Mapping[str, float] | None = None, *, first_tokens: bool = False
) -> "pandas.DataFrame":
    """Return the columns of requests.csv as a DataFrame, with exact values; missing ones are NaN, NA or None."""
    import pandas

    times: dict[str, Any] = {
        name: np.array([getattr(record, name) for record in records], dtype=np.float64)
        for name in ("arrival_s", "admitted_s", "first_token_s", "finished_s")
    }
    arrival, admitted, first, end = times.values()
    outputs = np.array([record.output_tokens for record in records], dtype=np.int64)
    finished = np.array([record.status == "finished" for record in records], dtype=np.bool_)
    several = np.where(finished & (outputs > 1), outputs - 1, np.nan)
    verdicts = [None if verdict == "" else verdict == "true" for verdict in _verdicts(records, goodput)]
    columns = {
        "request_id": [record.id for record in records],
        "replica": pandas.array([record.replica for record in records], dtype="Int64"),
        **times,
        "input_tokens": np.array([record.prompt_tokens for record in records], dtype=np.int64),
        "output_tokens": outputs,
        "cached_tokens": np.array([record.cached_tokens for record in records], dtype=np.int64),
        "num_preemptions": np.array([record.preemptions for record in records], dtype=np.int64),
        "queue_ms": (admitted - arrival) * 1e3,
        "prefill_ms": (first - admitted) * 1e3,
        "ttft_ms": (first - arrival) * 1e3,
        "tpot_ms": (end - first) / several * 1e3,
        "e2el_ms": np.where(finished, end - arrival, np.nan) * 1e3,
        "priority": np.array([record.priority for record in records], dtype=np.int64),
        "session_id": [record.session_id for record in records],
        "turn": pandas.array([record.turn for record in records], dtype="Int64"),
        "status": [record.status for record in records],
        "good": pandas.array(verdicts, dtype="boolean"),
        "reason": [record.reason for record in records],
    }
    if first_tokens:
        moments = np.array([record.nth_token_s for record in records], dtype=np.float64)
        columns[FIRST_TOKENS] = (moments - arrival) * 1e3
    return pandas.DataFrame(columns)


def steps_frame(logs: Sequence[StepLog]) -> "pandas.DataFrame":
    """Return the step logs of all replicas as one DataFrame: ``replica``, then the columns of `StepLog`."""
    import pandas

    columns = [log.columns() for log in logs]
    replica = np.repeat(np.arange(len(logs)), [len(log) for log in logs])
    parts = {name: np.concatenate([part[name] for part in columns] or [np.empty(0)]) for name in COLUMNS}
    return pandas.DataFrame({"replica": replica, **parts})


def _verdicts(records: Sequence[Record], goodput: Mapping[str, float] | None) -> list[str]:
    """Return "true", "false" or "" for each record: whether it was good."""
    if goodput is None:
        return [""] * len(records)
    answers = iter(good(timings(records), goodput).tolist())
    # What did not finish is not good.
    return ["true" if record.status == "finished" and next(answers) else "false" for record in records]


def _milliseconds(start: float | None, end: float | None, parts: int = 1) -> str:
    return "" if start is None or end is None else f"{(end - start) / parts * 1e3:.6f}"


def _quoted(text: str | None) -> str:
    """Return ``text`` as a CSV field (RFC 4180)."""
    if text is None:
        return ""
    if "," in text or '"' in text or "\n" in text or "\r" in text:
        return '"' + text.replace('"', '""') + '"'
    return text
