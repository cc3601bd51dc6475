"""ServeGen's client data: for each client its rate over time, the shape of its gaps, and its lengths."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsim.errors import TraceError
from llmsim.workload.distributions import Distribution, Empirical, Fixed
from llmsim.workload.gaps import ConstantGaps, ExponentialGaps, GammaGaps, Gaps, WeibullGaps
from llmsim.workload.readers.files import open_text

Floats = NDArray[np.float64]

_NAME = re.compile(r"chunk-(\d+)-trace\.csv")


@dataclass(frozen=True, slots=True)
class RateWindow:
    """One line of a client's trace: from ``start_s`` on, ``rate`` requests per second with gaps of one shape."""

    start_s: float
    rate: float
    gaps: Gaps


@dataclass(frozen=True, slots=True)
class LengthWindow:
    """Lengths from ``start_s`` on: distributions of the parts that add up to a prompt, and of the output.

    Multimodal clients have, beside the text, a number of images (audios, videos) and the tokens of each.
    """

    start_s: float
    text: Distribution
    output: Distribution
    media: tuple[tuple[Distribution, Distribution], ...]  # (how many, tokens of each)


@dataclass(frozen=True, slots=True)
class Client:
    """One client; ``rates`` cover equal windows, the last one as long as the one before it."""

    name: str
    rates: tuple[RateWindow, ...]
    lengths: tuple[LengthWindow, ...]

    @property
    def window_s(self) -> float:
        """Length of a window of ``rates``."""
        return self.rates[1].start_s - self.rates[0].start_s if len(self.rates) > 1 else 600.0

    @property
    def end_s(self) -> float:
        """Where the last window ends."""
        return self.rates[-1].start_s + self.window_s

    def expected(self, start_s: float, stop_s: float) -> float:
        """Return the number of requests to be expected between two moments."""
        spans = ((max(w.start_s, start_s), min(w.start_s + self.window_s, stop_s), w.rate) for w in self.rates)
        return sum((end - begin) * rate for begin, end, rate in spans if end > begin)

    def lengths_at(self, time_s: float) -> LengthWindow:
        """Return the lengths in force at a moment."""
        current = self.lengths[0]
        for window in self.lengths:
            if window.start_s > time_s:
                break
            current = window
        return current


def load_clients(path: Path) -> list[Client]:
    """Return the clients in a folder (or the one whose trace file is given), in order of their numbers.

    Clients that never send anything are left out.

    Raises:
        TraceError: a file is missing or broken.
    """
    traces = sorted(path.glob("chunk-*-trace.csv"), key=_number) if path.is_dir() else [path]
    clients = []
    for trace in traces:
        rates = tuple(_rates(trace))
        if any(window.rate > 0.0 for window in rates):
            dataset = trace.with_name(trace.name.replace("-trace.csv", "-dataset.json"))
            name = f"client-{_number(trace)}" if _NAME.fullmatch(trace.name) else trace.stem
            clients.append(Client(name, rates, tuple(_lengths(dataset))))
    if not clients:
        raise TraceError(f"{path.name}: no client in it ever sends a request")
    return clients


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match.group(1)) if match else 0


def _rates(path: Path) -> Iterator[RateWindow]:
    before = -1.0
    with open_text(path) as text:
        for number, cells in enumerate(csv.reader(text), start=1):
            if not any(cells):
                continue
            place = f"{path.name}:row {number}"
            try:
                start, rate, _cv = (float(cell) for cell in cells[:3])
                first = float(cells[4])
                if not (rate >= 0.0 and start > before and np.isfinite([start, rate, first]).all()):
                    raise ValueError
                before = start
                yield RateWindow(start, rate, _gaps(cells[3], first) if rate > 0.0 else ConstantGaps())
            except (ValueError, IndexError):
                what = "is not time, rate, CV, Gamma or Weibull, shape, scale"
                raise TraceError(f"{place}: {what} (got {','.join(cells)[:60]!r})") from None


def _gaps(pattern: str, shape: float) -> Gaps:
    if pattern and shape <= 0.0:
        raise ValueError
    if pattern == "Gamma":
        return GammaGaps(shape)
    if pattern == "Weibull":
        return WeibullGaps(shape)
    if pattern == "":
        return ExponentialGaps()
    raise ValueError


def _lengths(path: Path) -> Iterator[LengthWindow]:
    with open_text(path) as text:
        try:
            record = json.load(text)
            windows = sorted((float(start), fields) for start, fields in record.items())
        except (json.JSONDecodeError, AttributeError, ValueError) as error:
            raise TraceError(f"{path.name}: is not a JSON object of windows ({error})") from None
    found = False
    for start, fields in windows:
        window = _window(start, fields, f"{path.name}:window {start:g}")
        if window is not None:  # an empty window takes what was in force before, the first ones what comes
            yield window
            found = True
    if not found:
        raise TraceError(f"{path.name}: no window holds any lengths")


def _window(start: float, fields: dict[str, Any], place: str) -> LengthWindow | None:
    text = _values(fields, "input_tokens", place) or _values(fields, "text_tokens", place)
    output = _values(fields, "output_tokens", place)
    if text is None or output is None:
        return None
    media = []
    for kind in ("image", "audio", "video"):
        count, tokens = _values(fields, f"{kind}_count", place), _values(fields, f"{kind}_tokens", place)
        if count is not None and tokens is not None and not (isinstance(count, Fixed) and count.value == 0.0):
            media.append((count, tokens))
    return LengthWindow(start, text, output, tuple(media))


def _values(fields: dict[str, Any], name: str, place: str) -> Distribution | None:
    # The value is a text such as "{23: 0.0004, 24: 0.0112}"; ast.literal_eval takes a second a megabyte.
    text = fields.get(name)
    if text is None:
        return None
    try:
        pairs = [pair.split(":") for pair in str(text).strip().strip("{}").split(",") if pair.strip()]
        values = np.array([float(value) for value, _ in pairs])
        weights = np.array([float(weight) for _, weight in pairs])
    except ValueError:
        raise TraceError(f"{place}: column {name}: is not a text of lengths and probabilities") from None
    if not len(values) or not weights.sum() > 0.0:
        return None
    return Fixed(float(values[0])) if len(values) == 1 else Empirical.from_weights(values, weights)
