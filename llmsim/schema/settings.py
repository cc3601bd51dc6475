"""The settings of a scheduler: which keyword-only arguments its class takes, of which type, and what they mean."""

import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic_core import PydanticCustomError

from llmsim.schema import values

# What the simulation hands to a class that asks for it: no setting of the user's.
OWN = ("leap", "seed")
REQUIRED: Any = inspect.Parameter.empty

_READERS: dict[Any, Callable[[Any], Any]] = {
    int: values.whole, float: values.number, bool: values.switch, str: values.text
}  # fmt: skip
_PLAIN = tuple(_READERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.  ``kind`` is its annotation, or the type of its default; `typing.Any` takes every value."""

    name: str
    kind: Any
    default: Any
    help: str = ""

    @property
    def words(self) -> str:
        """The kind in words: ``a whole number``, ``fcfs or lpm``, ``a number or null``."""
        return " or ".join(dict.fromkeys(_words(kind) for kind in _members(self.kind)))

    def read(self, value: Any) -> Any:
        """Return ``value`` as the setting's type.

        Raises:
            ValueError: it is something else.
        """
        known = _members(self.kind)
        for kind in sorted(known, key=_rank):
            try:
                return _read(kind, value)
            except (PydanticCustomError, ValueError):
                continue
        shown = str(value).lower().replace("none", "null") if value is None or isinstance(value, bool) else repr(value)
        raise ValueError(f"must be {self.words} (got {shown})")


@dataclass(frozen=True, slots=True)
class Signature:
    """What a scheduler's class takes: its settings by name, and whether it takes any others, `leap` and `seed`."""

    settings: dict[str, Setting]
    takes_any: bool
    takes: tuple[str, ...]

    def knows(self, name: str) -> bool:
        """Say whether there is a setting ``name``."""
        return name in self.settings or (self.takes_any and name not in OWN)

    def check(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Return the settings in ``given`` with their values read, and (name, what is wrong) of the others.

        A value of None where none is allowed counts as not given.
        """
        read: dict[str, Any] = {}
        problems: list[tuple[str, str]] = []
        for name, value in given.items():
            setting = self.settings.get(name)
            if setting is None and self.takes_any and name not in OWN:
                read[name] = value
            elif setting is None:
                problems.append((name, self._unknown(name)))
            elif value is not None or _takes_none(setting):
                try:
                    read[name] = setting.read(value)
                except ValueError as error:
                    problems.append((name, str(error)))
        missing = [name for name, setting in self.settings.items() if setting.default is REQUIRED and name not in given]
        problems += [("", f"setting {name} is missing\nhint: scheduler: {{{name}: ...}}") for name in missing]
        return read, problems

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name.replace("-", "_"), self.settings, n=1, cutoff=0.6)
        guess = f" (did you mean {close[0]!r}?)" if close else ""
        known = ", ".join(f"{one.name} ({_default(one)})" for one in self.settings.values())
        return f"unknown setting{guess}\nhint: known: {known}" if known else "unknown setting: this scheduler has none"


def signature_of(maker: Any) -> Signature:
    """Return what ``maker``, a class or a function that makes a scheduler, takes beside the options and the blocks."""
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return Signature({}, False, ())
    notes = _argument_notes(maker)
    settings = {
        one.name: Setting(name=one.name, kind=_kind(maker, one), default=one.default, help=notes.get(one.name, ""))
        for one in parameters
        if one.kind is one.KEYWORD_ONLY and one.name not in OWN
    }
    names = [one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    return Signature(settings, takes_any, tuple(name for name in OWN if name in names))


def _kind(maker: Any, parameter: inspect.Parameter) -> Any:
    """Return the type of an argument: what its annotation says, else the type of its default."""
    while isinstance(maker, partial):
        maker = maker.func
    function = getattr(maker, "__init__", maker) if isinstance(maker, type) else maker
    named = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    if parameter.annotation is not parameter.empty:
        try:
            return typing.get_type_hints(named, getattr(function, "__globals__", {}))[parameter.name]
        except (NameError, TypeError, SyntaxError, AttributeError):
            pass  # a name that only a type checker imports
    return type(parameter.default) if isinstance(parameter.default, _PLAIN) else Any


def _members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _takes_none(setting: Setting) -> bool:
    return setting.kind is Any or types.NoneType in _members(setting.kind)


def _rank(kind: Any) -> int:
    """Order the members of a union: what takes fewest values first."""
    if kind is types.NoneType or typing.get_origin(kind) is Literal:
        return 0
    return 1 + (bool, int, float, str).index(kind) if kind in _PLAIN else 5


def _read(kind: Any, value: Any) -> Any:
    if kind is types.NoneType:
        if value is not None:
            raise ValueError
        return None
    if typing.get_origin(kind) is Literal:
        # Values, not their spelling: True == 1 in Python.
        for choice in typing.get_args(kind):
            if choice == value and type(choice) is type(value):
                return choice
        raise ValueError
    if typing.get_origin(kind) in (list, tuple):
        inner = next((one for one in typing.get_args(kind) if one is not ...), Any)
        if not isinstance(value, list | tuple):
            raise ValueError
        return typing.get_origin(kind)(_read(inner, item) for item in value)
    return _READERS[kind](value) if kind in _READERS else value


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join("null" if choice is None else str(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) in (list, tuple):
        return "a list"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}
    return plain.get(kind, "any value")


def _default(setting: Setting) -> str:
    return "no default" if setting.default is REQUIRED else values.shown(setting.default)


_ARGUMENT = re.compile(r"(\w+):\s+(.*)")


def _argument_notes(maker: Any) -> dict[str, str]:
    """Return what the ``Args:`` block of a class's docstring says about each argument."""
    notes: dict[str, str] = {}
    depth, name = None, ""
    lines = iter((inspect.getdoc(maker) or "").splitlines())
    for line in lines:
        if line.strip() == "Args:":
            break
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip() or indent == 0:
            break
        depth = depth or indent
        match = _ARGUMENT.fullmatch(line.strip()) if indent == depth else None
        if match:
            name, notes[match[1]] = match[1], match[2]
        elif name:
            notes[name] += " " + line.strip()
    return notes
