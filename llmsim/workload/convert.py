"""Write requests as a trace in a format of the field: convert one trace into another, or keep what was generated."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from llmsim.catalog import unknown
from llmsim.errors import ScenarioError, TraceError
from llmsim.textfile import written
from llmsim.workload.build import trace_path
from llmsim.workload.closed_loop import Capped, ClosedLoop
from llmsim.workload.protocol import Workload
from llmsim.workload.readers.detect import format_named
from llmsim.workload.replay import Trace, TraceOptions, TraceReplay
from llmsim.workload.request import History, Prefix, Request
from llmsim.workload.sessions import Sessions
from llmsim.workload.tenants import Tenanted
from llmsim.workload.window import ContextWindow

_AZURE_START = datetime(2023, 11, 16)  # any day does: only differences of these stamps mean something

Writer = Callable[[Iterable[Request]], Iterator[str]]  # lines without their ends


def convert(
    source: str | Path,
    target: str | Path,
    to: str = "csv",
    *,
    format: str = "auto",
    options: TraceOptions | None = None,
) -> int:
    """Write the trace ``source`` to ``target`` in the format ``to`` and return the number of requests.

    ``options`` choose rows and change times, as in a replay.  A target that ends in .gz is compressed.

    Raises:
        TraceError: the source cannot be read, has no times, or ``to`` is not one of `WRITERS`.
    """
    path, chosen = trace_path(str(source)), options or TraceOptions()
    trace = Trace(path, format_named(format, path, chosen.read.columns), chosen, seed=0)
    if not trace.format.has_times:
        raise TraceError(f"{path.name}: {trace.format.title} has no times\nhint: generate a workload from its lengths")
    requests = TraceReplay(trace, ContextWindow(2**62, "reject")).start()
    return write(requests, target, to)


def generate(workload: Workload, target: str | Path, to: str = "csv") -> int:
    """Write every request of an open-loop ``workload`` to ``target`` and return their number.

    Raises:
        ScenarioError: the workload is a closed loop, whose times only a simulation knows.
        TraceError: ``to`` is not one of `WRITERS`.
    """
    inner = workload.inner if isinstance(workload, Tenanted) else workload
    if isinstance(inner, ClosedLoop | Capped | Sessions):
        raise ScenarioError("workload: the times of a closed loop are known only once it was simulated")
    return write(workload.start(), target, to)


def write(requests: Iterable[Request], target: str | Path, to: str) -> int:
    """Write ``requests`` to ``target`` in the format ``to`` and return their number.

    Raises:
        TraceError: ``to`` is not one of `WRITERS`, or the file cannot be written.
    """
    if to not in WRITERS:
        raise TraceError(unknown("trace formats to write", to, sorted(WRITERS)))
    written = 0

    def counted() -> Iterator[Request]:
        nonlocal written
        for request in requests:
            written += 1
            yield request

    with _opened(Path(target)) as text:
        text.writelines(line + "\n" for line in WRITERS[to](counted()))
    return written


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with written(path) as text:
            yield text
    except OSError as error:
        raise TraceError(f"{path}: cannot be written ({error.strerror or error})") from None


def _seconds(arrival_s: float) -> str:
    return f"{arrival_s:.9f}".rstrip("0").rstrip(".")


def _csv_lines(requests: Iterable[Request]) -> Iterator[str]:
    """Yield the generic CSV, with the columns that one of the first requests has a use for."""
    rest = iter(requests)
    first = list(islice(rest, _LOOKED_AT))
    columns = [name for name, cell in _COLUMNS.items() if any(cell(request) for request in first)]
    cells = [_COLUMNS[name] for name in columns]
    if first:
        yield ",".join(("arrival_s,prompt_tokens,output_tokens", *columns))
    for request in chain(first, rest):
        line = f"{_seconds(request.arrival_s)},{request.prompt_tokens},{request.output_tokens}"
        yield ",".join((line, *(cell(request) for cell in cells)))


def _quoted(text: str | None) -> str:
    if text is None or not any(character in text for character in ',"\r\n'):
        return text or ""
    return '"' + text.replace('"', '""') + '"'


_LOOKED_AT = 1000
_COLUMNS: dict[str, Callable[[Request], str]] = {
    "session_id": lambda request: _quoted(request.session_id),
    "tenant": lambda request: _quoted(request.tenant),
    "priority": lambda request: str(request.priority) if request.priority else "",
    "slack_s": lambda request: "" if request.deadline_s is None else _seconds(request.deadline_s - request.arrival_s),
}


def _vidur_lines(requests: Iterable[Request]) -> Iterator[str]:
    yield "arrived_at,num_prefill_tokens,num_decode_tokens"
    for request in requests:
        yield f"{_seconds(request.arrival_s)},{request.prompt_tokens},{request.output_tokens}"


def _azure_lines(requests: Iterable[Request]) -> Iterator[str]:
    """Yield Azure's columns with its seven digits, from midnight of an arbitrary day."""
    yield "TIMESTAMP,ContextTokens,GeneratedTokens"
    for request in requests:
        seconds, ticks = divmod(round(request.arrival_s * 1e7), 10**7)
        stamp = f"{_AZURE_START + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}.{ticks:07d}"
        yield f"{stamp},{request.prompt_tokens},{request.output_tokens}"


def _hashed(scale: float, block_tokens: int) -> Writer:
    def lines(requests: Iterable[Request]) -> Iterator[str]:
        blocks = _Blocks(block_tokens)
        for request in requests:
            time = round(request.arrival_s * scale, 6)
            item = {
                "timestamp": int(time) if time == int(time) else time,
                "input_length": request.prompt_tokens,
                "output_length": request.output_tokens,
                "hash_ids": blocks.of(request.prefix, request.prompt_tokens),
            }
            yield json.dumps(item)

    return lines


class _Blocks:
    """Identifiers of blocks of another size: small whole numbers in order of first sight, one a block of the prompt."""

    def __init__(self, block_tokens: int) -> None:
        self._size = block_tokens
        self._known: dict[tuple[int, int], int] = {}
        self._next = 0

    def of(self, prefix: Prefix | History | None, prompt_tokens: int) -> list[int]:
        """Return one identifier for each block of a prompt; blocks that ``prefix`` does not name are new."""
        wanted = -(-prompt_tokens // self._size)
        shared = self._translated(prefix, prompt_tokens) if isinstance(prefix, Prefix) else ()
        identifiers: list[int] = []
        for key in chain(shared, (None for _ in range(wanted))):
            if len(identifiers) == wanted:
                break
            identifiers.append(self._identifier(key))
        return identifiers

    def _identifier(self, key: tuple[int, int] | None) -> int:
        if key is not None and key in self._known:
            return self._known[key]
        if key is not None:
            self._known[key] = self._next
        self._next += 1
        return self._next - 1

    def _translated(self, prefix: Prefix, prompt_tokens: int) -> Iterator[tuple[int, int]]:
        # An identifier names everything up to its block, so the last one inside a larger block names
        # that one too; a block that is cut into smaller ones gives each of them a number.
        size = prefix.block_tokens
        covered = min(len(prefix.hash_ids) * size, prompt_tokens)
        for end in range(self._size, covered + self._size, self._size):
            end = min(end, covered)
            last = (end - 1) // size
            yield prefix.hash_ids[last], end - last * size if size > self._size else 0
            if end == covered:
                return


WRITERS: dict[str, Writer] = {
    "csv": _csv_lines,
    "mooncake": _hashed(1e3, 512),
    "vllm": _hashed(1.0, 16),
    "azure": _azure_lines,
    "vidur": _vidur_lines,
}
