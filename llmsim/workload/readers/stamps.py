"""Times of traces as whole nanoseconds: dates with any number of digits, and numbers in any unit."""

from collections.abc import Callable
from datetime import datetime

UNITS_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

Stamp = Callable[[object], int]

_EPOCH = datetime(1970, 1, 1)
_LATEST_NS = 4 * 10**18  # about 127 years: differences fit 64 bits


class DateReader:
    """Reads stamps such as ``2023-11-16 18:17:03.9799600``, ``2024-05-12T00:00:00Z``, ``... +02:00``.

    The minute and the zone are parsed once for all rows that share them: `datetime.strptime` takes
    microseconds a row, and knows no seventh digit.
    """

    __slots__ = ("_minute", "_minute_ns", "_zone")

    def __init__(self) -> None:
        self._minute = ""  # with the colon, as in "2023-11-16 18:17:"
        self._minute_ns = 0
        self._zone = ""

    def __call__(self, value: object) -> int:
        """Return nanoseconds since 1970 in UTC; a stamp without a zone is taken as UTC.

        Raises:
            ValueError: this is not a date and time.
        """
        text = str(value)
        if text[:17] == self._minute and text.endswith(self._zone):
            digits = text[17:19] + text[20 : len(text) - len(self._zone)]
            if digits.isdecimal() and text[19:20] in _AFTER_SECONDS and 2 <= len(digits) < 12:
                return self._minute_ns + int(digits) * _SCALE[len(digits)]
        return self._careful(text.strip())

    def _careful(self, text: str) -> int:
        clock, zone, offset_ns = _split_zone(text)
        minute_ns = _minute_ns(clock[:16]) - offset_ns
        seconds = clock[16:]
        if not seconds:
            return minute_ns
        whole, _, fraction = seconds[1:].partition(".")
        if seconds[0] != ":" or len(whole) != 2 or not (whole + fraction).isdecimal():
            raise ValueError("not a date and time")
        self._minute, self._minute_ns, self._zone = clock[:17], minute_ns, zone
        return minute_ns + int(whole) * 10**9 + int((fraction + "000000000")[:9])


_AFTER_SECONDS = ("", ".", "Z", "z", "+", "-")
_SCALE: list[int] = [
    0,
    0,
    *(10 ** (9 - digits) for digits in range(10)),
]  # by the number of digits of seconds and fraction


def _minute_ns(text: str) -> int:
    if len(text) < 16 or text[10] not in "T ":
        raise ValueError("not a date and time")
    moment = datetime.fromisoformat(text)
    return round((moment - _EPOCH).total_seconds()) * 10**9


def _split_zone(text: str) -> tuple[str, str, int]:
    if text[-1:] in ("Z", "z"):
        return text[:-1], text[-1], 0
    at = max(text.rfind("+"), text.rfind("-"))
    if at < 16:  # a hyphen of the date
        return text, "", 0
    digits = text[at + 1 :].replace(":", "").ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:4])
    sign = 1 if text[at] == "+" else -1
    clock = text[:at].rstrip()
    return clock, text[len(clock) :], sign * minutes * 60 * 10**9


def number_reader(unit: str) -> Stamp:
    """Return a reader of numbers in ``unit`` (s, ms, us, ns), exact to the nanosecond.

    A number of 15 digits or more, such as microseconds since 1970, does not go through a float when it is whole.
    """
    scale = UNITS_NS[unit]
    latest = _LATEST_NS // scale

    def read(value: object) -> int:
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                value = float(value)
        if not isinstance(value, int | float) or not abs(value) <= latest:  # also when it is not a number
            raise ValueError("not a time")
        return round(value * scale)

    return read


def guess_unit(first: float) -> str:
    """Return the unit of a stamp that counts from 1970, by its size; small numbers are seconds from the start.

    Seconds since 1970 reach 1e11 in the year 5138, so larger numbers are milliseconds, and so on.
    """
    for unit, least in (("ns", 1e17), ("us", 1e14), ("ms", 1e11)):
        if abs(first) >= least:
            return unit
    return "s"
