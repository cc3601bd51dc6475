"""Traces in columns: CSV with a header, read by the names of its columns."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from llmsim.errors import TraceError
from llmsim.workload.readers.failures import has_failed
from llmsim.workload.readers.files import open_text
from llmsim.workload.readers.rows import Reading, Row
from llmsim.workload.readers.stamps import DateReader, Stamp, guess_unit, number_reader
from llmsim.workload.readers.urgency import Urgency

MOST_TOKENS = 10**12
EMPTY_HINT = (
    "\nhint: a request that failed? status=NAME among the columns says where its HTTP status stands, and leaves out "
    "rows with 400 and more"
)

csv.field_size_limit(1 << 27)  # prompts may be a column nobody needs


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column means what, by name; ``time`` may be a pair of date and time of day.

    ``time_unit`` is s, ms, us, ns, ``date``, or None: by what the first row holds.
    """

    prompt: str
    output: str
    time: str | tuple[str, str] | None = None
    time_unit: str | None = None
    session: str | None = None
    tenant: str | None = None
    served: str | None = None  # seconds from a request to the end of its answer
    urgency: Urgency | None = None
    status: str | None = None


def read_table(reading: Reading, columns: Columns) -> Iterator[Row]:
    """Yield the rows of a CSV.

    Raises:
        TraceError: a row is broken; the message gives its number and the column.
    """
    with open_text(reading.path) as text:
        lines = csv.reader(text)
        header = [name.strip() for name in next(lines, [])]
        try:
            yield from _rows(reading, lines, header, columns)
        except csv.Error as error:
            raise TraceError(f"{reading.name}:row {lines.line_num}: {error}") from None


def _rows(reading: Reading, lines: Iterator[list[str]], header: list[str], columns: Columns) -> Iterator[Row]:
    numbered = enumerate(lines, start=2)
    first = _first_row(reading, numbered)
    if first is None:
        return
    time_at = _time_columns(header, columns)
    time_of = _time_reader(reading, header, columns, time_at, first)
    prompt_at, output_at = header.index(columns.prompt), header.index(columns.output)
    session_at = None if columns.session is None else header.index(columns.session)
    tenant_at = None if columns.tenant is None else header.index(columns.tenant)
    served_at = None if columns.served is None else header.index(columns.served)
    status_at = None if columns.status is None else header.index(columns.status)
    urgency = columns.urgency
    plain = session_at is None and tenant_at is None and urgency is None
    for number, cells in chain([first], numbered):
        if status_at is not None and status_at < len(cells) and has_failed(cells[status_at]):
            reading.failed_rows += 1
            continue
        try:
            time_ns = time_of(cells)
            prompt, output = int(cells[prompt_at]), int(cells[output_at])
            if not (0 <= prompt <= MOST_TOKENS and 0 <= output <= MOST_TOKENS):
                raise ValueError
        except (ValueError, IndexError):
            if _blank(cells):
                reading.blank_rows += 1
                continue
            where = _Where(f"{reading.name}:row {number}", header, cells)
            time_ns = where.time(time_at, time_of)
            prompt, output = where.whole(prompt_at), where.whole(output_at)
        if plain:
            yield Row(number, time_ns, prompt, output)
        else:
            session, tenant = _text(cells, session_at), _text(cells, tenant_at)
            served = _text(cells, served_at)
            served_ns = None if served is None else _served(served, f"{reading.name}:row {number}", columns.served)
            row = Row(number, time_ns, prompt, output, None, None, session, None, tenant, served_ns=served_ns)
            if urgency is not None:
                urgency.mark(row, dict(zip(header, cells, strict=False)), f"{reading.name}:row {number}")
            yield row


def _served(text: str, place: str, name: str | None) -> int:
    """Return a service time in nanoseconds."""
    try:
        nanoseconds = round(float(text) * 1e9)
    except (ValueError, OverflowError):
        nanoseconds = -1
    if nanoseconds < 0:
        raise TraceError(f"{place}: column {name}: {shortened(text)} is not a time")
    return nanoseconds


def _first_row(reading: Reading, numbered: Iterator[tuple[int, list[str]]]) -> tuple[int, list[str]] | None:
    for number, cells in numbered:
        if not _blank(cells):
            return number, cells
        reading.blank_rows += 1
    return None


def _time_columns(header: list[str], columns: Columns) -> list[int]:
    names = [columns.time] if isinstance(columns.time, str) else list(columns.time or ())
    return [header.index(name) for name in names]


def _time_reader(
    reading: Reading, header: list[str], columns: Columns, time_at: list[int], first: tuple[int, list[str]]
) -> Callable[[Sequence[str]], int | None]:
    if not time_at:
        return lambda cells: None
    if len(time_at) == 2:
        return lambda cells: _date_and_time(cells[time_at[0]], cells[time_at[1]])
    at = time_at[0]
    number, cells = first
    if at >= len(cells):
        _Where(f"{reading.name}:row {number}", header, cells).cell(at)
    unit = reading.options.time_unit or columns.time_unit
    stamp = stamp_reader(reading, header[at], unit, cells[at])
    return lambda cells: stamp(cells[at])


@dataclass(frozen=True, slots=True)
class _Where:
    """A row that is not as simple as most: read again with care, and with the words for what is wrong."""

    place: str
    header: list[str]
    cells: list[str]

    def cell(self, at: int) -> str:
        if at < len(self.cells):
            return self.cells[at]
        got = f"(got {len(self.cells)} of {len(self.header)} columns)"
        raise TraceError(f"{self.place}: column {self.header[at]}: is missing {got}")

    def whole(self, at: int) -> int:
        cell = self.cell(at)
        try:
            return whole_number(cell)
        except ValueError as error:
            hint = "" if cell.strip() else EMPTY_HINT
            raise TraceError(f"{self.place}: column {self.header[at]}: {error}{hint}") from None

    def time(self, at: list[int], read: Callable[[Sequence[str]], int | None]) -> int | None:
        got = " ".join(self.cell(column) for column in at)
        try:
            return read(self.cells)
        except (ValueError, IndexError):
            names = " and ".join(self.header[column] for column in at)
            raise TraceError(f"{self.place}: column {names}: {shortened(got)} is not a time") from None


def stamp_reader(reading: Reading, name: str, unit: str | None, first: object) -> Stamp:
    """Return the reader of a time column; without a ``unit``, by what the ``first`` stamp looks like."""
    if unit is None:
        try:
            unit = guess_unit(float(str(first)))
        except ValueError:
            unit = "date"
        if unit not in ("s", "date"):
            reading.note(f"times in {name!r} are read as {unit} since 1970, by their size")
    return DateReader() if unit == "date" else number_reader(unit)


def whole_number(value: object) -> int:
    """Return ``value`` as a whole number that is not negative; 12.0 and '12.0' are whole.

    Raises:
        ValueError: it is not; the message says so.
    """
    try:
        number = float(str(value).strip())
        if isinstance(value, bool) or not number.is_integer():
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{shortened(value)} is not a whole number") from None
    if number < 0:
        raise ValueError(f"{shortened(value)} is negative")
    if number > MOST_TOKENS:
        raise ValueError(f"{shortened(value)} is more than any number of tokens")
    return int(number)


def _date_and_time(date: str, time: str) -> int:
    start = DateReader()(f"{date.strip()[:10]} 00:00")
    if ":" in time:
        return DateReader()(f"{date.strip()[:10]} {time.strip().zfill(8)}")
    return start + number_reader("s")(time.strip())


def _blank(cells: Sequence[str]) -> bool:
    return not any(cell.strip() for cell in cells)


def _text(cells: Sequence[str], at: int | None) -> str | None:
    if at is None or at >= len(cells):
        return None
    return cells[at].strip() or None


def shortened(value: object) -> str:
    """Return ``value`` as it stands in the file, cut when it is long."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
