"""Parameter files of ``vllm bench sweep``: ``--serve-params`` and ``--bench-params``.

A file holds a list of points, ``[{"max_num_seqs": 64}, {"max_num_seqs": 128}]``, or a mapping of names to points.
The keys of a point are flags of the command, with dashes or underscores, with or without ``--`` in front; a part of a
JSON flag has a dot (``compilation_config.level``).  A value true gives the switch, false its ``--no-`` form; anything
else is the flag's value.  A name, or the key ``_benchmark_name``, labels a point and sets nothing.  A sweep goes over
all pairs of a serve point and a bench point.

From memory of vLLM 0.33, `vllm/benchmarks/sweep/param_sweep.py` (ParameterSweep, ParameterSweepItem) and `serve.py`;
not checked against its source here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmsim.errors import InputError

_LABEL = "_benchmark_name"


def read_points(path: str | Path) -> list[dict[str, Any]]:
    """Return the points of a file, in its order, without their labels.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    points = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(points, list) or not points or not all(isinstance(point, dict) for point in points):
        raise InputError(
            f'{path}: not a list of points\nhint: [{{"max_num_seqs": 64}}, {{"max_num_seqs": 128}}], or a name for each'
        )
    return [{key: value for key, value in point.items() if key != _LABEL} for point in points]


def words_of(point: Mapping[str, Any]) -> list[str]:
    """Return a point as the words of a command line."""
    words = []
    for key, value in point.items():
        # What follows a dot is a key of JSON, whose underscores stay.
        head, dot, tail = key.removeprefix("--").partition(".")
        flag = f"--{head.replace('_', '-')}{dot}{tail}"
        if isinstance(value, bool) and dot:
            words += [flag, json.dumps(value)]
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{flag.removeprefix('--')}")
        else:
            words += [flag, json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return words


def options_of(path: str | Path, read: Callable[[Sequence[str]], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what each point of a file says, by our own options.

    Args:
        path: the file.
        read: the parser of the command that the points are flags of.

    Raises:
        InputError: as `read_points`.
        click.UsageError: a flag is not known.
    """
    return [read(words_of(point)) for point in read_points(path)]
