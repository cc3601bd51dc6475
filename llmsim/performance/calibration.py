"""A calibration: the few numbers of somebody's own stack, the regime they were found in, and the error they left.

`llmsim calibrate` writes the file, ``performance: {calibration: FILE}`` in a scenario reads it.  Numbers lie over those
of the stack (`llmsim.performance.correction`): factors multiply, host times replace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from llmsim.errors import InputError
from llmsim.performance.correction import StackCorrection

VERSION = 1
FACTORS = ("memory", "compute", "communication", "launch")
HOST = ("step_us", "sequence_us")
CLIENT = "client_ms"
NUMBERS = (*FACTORS, *HOST, CLIENT)
"""The numbers that a calibration may hold, in the order in which they are explained."""

# A run may exceed the calibrated range by this factor before it is said to leave it.
SLACK = 1.25
# Facts of a regime -> what to call them.
_SAID = {
    "model": "model", "plan": "plan", "engine": "engine preset", "stack": "stack", "weight_format": "weight format",
    "cache_format": "cache format",
}  # fmt: skip
_RANGES = {
    "sequences": "sequences under way", "prompt_tokens": "prompt tokens", "context_tokens": "tokens of context",
    "request_rate": "requests a second",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Range:
    """From the least to the greatest that was measured."""

    low: float
    high: float

    def beyond(self, low: float, high: float) -> bool:
        """Say whether values from ``low`` to ``high`` leave the range by more than a quarter."""
        return high > self.high * SLACK or low < self.low / SLACK

    def joined(self, other: Range) -> Range:
        """Return the range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """Where a calibration was made.  ``ranges`` by name: sequences, prompt_tokens, context_tokens, request_rate."""

    device: str
    model: str
    plan: str
    engine: str
    stack: str
    weight_format: str
    cache_format: str
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def departures(self, other: Regime) -> list[str]:
        """Return what is different in ``other``, but for the device and the ranges: one text each."""
        return [
            f"{said} {getattr(other, name)}, calibrated with {getattr(self, name)}"
            for name, said in _SAID.items()
            if getattr(self, name) != getattr(other, name)
        ]

    def outside(self, ranges: Mapping[str, Range]) -> list[str]:
        """Return the ranges that leave the calibrated ones: one text each."""
        told = []
        for name, one in ranges.items():
            known = self.ranges.get(name)
            if known is not None and known.beyond(one.low, one.high):
                span = f"{one.low:.4g}" if one.low == one.high else f"{one.low:.4g} to {one.high:.4g}"
                told.append(f"{_RANGES.get(name, name)} {span}, calibrated with {known.low:.4g} to {known.high:.4g}")
        return told


@dataclass(frozen=True, slots=True)
class Estimate:
    """One number: its value, its 95 % interval (None: not known), and why it was kept (empty: it was fitted)."""

    value: float
    low: float | None = None
    high: float | None = None
    kept: str = ""


@dataclass(frozen=True, slots=True)
class Errors:
    """Median absolute errors of one quantity in percent; None: it could not be told."""

    before: float
    in_sample: float
    held_out: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `llmsim calibrate` found.

    ``numbers`` by name; ``errors`` by quantity (ttft, tpot, e2e, throughput, step, kernel); ``notes`` say in plain
    words what the data could not tell; ``measured`` names the files.
    """

    numbers: Mapping[str, Estimate]
    regime: Regime
    errors: Mapping[str, Errors]
    notes: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    version: str = ""

    @property
    def values(self) -> dict[str, float]:
        """The numbers that were fitted."""
        return {name: one.value for name, one in self.numbers.items() if not one.kept}

    @property
    def client_s(self) -> float:
        """Seconds that a request and its answer spend outside of the server."""
        return self.values.get(CLIENT, 0.0) * 1e-3

    @property
    def expected_error(self) -> str:
        """What to expect of a run in the calibrated regime, for the head of a result."""
        told = [
            f"{name.upper() if name in ('ttft', 'tpot', 'e2e') else name} {one.held_out:.1f} %"
            for name, one in self.errors.items()
            if one.held_out is not None
        ]
        return f"{', '.join(told)} (median, held out of the calibration)" if told else "unknown: nothing was held out"

    def corrected(self, stack: StackCorrection) -> StackCorrection:
        """Return the stack's numbers with the calibration's over them."""
        return corrected(stack, self.values)


def corrected(stack: StackCorrection, values: Mapping[str, float]) -> StackCorrection:
    """Return ``stack`` with factors multiplied and host times replaced; the client's time is not a matter of prices."""
    numbers: dict[str, Any] = {name: getattr(stack, name) * values[name] for name in FACTORS if name in values}
    numbers |= {name: values[name] for name in HOST if name in values}
    return replace(stack, **numbers)


def write_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write a calibration as YAML.

    Raises:
        InputError: the file cannot be written.
    """
    import yaml

    regime = calibration.regime
    facts = {one.name: getattr(regime, one.name) for one in fields(Regime) if one.name != "ranges"}
    facts |= {name: [_short(one.low), _short(one.high)] for name, one in regime.ranges.items()}
    numbers = {}
    for name, one in calibration.numbers.items():
        entry: dict[str, Any] = {"value": _short(one.value)}
        if one.low is not None and one.high is not None:
            entry["interval95"] = [_short(one.low), _short(one.high)]
        if one.kept:
            entry["kept"] = one.kept
        numbers[name] = entry
    content = {
        "llmsim_calibration": VERSION,
        "llmsim_version": calibration.version,
        "measured": list(calibration.measured),
        "numbers": numbers,
        "regime": facts,
        "errors_percent": {
            name: {"before": _short(one.before), "in_sample": _short(one.in_sample), "held_out": _short(one.held_out)}
            for name, one in calibration.errors.items()
        },
        "notes": list(calibration.notes),
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    try:
        Path(path).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def read_calibration(path: str | Path) -> Calibration:
    """Read what `write_calibration` wrote.

    Raises:
        InputError: there is no such file, or it is not a calibration of this version.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or "llmsim_calibration" not in content:
        raise InputError(f"{path}: not a calibration\nhint: llmsim calibrate MEASURED... -o {Path(path).name}")
    version = content["llmsim_calibration"]
    if version != VERSION:
        raise InputError(f"{path}: llmsim_calibration: this release reads version {VERSION} (got {version!r})")
    return _File(str(path), content).calibration()


class _File:
    """The content of a calibration file; every complaint names file and key."""

    def __init__(self, path: str, content: Mapping[str, Any]) -> None:
        self.path, self.content = path, content

    def calibration(self) -> Calibration:
        return Calibration(
            numbers={name: self._estimate(name, said) for name, said in self._mapping("numbers").items()},
            regime=self._regime(self._mapping("regime")),
            errors={name: self._errors(name, said) for name, said in self._mapping("errors_percent").items()},
            notes=tuple(str(note) for note in self.content.get("notes") or ()),
            measured=tuple(str(name) for name in self.content.get("measured") or ()),
            version=str(self.content.get("llmsim_version", "")),
        )

    def _mapping(self, key: str) -> Mapping[str, Any]:
        said = self.content.get(key)
        if not isinstance(said, dict):
            raise InputError(f"{self.path}: {key}: not a mapping (got {said!r})")
        return said

    def _number(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise InputError(f"{self.path}: {key}: must be a number of at least 0 (got {value!r})")
        return float(value)

    def _range(self, key: str, value: Any) -> Range:
        if not isinstance(value, list) or len(value) != 2:
            raise InputError(f"{self.path}: {key}: must be [low, high] (got {value!r})")
        return Range(*(self._number(key, one) for one in value))

    def _estimate(self, name: str, said: Any) -> Estimate:
        if name not in NUMBERS:
            raise InputError(f"{self.path}: numbers.{name}: no such number\nhint: known: {', '.join(NUMBERS)}")
        entry = said if isinstance(said, dict) else {"value": said}
        key = f"numbers.{name}"
        value = self._number(f"{key}.value", entry.get("value"))
        interval = entry.get("interval95")
        kept = str(entry.get("kept") or "")
        if interval is None:
            return Estimate(value, kept=kept)
        span = self._range(f"{key}.interval95", interval)
        return Estimate(value, span.low, span.high, kept)

    def _regime(self, said: Mapping[str, Any]) -> Regime:
        names = [one.name for one in fields(Regime) if one.name != "ranges"]
        for name in names:
            if not isinstance(said.get(name), str):
                raise InputError(f"{self.path}: regime.{name}: not a text (got {said.get(name)!r})")
        ranges = {name: self._range(f"regime.{name}", said[name]) for name in _RANGES if name in said}
        return Regime(**{name: said[name] for name in names}, ranges=ranges)

    def _errors(self, name: str, said: Any) -> Errors:
        if not isinstance(said, dict):
            raise InputError(f"{self.path}: errors_percent.{name}: not a mapping (got {said!r})")
        key = f"errors_percent.{name}"
        held_out = said.get("held_out")
        return Errors(
            self._number(f"{key}.before", said.get("before")),
            self._number(f"{key}.in_sample", said.get("in_sample")),
            None if held_out is None else self._number(f"{key}.held_out", held_out),
        )
