"""A trace as a workload: its own times and lengths, or its lengths alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from llmsim.errors import TraceError
from llmsim.workload.lengths import Body
from llmsim.workload.order import REORDER_ROWS, Disorder, in_order, jittered, thinned
from llmsim.workload.readers import failures
from llmsim.workload.readers.files import count_lines
from llmsim.workload.readers.formats import Format
from llmsim.workload.readers.rows import Reading, ReadOptions, Row
from llmsim.workload.request import Request
from llmsim.workload.resample import Resampling, resampled
from llmsim.workload.window import ContextWindow, cut_prefix

if TYPE_CHECKING:
    from llmsim.results.records import Record


@dataclass(slots=True)
class TraceOptions:
    """Which rows of a trace are used, and how their times are changed.

    ``start_s`` and ``stop_s`` count from the first request of the file.  ``origin`` says what becomes time 0:
    ``first``, the first request that is used, or ``file``, the file's own zero.
    ``speedup`` above 1 compresses time.
    """

    speedup: float = 1.0
    jitter_s: float | None = None
    limit: int | None = None
    start_s: float | None = None
    stop_s: float | None = None
    thin: float | None = None
    resample: Resampling | None = None
    only: str | None = None
    origin: str = "first"
    zero_output: str | None = None
    reorder_rows: int = REORDER_ROWS
    read: ReadOptions = field(default_factory=ReadOptions)


@dataclass(slots=True)
class Counts:
    """What was odd in the rows so far."""

    zero_output: int = 0
    zero_prompt: int = 0
    disorder: Disorder = field(default_factory=Disorder)


@dataclass(slots=True)
class Trace:
    """A file with its format and options; every pass reads it again, row by row."""

    path: Path
    format: Format
    options: TraceOptions
    seed: int
    counts: Counts = field(default_factory=Counts)
    reading: Reading = field(init=False)

    def __post_init__(self) -> None:
        self.reading = Reading(self.path, self.options.read)

    @property
    def drops_zero_output(self) -> bool:
        """Whether a row without output is dropped (a failure); otherwise it gets one token."""
        return (self.options.zero_output or self.format.zero_output) == "drop"

    @property
    def warnings(self) -> list[str]:
        """What was odd in the last pass."""
        found = [f"{self.path.name}: {note}" for note in self.reading.notes]
        counts = self.counts
        if self.reading.failed_rows:
            found.append(f"{self.path.name}: {failures.note_of(self.reading.failed_rows)}")
        if counts.zero_output:
            what = "dropped as failed" if self.drops_zero_output else "replayed with 1"
            found.append(f"{self.path.name}: {counts.zero_output} rows with 0 output tokens were {what}")
        if counts.zero_prompt:
            found.append(f"{self.path.name}: {counts.zero_prompt} rows with 0 prompt tokens were replayed with 1")
        if counts.disorder.rows:
            found.append(f"{self.path.name}: {counts.disorder.rows} rows were out of order and were sorted by time")
        return found

    def raw_rows(self) -> Iterator[Row]:
        """Yield the rows as they stand in the file, from the beginning."""
        if self.format.read is None:
            raise TraceError(f"{self.path.name}: {self.format.title} holds no requests, only how to generate them")
        self.counts = Counts()
        self.reading = Reading(self.path, self.options.read)
        return self.format.read(self.reading)

    def rows(self) -> Iterator[Row]:
        """Yield the rows that are used, in order of time, after slicing, resampling, thinning and jitter."""
        options = self.options
        rows = self.raw_rows()
        if options.only is not None:
            rows = (row for row in rows if row.tenant == options.only)
        if self.format.has_times:
            rows = in_order(rows, self.path.name, self.counts.disorder, options.reorder_rows)
            if options.start_s is not None or options.stop_s is not None:
                rows = _between(rows, options.start_s or 0.0, options.stop_s)
        rows = self._repaired(rows)
        if options.resample is not None and self.format.has_times:
            rows = resampled(rows, options.resample, self.seed, self.path.name)
        if options.thin is not None:
            rows = thinned(rows, options.thin, self.seed)
        if options.jitter_s and self.format.has_times:
            rows = jittered(rows, options.jitter_s, self.seed)
        return islice(rows, options.limit)

    def _repaired(self, rows: Iterable[Row]) -> Iterator[Row]:
        drop, counts = self.drops_zero_output, self.counts
        for row in rows:
            if row.output_tokens < 1:
                counts.zero_output += 1
                if drop:
                    continue
                row.output_tokens = 1
            if row.prompt_tokens < 1:
                counts.zero_prompt += 1
                row.prompt_tokens = 1
            yield row


@dataclass(slots=True)
class TraceReplay:
    """Requests at the times of a trace."""

    trace: Trace
    window: ContextWindow
    expected_requests: int | None = None

    @property
    def description(self) -> str:
        """One line."""
        options = self.trace.options
        parts = [f"trace {self.trace.path.name} ({self.trace.format.title})"]
        if options.speedup != 1.0:
            parts.append(f"speedup {options.speedup:g}")
        if options.jitter_s:
            parts.append(f"jitter {options.jitter_s:g} s")
        if options.resample is not None:
            parts.append(options.resample.words)
        if options.thin is not None:
            parts.append(f"thinned to {options.thin:g}")
        if options.limit is not None:
            parts.append(f"first {options.limit} requests")
        return ", ".join(parts)

    @property
    def warnings(self) -> list[str]:
        """What the reader found, and prompts that were cut."""
        return [*self.trace.warnings, *self.window.warnings]

    def start(self) -> Iterator[Request]:
        """Stream the requests from the beginning."""
        self.window.truncated = 0
        rows = self.trace.rows()
        first = next(rows, None)
        if first is None:
            raise TraceError(f"{self.trace.path.name}: no request is left to replay")
        return self._requests(chain([first], rows), self._origin(first))

    def on_end(self, record: "Record") -> Iterable[Request]:
        """Nothing follows."""
        return ()

    def _origin(self, first: Row) -> int:
        options = self.trace.options
        assert first.time_ns is not None
        if options.origin == "file":
            return 0
        return first.time_ns

    def _requests(self, rows: Iterable[Row], origin: int) -> Iterator[Request]:
        per_second = 1e9 * self.trace.options.speedup
        longest = self.window.max_model_len
        for number, row in enumerate(rows):
            prompt, output, prefix = row.prompt_tokens, row.output_tokens, row.prefix
            if prompt + output > longest:
                prompt, output = self.window.fit(row.id or str(number), prompt, output)
                prefix = cut_prefix(prefix, prompt)
            # Only traces with times are replayed (`build`), so every row has a stamp here.
            arrival_s = (row.time_ns - origin) / per_second  # type: ignore[operator]
            yield Request(
                row.id or str(number),
                arrival_s,
                prompt,
                output,
                None,
                row.tenant,
                row.priority,
                None if row.slack_s is None else arrival_s + row.slack_s,
                row.session_id,
                row.parent,
                prefix,
            )


def expected_rows(trace: Trace) -> int | None:
    """Return how many requests a replay will give, by counting lines; None when options or the format hide it."""
    options = trace.options
    chosen = (options.thin, options.stop_s, options.only, options.resample)
    if options.start_s or any(each is not None for each in chosen):
        return None
    lines = None if trace.format.name == "sharegpt" else count_lines(trace.path)
    if lines is None:
        return options.limit
    rows = lines - 1 if trace.format.name.startswith(("azure", "burstgpt", "vidur", "csv")) else lines
    return rows if options.limit is None else min(rows, options.limit)


@dataclass(slots=True)
class TraceLengths:
    """The lengths of a trace in the order of the file, over and over when ``count`` asks for more."""

    trace: Trace

    @property
    def label(self) -> str:
        """Name and format."""
        return f"trace {self.trace.path.name} ({self.trace.format.title})"

    @property
    def warnings(self) -> list[str]:
        """What the reader found."""
        return self.trace.warnings

    def bodies(self, seed: int, count: int | None) -> Iterator[Body]:
        """Yield (prompt tokens, output tokens, prefix); once when ``count`` is None.

        Raises:
            TraceError: no row is left to use.
        """
        while True:
            used = False
            for row in self.trace.rows():
                used = True
                yield row.prompt_tokens, row.output_tokens, row.prefix
            if not used:
                raise TraceError(f"{self.trace.path.name}: no request is left to replay")
            if count is None:
                return


def _between(rows: Iterable[Row], start_s: float, stop_s: float | None) -> Iterator[Row]:
    first: int | None = None
    for row in rows:
        time = row.time_ns
        assert time is not None
        if first is None:
            first = time
        after = (time - first) / 1e9
        if stop_s is not None and after >= stop_s:
            return
        if after >= start_s:
            yield row
