"""Outcomes kept in a file as they come, one JSON line a set-up, so that a validation goes on where it was stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from llmsim.accuracy.digest import code_digest, data_digest
from llmsim.accuracy.outcome import Outcome
from llmsim.accuracy.setups import Setup
from llmsim.errors import InputError


class Kept:
    """The outcomes of a file.  Use as a context: it is open to be written in it.

    Outcomes that other code, or other data of the model or device, made are not taken, and leave the file.

    Args:
        path: the file; None: nothing is kept.
        wanted: set-ups by the names under which their outcomes are kept.
        resume: whether to take what is in the file already.

    Attributes:
        outcomes: those found, by name.
        dropped: how many were there that older code or data had made.

    Raises:
        InputError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None, wanted: Mapping[str, Setup], *, resume: bool) -> None:
        self._path, self._resume, self._wanted = path, resume, wanted
        self._file: Any = None
        self.outcomes: dict[str, Outcome] = {}
        self.dropped = 0
        if path is not None and resume and path.exists():
            self._read(path)

    def __enter__(self) -> "Kept":
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a" if self._resume else "w", encoding="utf-8")
            except OSError as error:
                raise InputError(f"{self._path}: cannot be written ({error.strerror or error})") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, name: str, setup: Setup, outcome: Outcome) -> None:
        """Keep the outcome of a set-up."""
        self.outcomes[name] = outcome
        if self._file is not None:
            made_by = {"code": code_digest(), "data": data_digest(setup.model, setup.device)}
            self._file.write(json.dumps({"name": name, **made_by, "outcome": outcome.to_dict()}) + "\n")
            self._file.flush()

    def _read(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
            # A line that was cut off as the process died is left out.
            whole = text[: text.rfind("\n") + 1]
            lines = []
            for line in whole.splitlines(keepends=True):
                told = json.loads(line)
                if self._is_stale(told):
                    self.dropped += 1
                    continue
                self.outcomes[told["name"]] = Outcome.from_dict(told["outcome"])
                lines.append(line)
            if self.dropped or whole != text:
                path.write_text("".join(lines), encoding="utf-8")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: cannot be read as outcomes of a validation ({error})\nhint: delete it, or leave --resume out"
            ) from None

    def _is_stale(self, told: Mapping[str, Any]) -> bool:
        if told.get("code") != code_digest():
            return True
        setup = self._wanted.get(told["name"])
        return setup is not None and told.get("data") != data_digest(setup.model, setup.device)
