"""Requests that wait for others to end: users with a think time, and a client that caps what is in flight."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from llmsim.random import stream
from llmsim.workload.distributions import Distribution
from llmsim.workload.lengths import Body, Lengths
from llmsim.workload.open_loop import fitted
from llmsim.workload.protocol import Workload, ended_at
from llmsim.workload.request import Request
from llmsim.workload.window import ContextWindow

if TYPE_CHECKING:
    from llmsim.results.records import Record


@dataclass(slots=True)
class ClosedLoop:
    """``concurrency`` users: each sends a request, waits for its end, thinks, and sends the next.

    The first requests come at time 0, or evenly spread over ``ramp_s``.  ``count`` requests in all.
    """

    lengths: Lengths
    concurrency: int
    count: int | None
    seed: int
    window: ContextWindow
    think_time: Distribution | None = None
    think_label: str = ""
    ramp_s: float = 0.0
    _bodies: Iterator[Body] = field(default_factory=lambda: iter(()), repr=False)
    _thoughts: Iterator[float] = field(default_factory=lambda: iter(()), repr=False)
    _sent: int = 0

    @property
    def description(self) -> str:
        """One line."""
        number = "" if self.count is None else f", {self.count} requests"
        return f"closed loop, concurrency {self.concurrency}{self.think_label}{number}, lengths: {self.lengths.label}"

    @property
    def warnings(self) -> list[str]:
        """Prompts that were cut, and what the source of lengths found."""
        return [*getattr(self.lengths, "warnings", []), *self.window.warnings]

    @property
    def expected_requests(self) -> int | None:
        """The count, if there is one."""
        return self.count

    def start(self) -> Iterator[Request]:
        """Begin again; yield the first request of every user."""
        self.window.truncated = 0
        self._sent = 0
        self._bodies = islice(fitted(self.lengths.bodies(self.seed, self.count), self.window), self.count)
        self._thoughts = self._think(self.think_time) if self.think_time is not None else iter(())
        first = []
        for user in range(self.concurrency):
            first.extend(self._next(self.ramp_s * user / self.concurrency))
        return iter(first)

    def on_end(self, record: "Record") -> Iterable[Request]:
        """The user whose request ended sends the next one, if there is one left."""
        return self._next(ended_at(record) + next(self._thoughts, 0.0))

    def _next(self, arrival_s: float) -> list[Request]:
        body = next(self._bodies, None)
        if body is None:
            return []
        self._sent += 1
        return [Request(str(self._sent - 1), arrival_s, body[0], body[1], prefix=body[2])]

    def _think(self, distribution: Distribution) -> Iterator[float]:
        random = stream(self.seed, "think")
        while True:
            yield from (max(0.0, time) for time in distribution.quantile(random.random(1024)).tolist())


@dataclass(slots=True)
class Capped:
    """An open loop whose client holds back what would exceed ``max_concurrency`` requests in flight.

    As `vllm bench serve --max-concurrency`: requests go out in order, each at its own time or when a
    place becomes free, whichever is later.  The arrival time of a request that was held back is
    the moment it was sent, and its deadline moves with it.
    """

    inner: Workload
    max_concurrency: int
    _rest: Iterator[Request] = field(default_factory=lambda: iter(()), repr=False)

    @property
    def description(self) -> str:
        """One line."""
        return f"{self.inner.description}, at most {self.max_concurrency} in flight"

    @property
    def warnings(self) -> list[str]:
        """What the inner workload warns of."""
        return self.inner.warnings

    @property
    def expected_requests(self) -> int | None:
        """What the inner workload expects."""
        return self.inner.expected_requests

    def start(self) -> Iterator[Request]:
        """Begin again; yield as many requests as there are places, each at its own time."""
        self._rest = self.inner.start()
        return iter(list(islice(self._rest, self.max_concurrency)))  # now, so that `on_end` goes on after these

    def on_end(self, record: "Record") -> Iterable[Request]:
        """The place that became free goes to the next request."""
        following = next(self._rest, None)
        if following is None:
            return []
        now = ended_at(record)
        return [following if following.arrival_s >= now else _sent_at(following, now)]


def _sent_at(request: Request, moment_s: float) -> Request:
    deadline_s = None if request.deadline_s is None else request.deadline_s + moment_s - request.arrival_s
    return replace(request, arrival_s=moment_s, deadline_s=deadline_s)
