"""What came of a request: one record each, whatever happened to it."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["finished", "rejected", "cancelled", "failed"]


@dataclass(slots=True, eq=True)
class Record:
    """The life of one request.  Times in seconds from the start of the simulation; None: it never came to that.

    ``first_token_s`` and ``finished_s`` are the moments at which the client gets the first and the last
    token; ``nth_token_s`` that at which it has the first N of them, where a run asks for that, or all if there are
    fewer.  ``bill`` is the time that the request spent in each kind of work (see `llmsim.results.odometer`),
    in seconds, in the order of the run's ``bill_kinds``.  ``turn`` counts the turns of a session from 0.
    """

    id: str
    replica: int | None
    status: Status
    reason: str | None
    attempt: int
    arrival_s: float
    admitted_s: float | None
    first_token_s: float | None
    finished_s: float | None
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    preemptions: int
    priority: int = 0
    session_id: str | None = None
    tenant: str | None = None
    bill: tuple[float, ...] | None = None
    turn: int | None = None
    nth_token_s: float | None = None
