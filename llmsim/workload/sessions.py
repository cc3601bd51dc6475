"""Sessions: a user speaks, waits for the answer, thinks, and speaks again, with all that was said before as prompt."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from llmsim.random import stream
from llmsim.workload.arrivals import Arrivals, times
from llmsim.workload.distributions import Distribution, Floats, Length
from llmsim.workload.lengths import SharedPrefixes
from llmsim.workload.protocol import ended_at
from llmsim.workload.request import History, Request
from llmsim.workload.window import ContextWindow

if TYPE_CHECKING:
    from llmsim.results.records import Record

OnOverflow = Literal["end", "forget"]


@dataclass(frozen=True, slots=True)
class Tools:
    """Turns that are not the user's: a tool's result comes back instead, with ``share`` of all turns but the first."""

    share: float
    time_s: Distribution
    result: Length


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What sessions are like.

    Args:
        turns: turns of a session, at least one.
        first: tokens of the first message; None: like any other.
        message: tokens that a user adds in one turn.
        output: tokens of an answer.
        think_s: seconds from the end of an answer to the user's next message.
        tools: turns that a tool answers.
        system: system prompts, of which a session has one with probability ``system_share``.
        window_tokens: the most tokens of history, the system prompt apart; None: all of it.
        keep: the share of the window that is left when the oldest turns are forgotten.
        on_overflow: what a session does when its next turn exceeds the context window: ``end``, or ``forget`` its
            oldest turns.
    """

    turns: Length
    message: Length
    output: Length
    first: Length | None = None
    think_s: Distribution | None = None
    tools: Tools | None = None
    system: SharedPrefixes | None = None
    system_share: float = 1.0
    window_tokens: int | None = None
    keep: float = 1.0
    on_overflow: OnOverflow = "end"


@dataclass(slots=True)
class Session:
    """One session under way: what will be said in each turn, and what is remembered of the turns before.

    ``kept`` are the tokens of the turns that the next prompt contains, each message and answer; ``forgotten``
    turns came before them.
    """

    name: str
    front: tuple[tuple[str, int], ...]
    messages: list[int]
    outputs: list[int]
    pauses: list[float]
    turn: int = 0
    kept: deque[int] = field(default_factory=deque)
    forgotten: int = 0

    @property
    def history(self) -> History:
        """What names the tokens of the next turn: another name whenever turns were forgotten, for all tokens move."""
        name = f"session {self.name}"
        return History(self.front, f"{name}, from turn {self.forgotten}" if self.forgotten else name)

    @property
    def front_tokens(self) -> int:
        """Tokens of the system prompt."""
        return sum(tokens for _, tokens in self.front)

    def forget(self, most: float) -> None:
        """Drop the oldest turns until ``most`` tokens of history are left at most."""
        told = sum(self.kept)
        while self.kept and told > most:
            told -= self.kept.popleft()
            self.forgotten += 1


@dataclass(slots=True)
class Sessions:
    """Sessions that begin at the moments of ``arrivals``, or one after the other for each of ``users``.

    Every session draws from a random stream of its own, so what is said in it depends on nothing else: another
    scheduler, another rate or more sessions meet the very same ones.  Turn n + 1 comes when turn n has ended and
    its pause is over; its prompt is the system prompt, the history, and a new message.

    Args:
        plan: what sessions are like.
        count: sessions in all; None: without end.
        most_requests: turns of all sessions together; None: as many as there are.
        arrivals: when sessions begin, for sessions that come from outside.
        users: users who each begin a session when the one before has ended and ``rest_s`` is over.
        ramp_s: the first sessions of the users begin evenly spread over these seconds.
    """

    plan: SessionPlan
    seed: int
    window: ContextWindow
    count: int | None = None
    most_requests: int | None = None
    arrivals: Arrivals | None = None
    users: int = 0
    rest_s: Distribution | None = None
    ramp_s: float = 0.0
    ended_early: int = 0
    forgetful: int = 0
    _begun: int = 0
    _asked: int = 0
    _live: dict[str, Session] = field(default_factory=dict, repr=False)

    @property
    def description(self) -> str:
        """One line."""
        source = f"{self.users} users" if self.arrivals is None else self.arrivals.label.replace("req/s", "sessions/s")
        parts = [f"sessions, {source}"]
        if self.count is not None:
            parts.append(f"{self.count} sessions")
        if self.most_requests is not None:
            parts.append(f"at most {self.most_requests} requests")
        return ", ".join(parts)

    @property
    def warnings(self) -> list[str]:
        """Sessions that met the end of the context window, and prompts that were cut."""
        found = list(self.window.warnings)
        longest = self.window.max_model_len
        if self.ended_early:
            found.append(f"{self.ended_early} sessions ended early: their next turn exceeds max_model_len {longest}")
        if self.forgetful:
            found.append(f"{self.forgetful} turns forgot older ones to stay within max_model_len {longest}")
        return found

    @property
    def expected_requests(self) -> int | None:
        """The limit on requests, if there is one: how many turns there will be is not known beforehand."""
        return self.most_requests

    def start(self) -> Iterator[Request]:
        """Begin again; stream the first turns."""
        self.window.truncated = self.ended_early = self.forgetful = self._begun = self._asked = 0
        self._live = {}
        if self.arrivals is not None:
            return self._arriving(times(self.arrivals, self.seed, self.count))
        moments = [self.ramp_s * user / self.users for user in range(self.users)]
        return iter([request for moment in moments for request in self._begin(moment)])

    def on_end(self, record: "Record") -> Iterable[Request]:
        """The session goes on; if that was its last turn, or its turn did not finish, its user rests and begins anew.

        A record of another workload's request is nobody's turn.
        """
        session = self._live.pop(record.id, None)
        if session is None:
            return ()
        now = ended_at(record)
        if record.status == "finished":
            session.kept.append(session.messages[session.turn] + record.output_tokens)
            session.turn += 1
            if session.turn < len(session.messages):
                following = self._ask(session, now + session.pauses[session.turn])
                if following:
                    return following
        if self.arrivals is not None:
            return ()
        return self._begin(now + self._rest(session.name))

    def _rest(self, name: str) -> float:
        if self.rest_s is None:
            return 0.0
        draw = stream(self.seed, "sessions", "rest", int(name)).random(1)
        return max(0.0, float(self.rest_s.quantile(draw)[0]))

    def _arriving(self, moments: Iterator[float]) -> Iterator[Request]:
        for moment in moments:
            if self.most_requests is not None and self._asked >= self.most_requests:
                return
            yield from self._begin(moment)

    def _begin(self, arrival_s: float) -> list[Request]:
        """Begin the next session; [] when there is none left."""
        if self.count is not None and self._begun >= self.count:
            return []
        session = drawn(self.plan, self.seed, self._begun)
        self._begun += 1
        return self._ask(session, arrival_s)

    def _ask(self, session: Session, arrival_s: float) -> list[Request]:
        """Return a session's next turn; [] when it does not go on."""
        if self.most_requests is not None and self._asked >= self.most_requests:
            return []
        plan, longest = self.plan, self.window.max_model_len
        message, output = session.messages[session.turn], session.outputs[session.turn]
        told = sum(session.kept)
        if plan.window_tokens is not None and told > plan.window_tokens:
            session.forget(plan.window_tokens * plan.keep)
        most = longest - session.front_tokens - message - output
        if session.kept and sum(session.kept) > most:
            if plan.on_overflow == "end":
                self.ended_early += 1
                return []
            self.forgetful += 1
            session.forget(most * plan.keep)
        prompt = session.front_tokens + sum(session.kept) + message
        name = f"{session.name}-{session.turn}"
        if prompt + output > longest:
            prompt, output = self.window.fit(name, prompt, output)
            session.messages[session.turn] = max(1, prompt - session.front_tokens)  # nothing else is left here
        self._asked += 1
        self._live[name] = session
        parent = f"{session.name}-{session.turn - 1}" if session.turn else None
        return [
            Request(
                name,
                arrival_s,
                prompt,
                output,
                session_id=session.name,
                parent=parent,
                prefix=session.history if prompt > session.front_tokens else None,
                turn=session.turn,
            )
        ]


def drawn(plan: SessionPlan, seed: int, number: int) -> Session:
    """Return session ``number``, drawn from its own random stream: four draws a turn, whatever the plan needs."""
    random = stream(seed, "sessions", number)
    head = random.random(3)
    turns = int(plan.turns.tokens(head[:1])[0])
    draws = random.random((turns, 4))
    messages, outputs = plan.message.tokens(draws[:, 0]), plan.output.tokens(draws[:, 1])
    if plan.first is not None:
        messages[:1] = plan.first.tokens(draws[:1, 0])
    pauses = np.zeros(turns) if plan.think_s is None else _seconds(plan.think_s, draws[:, 2])
    if plan.tools is not None:
        called = draws[:, 3] < plan.tools.share
        called[0] = False
        messages = np.where(called, plan.tools.result.tokens(draws[:, 0]), messages)
        pauses = np.where(called, _seconds(plan.tools.time_s, draws[:, 2]), pauses)
    front: tuple[tuple[str, int], ...] = ()
    if plan.system is not None and head[1] < plan.system_share:
        front = ((f"system prompt {plan.system.choose(head[2:])[0]}", plan.system.tokens),)
    return Session(str(number), front, messages.tolist(), outputs.tolist(), pauses.tolist())


def _seconds(distribution: Distribution, draws: Floats) -> Floats:
    return np.maximum(distribution.quantile(draws), 0.0)
