"""A validator of timelines in Chrome's JSON format, as Perfetto reads it (its page "Other trace formats").

Perfetto's own package fetches a program at run time, so the rules are written down here: complete events of one thread
nest, asynchronous events pair by (pid, cat, id) and nest, times are sorted, and every phase is one that viewers show.
"""

import gzip
import json

PHASES = set("MXCibne")
REQUIRED = {
    "M": {"name", "pid", "args"},
    "X": {"name", "pid", "tid", "ts", "dur"},
    "C": {"name", "pid", "ts", "args"},
    "i": {"name", "pid", "tid", "ts", "s"},
    "b": {"name", "cat", "id", "pid", "ts"},
    "n": {"name", "cat", "id", "pid", "ts"},
    "e": {"name", "cat", "id", "pid", "ts"},
}


def read(path):
    """Return the document of a file, after the checks that its bytes allow."""
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    return json.loads(text, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(f"{name} is not JSON")))


def problems(document):
    """Return what a viewer would stumble over, one sentence each."""
    found = []
    before = None
    threads, spans = {}, {}
    for number, event in enumerate(document["traceEvents"]):
        phase = event.get("ph")
        if phase not in PHASES:
            found.append(f"event {number}: phase {phase!r}")
            continue
        missing = REQUIRED[phase] - event.keys()
        if missing:
            found.append(f"event {number} ({phase}): no {', '.join(sorted(missing))}")
            continue
        if phase == "M":
            continue
        stamp = round(event["ts"] * 1000)  # whole nanoseconds
        if before is not None and stamp < before:
            found.append(f"event {number}: {stamp} ns after {before} ns")
        before = stamp
        if phase == "X":
            found += _complete(threads.setdefault((event["pid"], event["tid"]), []), event, stamp, number)
        elif phase == "C":
            found += [
                f"event {number}: counter without a number" for value in event["args"].values() if not _number(value)
            ]
        elif phase in "bne":
            found += _asynchronous(spans.setdefault((event["pid"], event["cat"], event["id"]), []), event, number)
    return found + [f"request {key} never ends" for key, stack in spans.items() if stack]


def _complete(stack, event, stamp, number):
    """Complete events of a thread: one that begins within another ends within it."""
    end = stamp + round(event["dur"] * 1000)
    while stack and stack[-1] <= stamp:
        stack.pop()
    found = [f"event {number}: ends after the one around it"] if stack and end > stack[-1] else []
    found += [f"event {number}: negative duration"] if event["dur"] < 0 else []
    stack.append(end)
    return found


def _asynchronous(stack, event, number):
    if event["ph"] == "b":
        stack.append(event["name"])
    elif event["ph"] == "e":
        if not stack or stack.pop() != event["name"]:
            return [f"event {number}: ends {event['name']}, which is not open"]
    elif not stack:
        return [f"event {number}: {event['name']} outside of its request"]
    return []


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)
