"""A trace's sessions as a closed loop: a turn comes when the turn before it has ended and its user has thought."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmsim.errors import TraceError
from llmsim.workload.protocol import ended_at
from llmsim.workload.readers.rows import Row
from llmsim.workload.replay import Trace
from llmsim.workload.request import History, Prefix, Request
from llmsim.workload.window import ContextWindow, cut_prefix

if TYPE_CHECKING:
    from llmsim.results.records import Record

# Sessions are inferred from this many whole identifiers in common: one may be a system prompt.
LEAST_SHARED = 2


@dataclass(slots=True)
class Turn:
    """A row of the trace with its place among the turns: who it follows, and after which pause."""

    row: Row
    name: str
    session: str
    number: int = 0
    parent: str | None = None
    pause_ns: int = 0
    content: Prefix | History | None = None
    followers: list["Turn"] = field(default_factory=list)


@dataclass(slots=True)
class SessionReplay:
    """The turns of a trace, each after the end of the turn before it; first turns come at the trace's times.

    The pause is the trace's own: ``delay``, where it has one, or the time between the two stamps less what the
    trace's own service took of it, which is the ``Elapsed time`` of BurstGPT or ``served_ms_per_token`` for each
    token of the answer.  Without either the whole gap counts, which is too long by the service time.

    Which turn a row follows: its parent (Bailian), the row before it with the same session, or, where only
    identifiers are told, the latest row whose whole blocks the prompt begins with.  The answer of a turn is named
    after what follows it in the next prompt, when that is long enough to contain it.  All rows are held in memory.
    """

    trace: Trace
    window: ContextWindow
    served_ms_per_token: float = 0.0
    expected_requests: int | None = None
    _turns: dict[str, Turn] = field(default_factory=dict, repr=False)
    _guessed: bool = False

    @property
    def description(self) -> str:
        """One line."""
        speed = self.trace.options.speedup
        faster = f", speedup {speed:g}" if speed != 1.0 else ""
        return f"sessions of trace {self.trace.path.name} ({self.trace.format.title}), closed loop{faster}"

    @property
    def warnings(self) -> list[str]:
        """What the reader found, prompts that were cut, and pauses that hold more than thought."""
        found = [*self.trace.warnings, *self.window.warnings]
        if self._guessed:
            found.append(
                f"{self.trace.path.name}: pauses between turns are gaps between stamps, so they hold the trace's own "
                "service times: trace.served_ms_per_token takes these away"
            )
        return found

    def start(self) -> Iterator[Request]:
        """Read the trace, and stream the first turns of its sessions in order of time."""
        self.window.truncated = 0
        self._guessed = False
        turns = linked(self.trace.rows(), self.trace.path.name)
        for turn in turns:
            for following in turn.followers:
                following.pause_ns = self._pause(turn.row, following.row)
        named(turns)
        self._turns = {turn.name: turn for turn in turns}
        self.expected_requests = len(turns)
        origin = 0 if self.trace.options.origin == "file" else _time(turns[0].row)
        per_second = 1e9 * self.trace.options.speedup
        first = [turn for turn in turns if turn.parent is None]
        return (self._request(turn, (_time(turn.row) - origin) / per_second) for turn in first)

    def on_end(self, record: "Record") -> Iterable[Request]:
        """The turns that follow come after their pauses, however this one ended."""
        turn = self._turns.pop(record.id, None)
        per_second = 1e9 * self.trace.options.speedup
        now = ended_at(record)
        followers = [] if turn is None else turn.followers
        return [self._request(following, now + following.pause_ns / per_second) for following in followers]

    def _pause(self, before: Row, after: Row) -> int:
        """Return the nanoseconds from the end of one turn to the next."""
        if after.delay_ns is not None:
            return after.delay_ns
        served = before.served_ns
        if served is None:
            served = round(before.output_tokens * self.served_ms_per_token * 1e6)
            self._guessed = self._guessed or not self.served_ms_per_token
        return max(0, _time(after) - _time(before) - served)

    def _request(self, turn: Turn, arrival_s: float) -> Request:
        prompt, output, content = turn.row.prompt_tokens, turn.row.output_tokens, turn.content
        if prompt + output > self.window.max_model_len:
            prompt, output = self.window.fit(turn.name, prompt, output)
            content = cut_prefix(content, prompt) if isinstance(content, Prefix) else content
        return Request(
            turn.name,
            arrival_s,
            prompt,
            output,
            tenant=turn.row.tenant,
            priority=turn.row.priority,
            deadline_s=None if turn.row.slack_s is None else arrival_s + turn.row.slack_s,
            session_id=turn.session,
            parent=turn.parent,
            prefix=content,
            turn=turn.number,
        )


def linked(rows: Iterable[Row], name: str) -> list[Turn]:
    """Return the rows, in order of time, each linked to the turns that follow it.

    Raises:
        TraceError: there is no row, or nothing says which rows belong together.
    """
    turns: list[Turn] = []
    by_name: dict[str, Turn] = {}
    last: dict[str, Turn] = {}
    chains = _Chains()
    for number, row in enumerate(rows):
        turn = Turn(row, row.id or str(number), row.session_id or row.id or str(number), content=row.prefix)
        before = by_name.get(row.parent) if row.parent is not None else None
        if before is None and row.id is None and row.session_id is not None:
            before = last.get(row.session_id)
        if row.session_id is None and row.prefix is not None:
            before = chains.latest(turn)
        if before is not None:
            before.followers.append(turn)
            turn.parent, turn.session, turn.number = before.name, before.session, before.number + 1
        turns.append(turn)
        by_name[turn.name] = turn
        if row.session_id is not None:
            last[row.session_id] = turn
    if not turns:
        raise TraceError(f"{name}: no request is left to replay")
    if not any(turn.row.session_id is not None or turn.row.prefix is not None for turn in turns):
        raise TraceError(f"{name}: has no sessions: no row has a session, a parent or hash_ids")
    return turns


class _Chains:
    """The latest turn for each chain of whole identifiers."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int], int] = {}
        self._ends: dict[int, Turn] = {}

    def latest(self, turn: Turn) -> Turn | None:
        """Return the turn that ``turn`` goes on from: the longest one whose answer its prompt can hold; remember it."""
        prefix = turn.row.prefix
        assert prefix is not None
        chain, found = 0, None
        whole = turn.row.prompt_tokens // prefix.block_tokens
        for depth, identifier in enumerate(prefix.hash_ids[:whole], start=1):
            chain = self._numbers.setdefault((chain, identifier), len(self._numbers) + 1)
            before = self._ends.get(chain) if depth >= LEAST_SHARED else None
            if before is not None and before.row.prompt_tokens + before.row.output_tokens <= turn.row.prompt_tokens:
                found = before
        if whole >= LEAST_SHARED:
            self._ends[chain] = turn
        return found


def named(turns: list[Turn]) -> None:
    """Name what the turns hold, to the end of their answers, so that the next turn finds all of it.

    With identifiers a turn takes those of the first follower whose prompt begins with its whole blocks; the last
    identifier of its own prompt, which stands for part of a block, gives way to the follower's.  Without any a
    follower whose prompt has room for prompt and answer has the same history, and any other begins a new one.
    """
    for turn in reversed(turns):  # followers first: what they are named after their own followers counts
        content = turn.content
        if not isinstance(content, Prefix) or content.answer:
            continue
        span = content.block_tokens
        told = turn.row.prompt_tokens + turn.row.output_tokens
        own = content.hash_ids[: turn.row.prompt_tokens // span]
        for following in turn.followers:
            next_one = following.content
            if (
                isinstance(next_one, Prefix)
                and following.row.prompt_tokens >= told
                and next_one.block_tokens == span
                and next_one.hash_ids[: len(own)] == own
            ):
                turn.content = Prefix(next_one.hash_ids[: -(-told // span)], span, answer=True)
                break
    for turn in turns:
        if turn.content is None and turn.row.session_id is not None:
            turn.content = History((), f"session {turn.session}, from turn {turn.name}")
        told = turn.row.prompt_tokens + turn.row.output_tokens
        for following in turn.followers[:1]:
            if following.content is None and isinstance(turn.content, History) and following.row.prompt_tokens >= told:
                following.content = turn.content


def _time(row: Row) -> int:
    assert row.time_ns is not None  # only traces with times are replayed (`build`)
    return row.time_ns
