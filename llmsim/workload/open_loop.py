"""Requests that come whatever happens to those before them: arrivals and lengths, side by side."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmsim.workload.arrivals import Arrivals, times
from llmsim.workload.lengths import Body, Lengths
from llmsim.workload.request import Request
from llmsim.workload.window import ContextWindow, cut_prefix

if TYPE_CHECKING:
    from llmsim.results.records import Record


@dataclass(slots=True)
class OpenLoop:
    """``count`` requests (None: until arrivals or lengths end), named 0, 1, 2, ... in order of arrival."""

    arrivals: Arrivals
    lengths: Lengths
    count: int | None
    seed: int
    window: ContextWindow

    @property
    def description(self) -> str:
        """One line."""
        number = "" if self.count is None else f", {self.count} requests"
        return f"open loop, {self.arrivals.label}{number}, lengths: {self.lengths.label}"

    @property
    def warnings(self) -> list[str]:
        """Prompts that were cut, and what the source of lengths found."""
        return [*getattr(self.lengths, "warnings", []), *self.window.warnings]

    @property
    def expected_requests(self) -> int | None:
        """The count, if there is one."""
        return self.count

    def start(self) -> Iterator[Request]:
        """Stream the requests from the beginning."""
        self.window.truncated = 0
        moments = times(self.arrivals, self.seed, self.count)
        bodies = fitted(self.lengths.bodies(self.seed, self.count), self.window)
        for number, (arrival, (prompt, output, prefix)) in enumerate(zip(moments, bodies, strict=False)):
            yield Request(str(number), arrival, prompt, output, None, None, 0, None, None, None, prefix)

    def on_end(self, record: "Record") -> Iterable[Request]:
        """Nothing follows."""
        return ()


def fitted(bodies: Iterable[Body], window: ContextWindow) -> Iterator[Body]:
    """Yield ``bodies`` with the rule of the context window applied to those that exceed it."""
    longest = window.max_model_len
    for number, body in enumerate(bodies):
        if body[0] + body[1] > longest:
            prompt, output = window.fit(str(number), body[0], body[1])
            body = (prompt, output, cut_prefix(body[2], prompt))
        yield body
