"""Runs of one test session, each simulated once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmsim.results.run import Run
    from llmsim.schema import Scenario


class RunCache:
    """Simulates scenarios, and remembers the run of each.

    Args:
        root: folder in which the path of a scenario is looked for when the working directory has none.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._runs: dict[str, Run] = {}

    def __call__(self, scenario: "str | Path | Mapping[str, Any] | Scenario | None" = None, /, **set: Any) -> "Run":
        """Return the run of a scenario with other values laid over it.

        Args:
            scenario: a file, a text of several lines, a dict, or a scenario; None: what ``set`` describes.
            **set: values by key, as in `Scenario.with_` and `llmsim.scenario`.
        """
        chosen = self._scenario(scenario, set)
        key = _key(chosen)
        if key not in self._runs:
            from llmsim.simulation import simulate

            self._runs[key] = simulate(chosen)
        return self._runs[key]

    def _scenario(self, given: Any, values: Mapping[str, Any]) -> "Scenario":
        from llmsim.schema import Scenario, load, scenario

        if given is None:
            return scenario(**values)
        chosen = given if isinstance(given, Scenario) else load(self._found(given))
        return chosen.with_(values) if values else chosen

    def _found(self, given: Any) -> Any:
        if isinstance(given, Mapping) or (isinstance(given, str) and "\n" in given):
            return given
        path = Path(given)
        return path if path.is_file() else self._root / path


def _key(scenario: "Scenario") -> str:
    """Return the hash of all that the run of ``scenario`` depends on and shows, the files that it names included."""
    told = scenario.to_dict()
    files = [told.get("model"), told.get("workload", {}).get("trace", {}).get("path")]
    states = [_state(Path(name)) for name in files if isinstance(name, str)]
    return json.dumps([told, states], sort_keys=True)


def _state(path: Path) -> tuple[str, int, int] | None:
    if not path.is_file():
        return None
    stat = path.stat()
    return str(path.resolve()), stat.st_mtime_ns, stat.st_size
