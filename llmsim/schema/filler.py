"""Filling in an engine's flags: from the user, else from the preset, else from a rule; with the origin of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmsim.schema.flags import Flag


class Filler:
    """Takes each flag from the user, else from the preset, else from a rule; notes the origin.

    Args:
        given: what the user said, by flag; None means nothing.
        preset: name of the preset, for the origins.
        flags: the preset's flags with their defaults.
    """

    def __init__(self, given: Mapping[str, Any], preset: str, flags: Mapping[str, Flag]) -> None:
        self.given = {name: value for name, value in given.items() if value is not None}
        self.flags = flags
        self.preset = preset
        self.origins: dict[str, str] = {}

    def take(self, name: str, rule: Any = None, origin: str | None = None) -> Any:
        """Return the user's value of a flag, else ``rule`` with its ``origin``, else the preset's default."""
        if name in self.given:
            self.origins[name] = "user"
            return self.given[name]
        if rule is None:
            rule, origin = self.flags[name].default, None
        self.origins[name] = origin or f"preset {self.preset}"
        return rule

    def by_device(self, name: str, rule: Any) -> Any:
        """Return the user's value of a flag, else the preset's ``rule``, which depends on the device."""
        return self.take(name, rule, f"preset {self.preset}, by device")


@dataclass(slots=True)
class Filled:
    """What an engine's rules say: values of `EngineOptions`, and the scheduler that holds without another.

    ``settings`` of that scheduler come with their origin; ``shown`` are values of flags that are no field of
    `EngineOptions`; ``problems`` are (flag, what is wrong).
    """

    values: dict[str, Any]
    scheduler: str = "continuous"
    settings: dict[str, tuple[Any, str]] = field(default_factory=dict)
    shown: dict[str, Any] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def set(self, filler: Filler, *names: str) -> None:
        """Make flags that the scheduler reads its settings, under their own names."""
        for name in names:
            value = self.shown[name] if name in self.shown else filler.take(name)
            self.shown[name] = value
            origin = filler.origins[name]
            self.settings[name] = value, f"engine.{name}" if origin == "user" else origin
