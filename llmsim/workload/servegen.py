"""A workload from ServeGen's client data: the sum of few clients, each with gaps and lengths of its own."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmsim.errors import TraceError
from llmsim.random import stream
from llmsim.workload.request import Request
from llmsim.workload.servegen_data import Client, LengthWindow, RateWindow
from llmsim.workload.window import ContextWindow

if TYPE_CHECKING:
    from llmsim.results.records import Record

Floats = NDArray[np.float64]
_Event = tuple[float, int, int, int]  # time, client, prompt tokens, output tokens


@dataclass(slots=True)
class ServeGen:
    """Requests of ``clients`` from ``start_s`` to ``stop_s`` of their data; time 0 is ``start_s``.

    ``scale`` multiplies every client's rate: its gaps shrink, their CV stays, and windows keep their length.
    ``thin`` keeps each request with that probability, which makes gaps more regular, as sampling does.
    """

    clients: list[Client]
    start_s: float
    stop_s: float
    scale: float
    seed: int
    window: ContextWindow
    count: int | None = None
    thin: float | None = None

    @property
    def mean_rate(self) -> float:
        """Mean rate in requests per second, before thinning."""
        expected = sum(client.expected(self.start_s, self.stop_s) for client in self.clients)
        return expected * self.scale / (self.stop_s - self.start_s)

    @property
    def description(self) -> str:
        """One line."""
        number = "" if self.count is None else f", {self.count} requests"
        return f"ServeGen, {len(self.clients)} clients, mean {self.mean_rate * (self.thin or 1.0):.2f} req/s{number}"

    @property
    def warnings(self) -> list[str]:
        """Prompts that were cut."""
        return self.window.warnings

    @property
    def expected_requests(self) -> int | None:
        """The count, or what the rates say, whichever is less."""
        expected = round(self.mean_rate * (self.stop_s - self.start_s) * (self.thin or 1.0))
        return expected if self.count is None else min(expected, self.count)

    def start(self) -> Iterator[Request]:
        """Stream the requests from the beginning."""
        self.window.truncated = 0
        streams = [self._events(number, client) for number, client in enumerate(self.clients)]
        merged = heapq.merge(*streams, key=itemgetter(0))
        return islice(self._requests(merged), self.count)

    def on_end(self, record: "Record") -> Iterable[Request]:
        """Nothing follows."""
        return ()

    def _requests(self, events: Iterable[_Event]) -> Iterator[Request]:
        longest = self.window.max_model_len
        for number, (time, client, prompt, output) in enumerate(events):
            if prompt + output > longest:
                prompt, output = self.window.fit(str(number), prompt, output)
            yield Request(str(number), time, prompt, output, tenant=self.clients[client].name)

    def _events(self, number: int, client: Client) -> Iterator[_Event]:
        thinning = stream(self.seed, "thin", client.name)
        random = stream(self.seed, "lengths", client.name)
        for times in self._times(client):
            if self.thin is not None:
                times = times[thinning.random(len(times)) < self.thin]
            lengths = client.lengths_at(float(times[0]) + self.start_s) if len(times) else None
            if lengths is not None:
                prompts, outputs = _draw(lengths, random, len(times))
                yield from zip(times.tolist(), [number] * len(times), prompts, outputs, strict=True)

    def _times(self, client: Client) -> Iterator[Floats]:
        """Yield arrival times from ``start_s`` on, one array a window.

        A renewal process runs on a clock that advances by one a mean gap; what is left of a gap at the end of a
        window goes on in the next one, at its rate.
        """
        random = stream(self.seed, "arrivals", client.name)
        owed: float | None = None
        for window in client.rates:
            begin, end = max(window.start_s, self.start_s), min(window.start_s + client.window_s, self.stop_s)
            length = (end - begin) * window.rate * self.scale
            if end <= begin or length <= 0.0:
                continue
            if owed is None:
                owed = float(window.gaps.draw(random, 1)[0])
            passed, owed = _renewals(window, owed, length, random)
            if len(passed):
                yield begin - self.start_s + passed / (window.rate * self.scale)


def _renewals(window: RateWindow, first: float, length: float, random: np.random.Generator) -> tuple[Floats, float]:
    """Return the renewals within ``length`` mean gaps, the first after ``first``, and how far off the next is."""
    if first >= length:
        return np.empty(0), first - length
    pieces = [np.array([first])]
    last = first
    while last < length:
        gaps = window.gaps.draw(random, int(length - last) + 16)
        pieces.append(np.cumsum(np.concatenate(([last], gaps)))[1:])
        last = float(pieces[-1][-1])
    times = np.concatenate(pieces)
    inside = int(np.searchsorted(times, length, side="left"))
    return times[:inside], float(times[inside]) - length


def _draw(lengths: LengthWindow, random: np.random.Generator, count: int) -> tuple[list[int], list[int]]:
    prompts = lengths.text.quantile(random.random(count))
    outputs = lengths.output.quantile(random.random(count))
    for how_many, tokens in lengths.media:
        prompts = prompts + np.rint(how_many.quantile(random.random(count))) * tokens.quantile(random.random(count))
    return np.maximum(np.rint(prompts), 1).astype(int).tolist(), np.maximum(np.rint(outputs), 1).astype(int).tolist()


def scaled_to(clients: list[Client], start_s: float, stop_s: float | None, rate: float | None) -> tuple[float, float]:
    """Return (the end, the scale) at which ``clients`` send ``rate`` requests per second on average.

    Raises:
        TraceError: no client sends anything between ``start_s`` and the end.
    """
    end = max(client.end_s for client in clients) if stop_s is None else stop_s
    expected = sum(client.expected(start_s, end) for client in clients)
    if not expected > 0.0:
        raise TraceError(f"trace: no client sends a request between {start_s:g} and {end:g} s")
    return end, 1.0 if rate is None else rate * (end - start_s) / expected
