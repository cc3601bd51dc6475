"""What the simulation asks of a workload: requests to begin with, and requests that follow from what came of others."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from llmsim.workload.request import Request

if TYPE_CHECKING:
    from llmsim.results.records import Record


class Workload(Protocol):
    """A stream of requests, open loop, closed loop, or both."""

    @property
    def description(self) -> str:
        """One line for the header of a report, such as ``open loop, Poisson 8.00 req/s, 1000 requests``."""
        ...

    @property
    def warnings(self) -> list[str]:
        """What the reader or the generator had to change so far; complete once the stream is used up."""
        ...

    @property
    def expected_requests(self) -> int | None:
        """How many requests will come, for a progress bar; None: not known beforehand."""
        ...

    def start(self) -> Iterator[Request]:
        """Begin again, and stream the requests that depend on nothing, in order of arrival."""
        ...

    def on_end(self, record: "Record") -> Iterable[Request]:
        """Return the requests that follow from the end of another one; none of them arrives before that end."""
        ...


def ended_at(record: "Record") -> float:
    """Return the moment at which a request ended; one that was rejected on arrival has only its arrival."""
    return record.arrival_s if record.finished_s is None else record.finished_s
