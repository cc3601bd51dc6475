"""Values as people write them: numbers in quotes or with a suffix, yes and no, quantities with units."""

import json
import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from llmsim.schema.source import scalar

# vLLM's human_readable_int: a small letter counts thousands, a capital one 1024s (max_model_len: 32k).
_SUFFIX = {letter: 1000**power for power, letter in enumerate("kmgt", 1)} | {
    letter: 1024**power for power, letter in enumerate("KMGT", 1)
}
_WITH_SUFFIX = re.compile(r"([0-9.]+)\s*([kmgtKMGT])")


def _fail(what: str, value: Any) -> PydanticCustomError:
    # str() of None or True would be Python's spelling, not the file's.
    shown = str(value).lower().replace("none", "null") if value is None or isinstance(value, bool) else str(value)
    return PydanticCustomError("value", "{what} (got {shown})", {"what": what, "shown": shown})


def number(value: Any) -> float:
    """Return ``value`` as a float: 8, "8", "1e9", "92%", "inf".

    Raises:
        PydanticCustomError: it is not a number.
    """
    if isinstance(value, str):
        text = value.strip()
        factor = 0.01 if text.endswith("%") else 1.0
        parsed = scalar(text.removesuffix("%").rstrip())
        if isinstance(parsed, int | float) and not isinstance(parsed, bool):
            return parsed * factor
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise _fail("not a number", value)
    return float(value)


def whole(value: Any) -> int:
    """Return ``value`` as an int: 8192, "8192", 8192.0, "1e4", and vLLM's "8k" = 8000 and "8K" = 8192.

    Raises:
        PydanticCustomError: it is not a whole number.
    """
    match = _WITH_SUFFIX.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        result = float(match[1]) * _SUFFIX[match[2]] if match else number(value)
        if result != int(result):
            raise ValueError
    except (PydanticCustomError, ValueError, OverflowError):
        raise _fail("not a whole number", value) from None
    return int(result)


def text(value: Any) -> str:
    """Return ``value`` as text; a number is taken as it was written.

    Raises:
        PydanticCustomError: it is not a text.
    """
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        raise _fail("not a text; put it in quotes" if isinstance(value, bool) else "not a text", value)
    return str(value)


def switch(value: Any) -> bool:
    """Return ``value`` as True or False; yes, no, on and off count too.

    Raises:
        PydanticCustomError: it is neither.
    """
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "yes", "on", "1"):
        return True
    if str(value).lower() in ("false", "no", "off", "0"):
        return False
    raise _fail("neither true nor false", value)


def seconds_or_count(value: Any) -> int | str:
    """Return a warm-up: 200 requests, "30s", or "auto".

    Raises:
        PydanticCustomError: it is neither a count nor a duration.
    """
    from llmsim import units
    from llmsim.errors import InputError

    if value == "auto":
        return "auto"
    if isinstance(value, str) and not isinstance(scalar(value), int | float):
        try:
            units.parse(value, "s")
        except InputError:
            raise _fail("neither a number of requests nor a duration such as 30s, nor auto", value) from None
        return value
    return whole(value)


def name_or_mapping(value: Any) -> str | dict[str, Any]:
    """Return ``value`` as it stands when it is a text or a mapping.

    Raises:
        PydanticCustomError: it is neither.
    """
    if isinstance(value, str | dict):
        return value
    raise _fail("must be a name, a path or a mapping", value)


Number = Annotated[float, BeforeValidator(number)]
Whole = Annotated[int, BeforeValidator(whole)]
Text = Annotated[str, BeforeValidator(text)]
Switch = Annotated[bool, BeforeValidator(switch)]
NameOrMapping = Annotated[str | dict[str, Any], BeforeValidator(name_or_mapping)]
SecondsOrCount = Annotated[int | str, BeforeValidator(seconds_or_count)]


def quantity(dimension: str) -> BeforeValidator:
    """Return the validator of a quantity with unit, such as ``quantity("bytes")`` for "80GiB"; it stays a text."""

    def check(value: Any) -> str:
        from llmsim import units
        from llmsim.errors import InputError

        try:
            units.parse(str(value), dimension)
        except InputError as error:
            raise PydanticCustomError("value", "{what}", {"what": str(error)}) from None
        return str(value)

    return BeforeValidator(check)


def shown(value: Any) -> str:
    """Return ``value`` as YAML in one line; JSON is YAML, but for infinity and words that need no quotes."""
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, str):
        plain = value and all(letter.isalnum() or letter in "_-./@" for letter in value) and value[0].isalpha()
        return value if plain and scalar(value) == value else json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(shown(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{shown(str(key))}: {shown(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value)
