"""Checks of the settings of an order."""

from __future__ import annotations

from math import isfinite

from llmsim.engine_options import EngineOptions
from llmsim.errors import ScenarioError


def least(scheduler: str, setting: str, value: float, lowest: float = 0.0) -> None:
    """Refuse a ``value`` below ``lowest``, or one that is not finite.

    Raises:
        ScenarioError: it is; the message names scheduler and setting.
    """
    if not isfinite(value) or value < lowest:
        raise ScenarioError(f"scheduler.{setting}: {scheduler} needs a number of at least {lowest:g} (got {value:g})")


def no_priorities(scheduler: str, options: EngineOptions) -> None:
    """Refuse vLLM's priority policy beside an order that would take its place.

    Raises:
        ScenarioError: the engine's ``scheduling_policy`` is ``priority``.
    """
    if options.scheduling_policy != "fcfs":
        raise ScenarioError(
            f"engine.scheduling_policy: {scheduler} has an order of its own (got {options.scheduling_policy})"
            "\nhint: leave it out, or take scheduler: continuous"
        )
