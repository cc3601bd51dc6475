"""Searches of several replications, driven side by side, each on its own random streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llmsim.checkpoints import Checkpoint
from llmsim.errors import InfeasibleError
from llmsim.planning.answer import Capacity
from llmsim.planning.bisection import Bisection
from llmsim.planning.probes import Probe, run_probe
from llmsim.side_by_side import side_by_side

Progress = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Runs probes of one scenario, side by side, with the same seeds at every point.

    Those that ``keep`` has are not run again.
    """

    told: Mapping[str, Any]
    seeds: tuple[int, ...]
    attain: float
    steady: bool = False
    n_jobs: int = 1
    backend: str | None = None
    time_limit_s: float | None = None
    progress: Progress | None = None
    keep: Checkpoint | None = None
    probes: list[Probe] = field(default_factory=list)

    def __call__(self, asked: Sequence[tuple[int, Mapping[str, Any]]]) -> list[Probe]:
        """Run each (replication, point) and return what came of them, in their order."""
        known = [self._known(number, point) for number, point in asked]
        left = iter(self._run([one for one, probe in zip(asked, known, strict=True) if probe is None]))
        came = [next(left) if probe is None else probe for probe in known]
        self.probes.extend(came)
        if self.progress is not None and asked:
            self.progress(len(self.probes), ", ".join(f"{key} {_short(value)}" for key, value in asked[0][1].items()))
        return came

    def _run(self, asked: Sequence[tuple[int, Mapping[str, Any]]]) -> Iterator[Probe]:
        """Yield what comes of each (replication, point), and keep it."""
        jobs = [(self.told, dict(point), number, self.seeds[number], self.attain, self.time_limit_s, self.steady)
                for number, point in asked]  # fmt: skip
        came: Iterator[Probe]
        if not jobs:
            return
        if self.n_jobs == 1 and self.backend is None:
            came = (run_probe(*job) for job in jobs)
        else:
            came = side_by_side(run_probe, jobs, n_jobs=self.n_jobs, backend=self.backend, what="capacity")
        for probe in came:
            if self.keep is not None:
                self.keep.add(probe.point, probe.seed, asdict(probe))
            yield probe

    def _known(self, number: int, point: Mapping[str, Any]) -> Probe | None:
        """Return the probe that was run before, in an earlier search too; None: it was not."""
        told = None if self.keep is None else self.keep.find(point, self.seeds[number])
        if told is None:
            return None
        return Probe(**{**told, "replication": number, "missed": tuple(told["missed"]), "notes": tuple(told["notes"])})


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def drive(
    searches: Sequence[Bisection],
    runner: Runner,
    point: Callable[[float], Mapping[str, Any]],
    holds: Callable[[Probe], bool],
) -> None:
    """Let the search of each replication go on, all side by side, until the last one is over.

    Raises:
        InfeasibleError: none of the first probes can run, so what is asked about cannot run at all.
    """
    first = True
    while True:
        asked = [(number, value) for number, search in enumerate(searches) if (value := search.ask()) is not None]
        if not asked:
            return
        came = runner([(number, point(value)) for number, value in asked])
        if first and all(probe.status == "infeasible" for probe in came):
            raise InfeasibleError(came[0].reason)
        first = False
        for (number, value), probe in zip(asked, came, strict=True):
            searches[number].tell(value, holds(probe))


def fewest(
    runner: Runner, fixed: Mapping[str, Any], *, most: int, least: int = 1, notes: Sequence[str] = ()
) -> Capacity:
    """Return the fewest replicas that meet the objectives in every replication, with ``fixed`` laid over the rest."""
    begun = len(runner.probes)
    # Too few is what holds for small numbers, so the answer is the first one at which that fails.
    searches = [Bisection(least, low=least, high=max(most, least), tolerance=0.0, whole=True) for _ in runner.seeds]
    drive(
        searches,
        runner,
        lambda value: {**fixed, "deployment.replicas": int(value)},
        lambda probe: not probe.met,
    )
    probes = runner.probes[begun:]
    each = tuple(search.fails for search in searches)
    enough = [value for value in each if value is not None]
    found = len(enough) == len(each)
    before = {number: search.holds for number, search in enumerate(searches)}
    beyond = [probe for probe in probes if before[probe.replication] == float(probe.point["deployment.replicas"])]
    return Capacity(
        find="replicas", key="deployment.replicas", unit="replicas", each=each,
        answer=max(enough) if found else None, low=min(enough) if found else None, high=max(enough) if found else None,
        outcome="never" if not found else "always" if max(enough) == least else "found",
        binding=breaks_first(beyond), waits=mean_waits(beyond), probes=tuple(probes),
        notes=(*notes, *about(probes)),
    )  # fmt: skip


def breaks_first(probes: Sequence[Probe]) -> str | None:
    """Return the objective that most of ``probes`` missed worst."""
    names = [probe.missed[0] for probe in probes if probe.missed]
    return max(dict.fromkeys(names), key=names.count) if names else None


def mean_waits(probes: Sequence[Probe]) -> dict[str, float]:
    """Return the means of what requests waited for, over those probes in which any did."""
    waited = [probe.waits for probe in probes if probe.waits]
    return {name: sum(wait[name] for wait in waited) / len(waited) for name in waited[0]} if waited else {}


def about(probes: Sequence[Probe]) -> list[str]:
    """Return what the reader of an answer must know of its runs, each thing once."""
    told = [f"{probe.point}: {probe.status}: {probe.reason}, counted as missed" for probe in probes if probe.reason]
    met = [probe for probe in probes if probe.met]
    prices = [f"prices: {probe.prices}" for probe in met if probe.prices]
    return list(dict.fromkeys([*told, *(note for probe in met for note in probe.notes), *prices]))
