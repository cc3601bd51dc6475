"""Runs that have come to an end, in a file, so that a sweep or a search can go on where it was interrupted."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsim.errors import InputError


class Checkpoint:
    """One JSON line for each run: scenario, point, seed and what came of it.

    A line of another scenario or point does not match and stays in the file.  A last line that was cut off as the
    process died is left out and its run repeated.

    Args:
        path: the file, made when the first run ends; None: nothing is kept.
        scenario: what all points share, as plain data.
        whose: what the runs belong to, for messages.

    Raises:
        InputError: the file cannot be read, or one of its lines is not that of a checkpoint.
    """

    def __init__(self, path: Path | str | None, scenario: Mapping[str, Any], *, whose: str = "sweep") -> None:
        self._whose = whose
        self._path = None if path is None else Path(path)
        self._scenario = _text(scenario)
        self._found: dict[str, dict[str, Any]] = {}
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def find(self, point: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
        """Return what came of a run, or None when it has not come to an end before."""
        return self._found.get(self._key(point, seed))

    def add(self, point: Mapping[str, Any], seed: int, result: Mapping[str, Any]) -> None:
        """Keep what came of a run, unless it was stopped."""
        if self._path is None or result["status"] == "stopped":
            return
        line = {"run": self._key(point, seed), "result": dict(result)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_text(line) + "\n")

    def _key(self, point: Mapping[str, Any], seed: int) -> str:
        return _text([self._scenario, point, seed])

    def _read(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a checkpoint of a {self._whose} ({error})") from None
        if lines and not lines[-1].endswith("\n"):
            path.write_text("".join(lines[:-1]), encoding="utf-8")
            lines = lines[:-1]
        for number, text in enumerate(lines, 1):
            try:
                line = json.loads(text)
                self._found[line["run"]] = dict(line["result"])
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{path}:{number}: not a line of a {self._whose}'s checkpoint\n"
                    "hint: name another file, or delete this one"
                ) from None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
