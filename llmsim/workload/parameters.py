"""Options of a scenario, read one by one, with the place of whatever is wrong in them."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmsim.errors import ScenarioError
from llmsim.units import QuantityError, parse


class Parameters:
    """A mapping of options at ``where`` in the scenario; `finish` refuses what nobody has read.

    Every method raises ScenarioError with the full name of the option and what was given.
    """

    def __init__(self, values: Mapping[str, Any] | None, where: str) -> None:
        if values is not None and not isinstance(values, Mapping):
            raise ScenarioError(f"{where}: must be a mapping of options (got {values!r})")
        self.where = where
        self._values = dict(values or {})
        self._read: list[str] = []

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def error(self, name: str, what: str) -> ScenarioError:
        """Return the error that option ``name`` is wrong in the way ``what``."""
        got = f" (got {self._values[name]!r})" if name in self._values else ""
        return ScenarioError(f"{self.where}.{name}: {what}{got}")

    def raw(self, name: str) -> Any:
        """Return the option as it stands, or None."""
        self._read.append(name)
        return self._values.get(name)

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        above: float | None = None,
        least: float | None = None,
        most: float | None = None,
    ) -> float:
        """Return a number; without a ``default`` the option is required."""
        value = self.raw(name)
        if value is None:
            if default is None:
                raise ScenarioError(f"{self.where}.{name}: is required")
            return default
        return self._checked(name, value, above, least, most)

    def optional_number(
        self, name: str, *, above: float | None = None, least: float | None = None, most: float | None = None
    ) -> float | None:
        """Return a number, or None when the option is not given."""
        value = self.raw(name)
        return None if value is None else self._checked(name, value, above, least, most)

    def seconds(self, name: str, default: float | None = None) -> float:
        """Return a time above 0 in seconds: a number, or a text with a unit such as ``10min``."""
        value = self.raw(name)
        if isinstance(value, str):
            try:
                value = parse(value, "s")
            except QuantityError as error:
                raise self.error(name, "must be a time such as 60s or 10min") from error
        elif value is None:
            if default is None:
                raise ScenarioError(f"{self.where}.{name}: is required")
            return default
        return self._finite(name, self._checked(name, value, 0.0, None, None))

    def whole(self, name: str, default: int | None = None, *, least: int | None = None) -> int:
        """Return a whole number; without a ``default`` the option is required."""
        value = self.number(name, default, least=least)
        if not math.isfinite(value) or value != int(value):
            raise self.error(name, "must be a whole number")
        return int(value)

    def optional_whole(self, name: str, *, least: int | None = None) -> int | None:
        """Return a whole number, or None when the option is not given."""
        return self.whole(name, least=least) if name in self else self.raw(name)

    def text(self, name: str, default: str | None = None, *, choices: Sequence[str] | None = None) -> str:
        """Return a text, one of the ``choices`` if there are any; without a ``default`` the option is required."""
        value = self.raw(name)
        if value is None:
            if default is None:
                raise ScenarioError(f"{self.where}.{name}: is required")
            return default
        if not isinstance(value, str):
            raise self.error(name, "must be a text")
        if choices is not None and value not in choices:
            raise ScenarioError(str(self.error(name, "is not known")) + f"\nhint: one of {', '.join(choices)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return a yes or no."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return value

    def numbers(self, name: str) -> list[float] | None:
        """Return a list of numbers, or None when the option is not given."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise self.error(name, "must be a list of numbers")
        return [self._checked(name, item, None, None, None) for item in value]

    def below(self, name: str) -> "Parameters":
        """Return the mapping that option ``name`` holds, empty when it is not given."""
        return Parameters(self.raw(name), f"{self.where}.{name}")

    def finish(self) -> None:
        """Refuse options that nobody has read."""
        for name in self._values:
            if name not in self._read:
                known = sorted(set(self._read))
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
                raise ScenarioError(f"{self.where}.{name}: unknown option\nhint: {hint}")

    def _finite(self, name: str, value: float) -> float:
        if not math.isfinite(value):
            raise self.error(name, "must be finite")
        return value

    def _checked(self, name: str, value: Any, above: float | None, least: float | None, most: float | None) -> float:
        if isinstance(value, str) and value.strip().lower() in ("inf", ".inf", "infinity"):
            value = math.inf
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise self.error(name, "must be a number")
        if above is not None and not value > above:
            raise self.error(name, f"must be more than {above:g}")
        if least is not None and value < least:
            raise self.error(name, f"must be at least {least:g}")
        if most is not None and value > most:
            raise self.error(name, f"must be at most {most:g}")
        return float(value)
