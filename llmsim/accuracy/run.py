"""All predictions of a file: set-ups that rows share are predicted once, on all cores, and kept as they come."""

import hashlib
import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llmsim.accuracy.kept import Kept
from llmsim.accuracy.machines import Machines
from llmsim.accuracy.measured import Row
from llmsim.accuracy.outcome import Outcome
from llmsim.accuracy.predict import predict
from llmsim.accuracy.score import Prediction
from llmsim.accuracy.setups import Case, Setup, case_of
from llmsim.performance.correction import NEUTRAL, StackCorrection, stack_of

Progress = Callable[[int, int], None]
# Numbers by stack that replace those of the catalogue; None: the catalogue's.
Numbers = Mapping[str, StackCorrection] | None
# How the reason of a row begins over which llmsim itself stumbled: an error to mend.
STUMBLE = "internal error"
# Set-ups of a job: enough for a machine's tables to pay, few enough for all cores to end at about the same time.
MOST_IN_A_JOB = 24


@dataclass(frozen=True, slots=True)
class Simulator:
    """How predictions are made: on how many cores, where outcomes are kept, and who is told what.

    ``n_jobs`` is the number of processes, -1 one for each core; ``kept`` a file that takes each outcome as it comes;
    ``resume`` whether to take what is in that file already, for the same set-ups, numbers, code and data; ``progress``
    is called with set-ups done and in all, ``dropped`` with the number of kept outcomes that were older.
    """

    n_jobs: int = -1
    kept: Path | None = None
    resume: bool = False
    progress: Progress | None = None
    dropped: Callable[[int], None] | None = None

    def __call__(self, rows: Sequence[Row], numbers: Sequence[Numbers]) -> list[Prediction]:
        """Return a prediction for each row with the numbers that stand beside it, in the rows' order.

        Raises:
            InputError: the file of outcomes cannot be read or written.
        """
        cases = [_case(row) for row in rows]
        names, tasks = [], {}
        for case, own in zip(cases, numbers, strict=True):
            if case.setup is None:
                names.append("")
                continue
            name = name_of(case.setup, own)
            names.append(name)
            tasks[name] = _Task(name, case.setup, stack_of(case.setup.stack, own).correction)
        outcomes = self._outcomes(tasks)
        return [
            _prediction(case, outcomes.get(name), None if own is None else tasks[name].correction if name else None)
            for case, name, own in zip(cases, names, numbers, strict=True)
        ]

    def _outcomes(self, tasks: Mapping[str, "_Task"]) -> Mapping[str, Outcome]:
        wanted = {name: task.setup for name, task in tasks.items()}
        kept = Kept(self.kept, wanted, resume=self.resume)
        if kept.dropped and self.dropped is not None:
            self.dropped(kept.dropped)
        left = [task for name, task in tasks.items() if name not in kept.outcomes]
        done = len(tasks) - len(left)
        with kept:
            for name, outcome in _run(left, self.n_jobs):
                kept.add(name, wanted[name], outcome)
                done += 1
                if self.progress is not None:
                    self.progress(done, len(tasks))
        return kept.outcomes


def predictions_of(
    rows: Sequence[Row],
    *,
    n_jobs: int = -1,
    kept: Path | None = None,
    resume: bool = False,
    overrides: Numbers = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Return a prediction for each row, in their order, all with the same numbers of stacks.

    Args:
        rows: what was measured.
        n_jobs: processes; -1: one for each core.
        kept: a file that takes each outcome as it comes, one JSON line a set-up.
        resume: whether to take what is in that file already, for the same set-ups, numbers, code and data.
        overrides: numbers by stack that replace those of the catalogue.
        progress: called with set-ups done and in all.

    Raises:
        InputError: the file of outcomes cannot be read or written.
    """
    return Simulator(n_jobs, kept, resume, progress)(rows, [overrides] * len(rows))


def name_of(setup: Setup, overrides: Numbers = None) -> str:
    """Return the name under which an outcome is kept: of the set-up, and what is told of its stack."""
    stack = stack_of(setup.stack, overrides)
    own = {name: value for name, value in asdict(stack.correction).items() if value != getattr(NEUTRAL, name)}
    habits = {field.name: getattr(stack, field.name) for field in fields(stack) if field.name not in _TOLD}
    said = setup.key + json.dumps([own, habits], sort_keys=True, default=repr)
    return hashlib.sha256(said.encode()).hexdigest()[:20]


# What a stack's entry says that changes no prediction, or stands in the set-up or the numbers already.
_TOLD = ("name", "correction", "like", "own", "source")


@dataclass(frozen=True, slots=True)
class _Task:
    """A set-up to predict with certain numbers of its stack."""

    name: str
    setup: Setup
    correction: StackCorrection


def _run(tasks: Sequence[_Task], n_jobs: int) -> Iterator[tuple[str, Outcome]]:
    """Yield the outcome of each task as it is ready."""
    jobs = list(_jobs(tasks))
    if n_jobs == 1 or len(jobs) <= 1:
        for job in jobs:
            yield from _predict_all(job)
        return
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
    for came in parallel(delayed(_predict_all)(job) for job in jobs):
        yield from came


def _jobs(tasks: Sequence[_Task]) -> Iterator[list[_Task]]:
    """Yield lists of tasks that share machines, the costly kinds first."""
    by_machine: dict[Any, list[_Task]] = {}
    for task in tasks:
        by_machine.setdefault((task.setup.machine, task.correction), []).append(task)
    costly = ("limit", "offline", "queue", "open", "closed", "batch", "forward")
    job: list[_Task] = []
    for members in sorted(by_machine.values(), key=lambda group: costly.index(group[0].setup.kind)):
        if job and (job[0].setup.kind in costly[:2] or len(job) + len(members) > MOST_IN_A_JOB):
            yield job
            job = []
        job += members
    if job:
        yield job


def _predict_all(tasks: Sequence[_Task]) -> list[tuple[str, Outcome]]:
    made: dict[tuple[str, StackCorrection], Machines] = {}
    outcomes = []
    for task in tasks:
        key = (task.setup.stack, task.correction)
        machines = made.setdefault(key, Machines({task.setup.stack: task.correction}))
        outcomes.append((task.name, _predict(task.setup, machines)))
    return outcomes


# One row that llmsim stumbles over must not lose the others: it is a row that was not run, with the error as reason.


def _case(row: Row) -> Case:
    try:
        return case_of(row)
    except Exception as error:  # any at all, see above
        return Case(row, None, _stumble(error), family=row.engine)


def _predict(setup: Setup, machines: Machines) -> Outcome:
    try:
        return predict(setup, machines)
    except Exception as error:  # any at all, see above
        return Outcome(reason=_stumble(error))


def _stumble(error: Exception) -> str:
    """Return an error that no row should cause, with the place where it came up."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{STUMBLE}: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


def _prediction(case: Case, outcome: Outcome | None, correction: StackCorrection | None) -> Prediction:
    """Return the prediction of a row; ``correction`` are the numbers of its stack when they are not the catalogue's."""
    made = Prediction(case.row, case.family, None, case.reason or "was not reached")
    if case.setup is None or outcome is None:
        return made
    made.stack, made.seconds = case.setup.stack, outcome.seconds
    made.device, made.model, made.assumptions = case.setup.device, case.setup.model, case.assumptions
    value = outcome.numbers.get(case.quantity)
    made.reason = outcome.reason or ("" if value is not None else f"the run has no {case.quantity}")
    if made.reason or value is None:
        return made
    made.value, made.layer, made.saturated = value * case.share, outcome.layer, outcome.saturated
    made.quantity, made.parts, made.numbers = case.quantity, outcome.parts, correction
    return made
