"""All predictions of a file: set-ups that rows share are predicted once, on all cores, and kept as they come."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmsim.accuracy.machines import Machines
from llmsim.accuracy.measured import Row
from llmsim.accuracy.outcome import Outcome
from llmsim.accuracy.parts import COLUMNS
from llmsim.accuracy.predict import predict
from llmsim.accuracy.score import Prediction
from llmsim.accuracy.setups import Case, Setup, case_of
from llmsim.errors import InputError
from llmsim.performance.correction import NEUTRAL, StackCorrection, stack_of

Progress = Callable[[int, int], None]
# Set-ups of a job: enough for a machine's tables to pay, few enough for all cores to end at about the same time.
MOST_IN_A_JOB = 24


def predictions_of(
    rows: Sequence[Row],
    *,
    n_jobs: int = -1,
    kept: Path | None = None,
    resume: bool = False,
    overrides: Mapping[str, StackCorrection] | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Return a prediction for each row, in their order.

    Args:
        rows: what was measured.
        n_jobs: processes; -1: one for each core.
        kept: a file that takes each outcome as it comes, one JSON line a set-up.
        resume: whether to take what is in that file already, for the same set-ups and numbers.
        overrides: numbers by stack that replace those of the catalogue.
        progress: called with set-ups done and in all.

    Raises:
        InputError: the file of outcomes cannot be read or written.
    """
    cases = [case_of(row) for row in rows]
    setups = {case.setup.key: case.setup for case in cases if case.setup is not None}
    names = {key: name_of(setup, overrides) for key, setup in setups.items()}
    outcomes = _read(kept) if kept is not None and resume else {}
    left = [setup for key, setup in setups.items() if names[key] not in outcomes]
    done = len(setups) - len(left)
    with _writer(kept, resume) as write:
        for key, outcome in _run(left, overrides, n_jobs):
            outcomes[names[key]] = outcome
            write(names[key], setups[key], outcome)
            done += 1
            if progress is not None:
                progress(done, len(setups))
    return [_prediction(case, outcomes.get(names[case.setup.key]) if case.setup else None) for case in cases]


def name_of(setup: Setup, overrides: Mapping[str, StackCorrection] | None = None) -> str:
    """Return the name under which an outcome is kept: of the set-up and the numbers of its stack."""
    numbers = stack_of(setup.stack, overrides).correction
    own = {name: value for name, value in asdict(numbers).items() if value != getattr(NEUTRAL, name)}
    said = setup.key + json.dumps(own, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:20]


def _run(
    setups: Sequence[Setup], overrides: Mapping[str, StackCorrection] | None, n_jobs: int
) -> Iterator[tuple[str, Outcome]]:
    """Yield the outcome of each set-up as it is ready."""
    jobs = list(_jobs(setups))
    if n_jobs == 1 or len(jobs) == 1:
        for job in jobs:
            yield from _predict_all(job, overrides)
        return
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
    for came in parallel(delayed(_predict_all)(job, overrides) for job in jobs):
        yield from came


def _jobs(setups: Sequence[Setup]) -> Iterator[list[Setup]]:
    """Yield lists of set-ups that share machines, the costly kinds first."""
    by_machine: dict[Any, list[Setup]] = {}
    for setup in setups:
        by_machine.setdefault(setup.machine, []).append(setup)
    costly = ("limit", "queue", "open", "closed", "batch", "forward")
    job: list[Setup] = []
    for members in sorted(by_machine.values(), key=lambda group: costly.index(group[0].kind)):
        if job and (job[0].kind in costly[:2] or len(job) + len(members) > MOST_IN_A_JOB):
            yield job
            job = []
        job += members
    if job:
        yield job


def _predict_all(setups: Sequence[Setup], overrides: Mapping[str, StackCorrection] | None) -> list[tuple[str, Outcome]]:
    machines = Machines(overrides)
    return [(setup.key, predict(setup, machines)) for setup in setups]


def _prediction(case: Case, outcome: Outcome | None) -> Prediction:
    """Return the prediction of a row."""
    if case.setup is None or outcome is None:
        return Prediction(case.row, case.family, None, case.reason or "was not reached")
    if outcome.reason:
        return Prediction(case.row, case.family, None, outcome.reason, seconds=outcome.seconds)
    value = outcome.numbers.get(case.quantity)
    if value is None:
        return Prediction(case.row, case.family, None, f"the run has no {case.quantity}", seconds=outcome.seconds)
    return Prediction(
        case.row, case.family, value * case.share, "", outcome.layer, outcome.seconds, outcome.saturated,
        case.setup.stack, case.quantity, outcome.parts, case.assumptions,
    )  # fmt: skip


# ---------------------------------------------------------------------- kept outcomes


class _writer:  # noqa: N801  # a context, used as a function
    """Appends outcomes to a file, each as a line; does nothing without one."""

    def __init__(self, path: Path | None, resume: bool) -> None:
        self._path, self._resume = path, resume
        self._file: Any = None

    def __enter__(self) -> Callable[[str, Setup, Outcome], None]:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a" if self._resume else "w", encoding="utf-8")
            except OSError as error:
                raise InputError(f"{self._path}: cannot be written ({error.strerror or error})") from None
        return self._write

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, name: str, setup: Setup, outcome: Outcome) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"name": name, "outcome": outcome.to_dict()}) + "\n")
            self._file.flush()


def _read(path: Path) -> dict[str, Outcome]:
    """Return the outcomes in a file; a line that was cut off as the process died is left out."""
    if not path.exists():
        return {}
    found = {}
    try:
        text = path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
            path.write_text(text, encoding="utf-8")
        for line in text.splitlines():
            told = json.loads(line)
            outcome = Outcome.from_dict(told["outcome"])
            # Steps that an older version took apart otherwise are predicted anew.
            if outcome.parts is None or all(len(one) == len(COLUMNS) for one in outcome.parts["classes"]):
                found[told["name"]] = outcome
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read as outcomes of a validation ({error})\nhint: delete it, or leave --resume out"
        ) from None
    return found
