"""What every reader yields, whatever the file looked like."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmsim.workload.request import Prefix


@dataclass(slots=True)
class Row:
    """One request as a trace tells it.

    ``number`` is the line in the file (the header of a CSV is line 1; an item of a JSON list counts from 1);
    ``time_ns`` is exact, in nanoseconds from whatever moment the file counts, or None when it gives no times.
    ``delay_ns`` is the pause after the turn before it, ``served_ns`` what its own service took, where a trace says so.
    ``slack_s`` counts from the arrival to the deadline, in seconds of the client, whatever becomes of the arrivals.
    """

    number: int
    time_ns: int | None
    prompt_tokens: int
    output_tokens: int
    prefix: Prefix | None = None
    id: str | None = None
    session_id: str | None = None
    parent: str | None = None
    tenant: str | None = None
    delay_ns: int | None = None
    served_ns: int | None = None
    priority: int = 0
    slack_s: float | None = None


@dataclass(slots=True)
class ReadOptions:
    """How to read a trace; None: as the format says.

    ``columns`` names the columns of a CSV or of JSON lines by what they mean: time, prompt, output, session, tenant,
    status.
    """

    time_unit: str | None = None
    block_tokens: int | None = None
    characters_per_token: float = 4.0
    output_len: int | None = None
    turns: str = "first"
    prune: bool = False
    columns: Mapping[str, str] | None = None


@dataclass(slots=True)
class Reading:
    """One pass over one file: where, how, and what was odd."""

    path: Path
    options: ReadOptions = field(default_factory=ReadOptions)
    notes: list[str] = field(default_factory=list)
    blank_rows: int = 0
    failed_rows: int = 0  # requests that the file itself calls failed, left out

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    def note(self, text: str) -> None:
        """Remember something odd, once."""
        if text not in self.notes:
            self.notes.append(text)
