"""A run as a timeline to look at in https://ui.perfetto.dev: engine steps, requests, queue and cache.

The file is Chrome's trace format in JSON, of which Perfetto reads (its documentation, "Other trace formats"): complete
events ``X`` for the steps, which on one thread may nest but never overlap; asynchronous events ``b``, ``n``, ``e`` for
the requests, which do overlap; counters ``C``; and metadata ``M``.  Times are microseconds.  A replica is a process, a
stage of its pipeline a thread.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsim.errors import InputError
from llmsim.results import occupancy
from llmsim.results.lifelines import pauses
from llmsim.results.odometer import Floats
from llmsim.results.outcome import Outcome
from llmsim.results.records import Record
from llmsim.results.steps import StepLog
from llmsim.textfile import written

FIRST_SECONDS = 60.0  # shown unless more is asked for
MOST_EVENTS = 200_000  # what Perfetto opens without a pause: 20 MB of JSON, 1 MB packed
_EVENTS_PER_REQUEST = 11  # begins, ends and instants of one that was not preempted

Event = tuple[int, str]  # nanoseconds, JSON


def save_timeline(
    outcome: Outcome, path: str | Path, *, seconds: float = FIRST_SECONDS, most_events: int = MOST_EVENTS
) -> Path:
    """Write the timeline of a run, compressed if ``path`` ends in .gz, and return its path.

    Leaps are written out step by step.  Queue and cache are known at the start of each leap.

    Args:
        outcome: the run.
        path: where to, usually ``timeline.json.gz``.
        seconds: of simulated time from the first arrival on that are shown; inf: all.
        most_events: the file ends earlier where it would have many more events than that.

    Raises:
        InputError: ``seconds`` or ``most_events`` is not above 0, or the file cannot be written.
    """
    if not seconds > 0 or most_events < 1:
        raise InputError(f"timeline: shows more than nothing (got seconds={seconds}, most_events={most_events})")
    begin_s, end_s, whole_s = _bounds(outcome, seconds, most_events)
    events = sorted(_events(outcome, end_s), key=lambda event: event[0])
    note = _note(begin_s, end_s, whole_s, seconds)
    if note:
        last = max(_ns(end_s), events[-1][0] if events else 0)
        events.append((last, _json(ph="i", s="g", pid=0, tid=0, ts=last / 1e3, name=note)))
    head = {"displayTimeUnit": "ms", "otherData": _facts(outcome, note)}
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written(target) as text:
            text.write(json.dumps(head)[:-1] + ', "traceEvents": [\n')
            text.write(",\n".join([*_names(outcome), *(line for _, line in events)]))
            text.write("\n]}\n")
    except OSError as error:
        raise InputError(f"{target}: the timeline cannot be written ({error.strerror or error})") from error
    return target


# ---------------------------------------------------------------------- how much of the run


def _bounds(outcome: Outcome, seconds: float, most_events: int) -> tuple[float, float, float]:
    """Return from when until when the file shows the run, and when the run ended, in seconds."""
    arrivals = np.array([record.arrival_s for record in outcome.records])
    rows = occupancy.span(outcome.steps)
    moments = [float(arrivals.min()), float(arrivals.max())] if len(arrivals) else []
    moments += rows or ()
    if not moments:
        return 0.0, 0.0, 0.0
    begin_s, whole_s = min(moments), max(moments)
    end_s = min(begin_s + seconds, whole_s)
    times = [np.repeat(arrivals[arrivals < end_s], _EVENTS_PER_REQUEST)]
    for log in outcome.steps:
        starts, _, row = _steps(log, end_s)
        times += [np.repeat(starts, _stages(log)), np.repeat(log.columns()["start_s"][np.unique(row)], 3)]
    together = np.concatenate(times)
    if len(together) > most_events:
        end_s = min(end_s, float(np.partition(together, most_events)[most_events]))
    return begin_s, end_s, whole_s


def _note(begin_s: float, end_s: float, whole_s: float, seconds: float) -> str | None:
    """Return what the file leaves out, or None."""
    if end_s >= whole_s:
        return None
    why = "" if end_s >= begin_s + seconds else ", where it has as many events as a viewer takes"
    return f"timeline ends here: {end_s - begin_s:.3f} s of {whole_s - begin_s:.3f} s simulated{why}"


def _facts(outcome: Outcome, note: str | None) -> dict[str, Any]:
    setup = outcome.setup
    facts = {
        "llmsim_version": setup.version, "scenario": setup.name, "scenario_sha256": setup.scenario_sha256,
        "engine": setup.engine, "model": setup.model, "devices": setup.devices, "plan": setup.plan,
        "workload": setup.workload, "seed": outcome.seed, "note": note,
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value is not None}


# ---------------------------------------------------------------------- events


def _events(outcome: Outcome, end_s: float) -> Iterator[Event]:
    """Yield all events before ``end_s``, those of one request or one thread in the order of time."""
    for replica, log in enumerate(outcome.steps):
        yield from _step_events(replica, log, end_s)
        yield from _counters(replica, log, outcome.setup.blocks, end_s)
    nowhere = len(outcome.steps)
    rows = occupancy.span(outcome.steps)
    last_s = max([rows[1] if rows else 0.0, *(record.arrival_s for record in outcome.records)])
    for number, record in enumerate(outcome.records):
        if record.arrival_s <= end_s:
            pid = nowhere if record.replica is None else record.replica
            yield from _request(record, number, pid, pauses(outcome, record), end_s, last_s)


def _names(outcome: Outcome) -> Iterator[str]:
    """Yield the names of processes and threads."""
    names = [f"replica {number}" for number in range(len(outcome.steps))]
    if any(record.replica is None for record in outcome.records):
        names.append("requests that reached no replica")
    for pid, name in enumerate(names):
        yield _json(ph="M", pid=pid, tid=0, ts=0, name="process_name", args={"name": name})
        yield _json(ph="M", pid=pid, tid=0, ts=0, name="process_sort_index", args={"sort_index": pid})
        stages = _stages(outcome.steps[pid]) if pid < len(outcome.steps) else 0
        for stage in range(stages):
            label = "steps" if stages == 1 else f"stage {stage}"
            yield _json(ph="M", pid=pid, tid=stage, ts=0, name="thread_name", args={"name": label})


def _steps(log: StepLog, end_s: float) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return begin and end of each engine step that begins before ``end_s``, and its row in the log."""
    columns = log.columns()
    chosen = np.flatnonzero(columns["start_s"] < end_s)
    counts = columns["steps"][chosen].astype(np.int64)
    row = np.repeat(chosen, counts)
    step = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    first, last = columns["first_step_s"], columns["last_step_s"]
    slope = (last - first) / np.maximum(columns["steps"] - 1, 1)
    # The sum of the durations of the steps of a row up to each: an arithmetic series.
    done = first[row] * (step + 1) + slope[row] * step * (step + 1) / 2
    last_of_row = step == columns["steps"][row] - 1
    ends = np.where(
        last_of_row, columns["end_s"][row], np.minimum(columns["start_s"][row] + done, columns["end_s"][row])
    )
    starts = np.where(step == 0, columns["start_s"][row], np.concatenate(([0.0], ends[:-1])) if len(ends) else ends)
    kept = starts < end_s
    return starts[kept], ends[kept], row[kept]


def _stages(log: StepLog) -> int:
    return 1 if log.stage_moments is None else log.stage_moments.shape[1]


def _step_events(replica: int, log: StepLog, end_s: float) -> Iterator[Event]:
    columns = log.columns()
    starts, ends, rows = _steps(log, end_s)
    moments = log.stage_moments
    before = -1
    for number, (start, end, row) in enumerate(zip(starts.tolist(), ends.tolist(), rows.tolist(), strict=True)):
        decodes, prefill = int(columns["decodes"][row]), int(columns["prefill_tokens"][row])
        sequences = int(columns["prefill_sequences"][row])
        arguments = {"step": number, "batch_size": decodes + sequences, "prefill_tokens": prefill}
        if log.speculation is None:
            arguments |= {"decode_tokens": decodes, "tokens": decodes + prefill}
        if row != before:
            arguments["kv_blocks_used"] = int(columns["blocks_used"][row])
        before = row
        decoding = "decode" if log.speculation is None else "verify"
        name = decoding if not prefill else f"{decoding} and prefill" if decodes else "prefill"
        spans = [(start, end)] if moments is None else [tuple(pair) for pair in moments[row].tolist()]
        for stage, (begin, done) in enumerate(spans):
            begin_ns = _ns(begin)
            line = _json(
                ph="X", pid=replica, tid=stage, ts=begin_ns / 1e3, dur=(_ns(done) - begin_ns) / 1e3, name=name,
                cat="step", args=arguments,
            )  # fmt: skip
            yield begin_ns, line


def _counters(replica: int, log: StepLog, blocks: int | None, end_s: float) -> Iterator[Event]:
    """Yield the counters where they change; they fall to zero where the replica falls idle."""
    columns = log.columns()
    cache = "kv_cache_usage" if blocks else "kv_blocks_used"
    shown = {"running": columns["running"], "waiting": columns["waiting"]}
    shown[cache] = columns["blocks_used"] / (blocks or 1)
    from_s, until_s = occupancy.hold(log)
    for name, values in shown.items():
        before: float | None = None
        for row in np.flatnonzero(from_s < end_s).tolist():
            moments = [(float(from_s[row]), float(values[row]))]
            if row + 1 == len(log) or until_s[row] < from_s[row + 1]:
                moments.append((float(until_s[row]), 0.0))
            for moment, value in moments:
                if value != before and moment <= end_s:
                    stamp = _ns(moment)
                    yield stamp, _json(ph="C", pid=replica, ts=stamp / 1e3, name=name, args={name: round(value, 6)})
                    before = value


def _request(
    record: Record, number: int, pid: int, out: Sequence[tuple[float, float]], end_s: float, last_s: float
) -> Iterator[Event]:
    """Yield begin, phases, instants and end of a request, in the order of time."""
    cut = (math.inf if record.finished_s is None else record.finished_s) > end_s
    done = min(last_s, end_s) if record.finished_s is None or cut else record.finished_s
    done = max(done, record.arrival_s)
    if record.status == "rejected":
        done, cut = record.arrival_s, False
    common = {"cat": "request", "id": f"{number + 1:#x}", "pid": pid, "tid": 0}

    def event(phase: str, moment_s: float, name: str, **arguments: Any) -> Event:
        stamp = _ns(moment_s)
        extra = {"args": arguments} if arguments else {}
        return stamp, _json(ph=phase, ts=stamp / 1e3, name=name, **common, **extra)

    facts = {
        "request": record.id, "status": record.status, "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens, "cached_tokens": record.cached_tokens,
        "preemptions": record.preemptions, "reason": record.reason, "session": record.session_id,
        "tenant": record.tenant, "goes_on_after_the_end_of_this_file": cut or None,
    }  # fmt: skip
    yield event("b", record.arrival_s, "request", **{key: value for key, value in facts.items() if value is not None})
    moments = [record.arrival_s, record.admitted_s, record.first_token_s, record.finished_s]
    for phase, begin, until in zip(("queued", "prefill", "decode"), moments, moments[1:], strict=False):
        if begin is None or begin >= done or record.status == "rejected":
            continue
        stop = done if until is None else min(until, done)
        yield event("b", begin, phase)
        for out_s, back_s in out:
            if begin <= out_s < stop:
                yield event("b", out_s, "out of the batch")
                yield event("n", out_s, "preempted")
                yield event("e", min(back_s, stop), "out of the batch")
        yield event("e", stop, phase)
        if phase == "prefill" and until is not None and until <= done:
            yield event("n", until, "first_token")
    yield event("e", done, "request")


def _ns(seconds: float) -> int:
    """Return whole nanoseconds: they keep their order, and events that touch do not overlap by a rounding."""
    return round(seconds * 1e9)


def _json(**fields: Any) -> str:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
