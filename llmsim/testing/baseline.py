"""Baselines: the metrics of a run, kept as JSON beside the test, and compared within a tolerance."""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsim.errors import InputError
from llmsim.testing.assertions import value_of

if TYPE_CHECKING:
    from llmsim.results.run import Run

FOLDER = "__llmsim__"
DEFAULT_RTOL = 0.02

Values = dict[str, float | int | None]


class Baseline:
    """The baseline of one test.

    Args:
        path: file of the test.
        name: the test within its file, such as ``TestChat::test_slo[8]``.
        command: what makes the baseline anew, for messages.
        update: write instead of compare.
        rtol: relative tolerance that replaces that of every check, or None.
    """

    def __init__(self, path: Path, name: str, command: str, *, update: bool = False, rtol: float | None = None) -> None:
        self.folder = path.parent / FOLDER / path.stem
        self._stem = file_name(name)
        self._command = command
        self._update = update
        self._rtol = rtol
        self._used: set[Path] = set()

    def check(self, run: "Run", metrics: Iterable[str], *, rtol: float = DEFAULT_RTOL, name: str | None = None) -> None:
        """Compare ``metrics`` of a run with the baseline of this test, or write them there.

        Args:
            run: what was simulated.
            metrics: names of `Run.metrics`.
            rtol: relative tolerance, where no --llmsim-rtol is given.
            name: of the check, when a test makes several.

        Raises:
            AssertionError: a metric has moved too far, or there is no baseline; the message has the command to
                make one.
            InputError: there is no such metric, none was given, or two checks of a test have the same name.
        """
        __tracebackhide__ = True
        values: Values = {metric: value_of(run, metric) for metric in metrics}
        if isinstance(metrics, str) or not values:
            raise InputError(f"llmsim_baseline: not a list of metrics (got {metrics!r})")
        file = self.folder / f"{self._stem}{'' if name is None else '.' + file_name(name)}.json"
        if file in self._used:
            raise InputError("llmsim_baseline: the test has checked a run already\nhint: give each check a name=...")
        self._used.add(file)
        if self._update:
            self._write(file, run, values)
            return
        if not file.is_file():
            raise AssertionError(f"no baseline {file}\nmake it with: {self._command}")
        kept = json.loads(file.read_text(encoding="utf-8"))
        moved = list(_moved(kept["metrics"], values, rtol if self._rtol is None else self._rtol))
        if moved:
            lines = [f"not within the baseline {file}", *moved, *_changes(kept, run)]
            raise AssertionError("\n".join([*lines, f"if this is meant, make it anew with: {self._command}"]))

    def _write(self, file: Path, run: "Run", values: Values) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {**_origin(run), "metrics": values}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def file_name(name: str) -> str:
    """Return ``name`` as the name of a file, and a different one for each name."""
    plain = re.sub(r"[^\w.-]+", "-", name.replace("::", ".")).strip("-.")
    # Only dots and brackets come out readable and unmistakable.
    clear = re.fullmatch(r"[\w.:]+(\[[\w.-]+\])?", name) is not None
    return plain if clear else f"{plain}-{zlib.crc32(name.encode()):08x}"


def _origin(run: "Run") -> dict[str, Any]:
    """Return what a baseline depends on."""
    return {
        "llmsim": run.setup.version,
        "numpy": version("numpy"),
        "preset": run.setup.engine,
        "seed": run.seed,
        "scenario_sha256": run.setup.scenario_sha256,
    }


def _changes(kept: Mapping[str, Any], run: "Run") -> list[str]:
    """Return what is no longer as it was when the baseline was made."""
    return [
        f"note: {name} was {kept.get(name)} then, it is {now} now"
        for name, now in _origin(run).items()
        if kept.get(name) != now
    ]


def _moved(kept: Mapping[str, Any], values: Values, rtol: float) -> Iterable[str]:
    """Yield a line for each metric that is not within ``rtol`` of what was kept."""
    for name, now in values.items():
        if name not in kept:
            yield f"{name}: not in the baseline; it is {now}"
            continue
        before = kept[name]
        if before is None or now is None:
            if before is not now:
                yield f"{name}: was {before}, it is {now}"
        elif abs(now - before) > rtol * abs(before):
            moved = f" ({now / before - 1:+.2%}, tolerance {rtol:g})" if before else ""
            yield f"{name}: was {before:.6g}, it is {now:.6g}{moved}"
