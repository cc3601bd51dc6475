"""Collecting everything that is wrong with a scenario before saying so, each with its place."""

import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from llmsim.errors import InfeasibleError, LlmsimError, ScenarioError
from llmsim.schema.document import Scenario
from llmsim.schema.problems import in_file_order

_Result = TypeVar("_Result")
_Args = ParamSpec("_Args")
_NAME = re.compile(r"([a-z_]+(?:\.\w+)*): ")


class Findings:
    """What is wrong with one scenario so far."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._lines: list[str] = []
        self._infeasible = True

    def add(self, key: tuple[str | int, ...], what: str, *, infeasible: bool = False) -> None:
        """Note that ``what`` is wrong with ``key``; ``infeasible``: well formed, but it cannot run."""
        self._lines.append(f"{self._scenario.where(*key)}: {what}")
        self._infeasible = self._infeasible and infeasible

    def attempt(
        self, key: tuple[str | int, ...], function: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs
    ) -> _Result | None:
        """Return what ``function`` returns, or None after noting the error that it raised.

        An error that names a key of the scenario itself is noted there, any other at ``key``.
        """
        try:
            return function(*args, **kwargs)
        except LlmsimError as error:
            key, what = self._place(key, str(error))
            self.add(key, what, infeasible=isinstance(error, InfeasibleError))
            return None

    def _place(self, key: tuple[str | int, ...], message: str) -> tuple[tuple[str | int, ...], str]:
        match = _NAME.match(message)
        if match is None:
            return self._scenario.place(*key), message
        named = match[1].split(".")
        if named[0] == key[0]:
            return tuple(named), message[match.end() :]
        if named[0] in (*key, "plan") or named[0].endswith("_parallel_size"):
            inner = (*key[:1], *named) if named[0].endswith("_parallel_size") else self._scenario.place(*key)
            return inner, message[match.end() :]
        return self._scenario.place(*key), message

    def settle(self) -> None:
        """Raise if anything is wrong.

        Raises:
            ScenarioError: with one line for each finding, in the order of the file.
            InfeasibleError: the same, when the scenario is well formed but cannot run.
        """
        if self._lines:
            kind = InfeasibleError if self._infeasible else ScenarioError
            raise kind("\n".join(in_file_order(self._lines)))
