"""What ``llmsim plot`` and ``llmsim report`` are about: the folder of a run or a sweep, or a scenario to run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsim.cli.console import console
from llmsim.cli.progress import Bar
from llmsim.errors import InputError

if TYPE_CHECKING:
    import pandas

    from llmsim.results.run import Run


def sweep_in(path: Path) -> "pandas.DataFrame | None":
    """Return the table of a sweep's folder, or of its sweep.csv; None for anything else.

    Raises:
        InputError: the file cannot be read as the table of a sweep.
    """
    file = path / "sweep.csv" if path.is_dir() else path
    if file.suffix != ".csv" or not file.is_file():
        return None
    import pandas

    try:
        # An empty reason is a text, not a missing number.
        table = pandas.read_csv(file, keep_default_na=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as a table ({error})") from None
    if "replication" not in table.columns:
        raise InputError(f"{file}: not the table of a sweep: it has no column 'replication'")
    return table.assign(reason=table["reason"].fillna(""), prices=table["prices"].fillna(""))


def run_of(source: str) -> "Run":
    """Return the run of a folder, which is simulated again from its scenario.resolved.yaml, or that of a scenario.

    What a folder keeps are requests and figures; steps are not in it.  The same scenario gives the same run, so nothing
    is lost; when figures differ, because another version wrote them, a warning says so.

    Raises:
        InputError: the folder has no such file, or the scenario is wrong.
    """
    from llmsim.schema import load, resolve
    from llmsim.simulation import simulate

    folder = Path(source)
    file: str | Path = source
    if folder.is_dir():
        file = folder / "scenario.resolved.yaml"
        if not file.is_file():
            raise InputError(f"{source}: neither a run nor a sweep: no scenario.resolved.yaml or sweep.csv in it")
    out = console()
    with Bar(wanted=not (out.quiet or out.json)) as bar:
        run = simulate(resolve(load(file)), progress=bar)
    if folder.is_dir():
        _compare(run, folder)
    return run


def _compare(run: "Run", folder: Path) -> None:
    """Warn when the run is not the one that the folder's summary tells of."""
    import json

    try:
        told: Any = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        before = told["metrics"]["completed"], told["metrics"]["duration"], told.get("stopped")
        version = told.get("llmsim_version")
    except (OSError, ValueError, KeyError, TypeError):
        return
    if before[2]:
        console().warn(f"the run in {folder}/ was stopped early ({before[2]}); this shows all of it")
    elif before[:2] != (run.metrics["completed"], run.metrics["duration"]):
        console().warn(f"not the figures of {folder}/summary.json, which llmsim {version} wrote")
