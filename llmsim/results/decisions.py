"""The file of a decision log: one JSON line for each step of an engine."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmsim.errors import InputError
from llmsim.textfile import written


@contextmanager
def decision_file(path: str | Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open ``path`` (compressed if it ends in .gz) and give what writes one line to it.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with written(Path(path)) as text:
            yield lambda line: _write(text.write, line)
    except OSError as error:
        raise InputError(f"{path}: the decisions cannot be written ({error.strerror or error})") from None


def _write(write: Callable[[str], Any], line: Mapping[str, Any]) -> None:
    write(json.dumps(line, ensure_ascii=False) + "\n")
