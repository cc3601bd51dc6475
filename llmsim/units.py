"""Quantities with units: text in, plain seconds, bytes, flop/s, hertz and watts out, and back for people.

Prefixes are decimal (``GB`` is 1e9 bytes) unless they carry an ``i`` (``GiB`` is 2**30 bytes).
"""

import math
import re

from llmsim.errors import InputError

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_TIME = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0}
# Units that take a prefix: spelling -> value in the unit used inside.
_UNITS = {
    "bytes": {"B": 1.0},
    "bytes/s": {"B/s": 1.0, "bit/s": 0.125, "bps": 0.125},
    "flop/s": {"FLOP/s": 1.0, "FLOPS": 1.0, "FLOPs": 1.0, "flop/s": 1.0, "OP/s": 1.0, "OPS": 1.0, "OPs": 1.0},
    "Hz": {"Hz": 1.0},
    "W": {"W": 1.0},
    "1": {"": 1.0},
}
_EXAMPLES = {
    "bytes": "80 GB",
    "bytes/s": "3.35 TB/s",
    "flop/s": "989 TFLOP/s",
    "s": "25 us",
    "Hz": "1.98 GHz",
    "W": "700 W",
    "1": "8k",
}
_QUANTITY = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s].*?)?\s*")


class QuantityError(InputError, ValueError):
    """A text is not a quantity of the wanted dimension; the caller adds where the text stands."""


def parse(text: object, dimension: str) -> float:
    """Return the value of ``text`` in bytes, bytes/s, flop/s, s, Hz, W, or as a plain number ("1").

    A bare number is refused for every dimension but "1", whether YAML gave it as a number or, as it
    does for ``1e9``, as text.

    Raises:
        QuantityError: the text is no quantity of that dimension, or it is negative.
    """
    plain = isinstance(text, (int, float)) and not isinstance(text, bool)
    match = _QUANTITY.fullmatch(str(text)) if plain or isinstance(text, str) else None
    if match is not None:
        unit = match[2] or ""
        scale = _scale(unit, dimension)
        if scale is not None:
            value = float(match[1].replace("_", "")) * scale
            if value >= 0:
                return value
    elif dimension == "1" and str(text).strip().lower() in ("inf", "infinity", ".inf"):
        return math.inf
    raise QuantityError(_complaint(text, dimension))


def _scale(unit: str, dimension: str) -> float | None:
    if dimension == "s":
        return _TIME.get(unit)
    if dimension == "1" and unit == "%":
        return 0.01
    for spelling, value in _UNITS[dimension].items():
        if unit.endswith(spelling):
            prefix = unit.removesuffix(spelling) if spelling else unit
            factor = _DECIMAL.get(prefix, _BINARY.get(prefix))
            if factor is not None:
                return factor * value
    return None


def _complaint(text: object, dimension: str) -> str:
    example = _EXAMPLES[dimension]
    message = f"{str(text)!r} is not a quantity such as {example!r}"
    given = str(text).strip()
    if re.fullmatch(r"[\d.eE+_]+", given) and dimension != "1":
        return f"{message}\nhint: write the unit, for example '{given} {example.split()[-1]}'"
    if dimension == "bytes/s" and re.search(r"[kKMGT]b/s$", given):
        return f"{message}\nhint: write 'Gbit/s' for bits or 'GB/s' for bytes"
    return message


def format_bytes(size: float) -> str:
    """Return ``size`` in bytes as text for people, in binary units as vLLM's log does: ``"79.1 GiB"``."""
    for prefix in ("Ti", "Gi", "Mi", "Ki"):
        if abs(size) >= _BINARY[prefix]:
            return f"{size / _BINARY[prefix]:.1f} {prefix}B"
    return f"{size:.0f} B"


def format_seconds(duration: float) -> str:
    """Return ``duration`` in seconds as text for people: ``"25.0 us"``, ``"1.50 s"``, ``"2 h 05 min"``."""
    if not math.isfinite(duration):
        return "never" if duration > 0 else str(duration)
    if duration == 0:
        return "0 s"
    if abs(duration) >= 7200:
        hours, minutes = divmod(round(duration / 60), 60)
        return f"{hours} h {minutes:02d} min"
    if abs(duration) >= 120:
        minutes, seconds = divmod(round(duration), 60)
        return f"{minutes} min {seconds:02d} s"
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        value = duration / factor
        if abs(value) >= 1 or unit == "ns":
            return f"{value:.{max(0, 2 - math.floor(math.log10(max(abs(value), 1))))}f} {unit}"
    raise AssertionError("unreachable")
