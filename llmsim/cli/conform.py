"""``llmsim conform``: the scheduler's decisions on a scripted workload, one JSON line for each step."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import click

from llmsim.cli.console import common, console
from llmsim.errors import InputError


@click.command()
@click.argument("workload", type=click.Path())
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write the log there. [stdout]")
@common
def conform(workload: str, output: str | None) -> None:
    """Play the scripted WORKLOAD (JSON) against the scheduler alone and log every decision, for comparison with vLLM's.

    There is no clock and there are no prices: requests arrive at steps.  docs/cli.md describes both files.
    """
    from llmsim.testing.conformance import decisions

    out = console()
    script = _read(workload)
    steps = 0
    with _open(output) as log:
        try:
            for line in decisions(script):
                log.write(json.dumps(line) + "\n")
                steps += 1
        except InputError as error:
            raise InputError(str(error).replace("workload:", f"{workload}:", 1)) from None
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            if steps:
                raise  # the script has been read by then: that would be a bug
            raise InputError(f"{workload}: a value is of the wrong kind: {error}") from None
    if output is None:
        return
    if out.json:
        out.result(json.dumps({"steps": steps, "path": output}))
    else:
        out.text(f"{steps:,} steps written to {output}")


def _read(path: str) -> Mapping[str, Any]:
    try:
        script = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    if not isinstance(script, dict):
        raise InputError(f"{path}: not a mapping with engine and requests (got {type(script).__name__})")
    return script


def _open(path: str | None) -> IO[str]:
    if path is None:
        return click.open_file("-", "w")
    try:
        return Path(path).open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
