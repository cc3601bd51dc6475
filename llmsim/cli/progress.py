"""A progress bar on a terminal, for runs that take longer than a second; nothing when piped."""

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE_S = 1.0


class Bar:
    """What `simulate` calls from time to time.  Use as a context, so that the bar is gone at the end."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted and sys.stderr.isatty()
        self._begun = time.perf_counter()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, ended: int, expected: int | None, clock_s: float) -> None:
        """Show that ``ended`` of ``expected`` requests (None: not known) have ended after ``clock_s`` simulated s."""
        self.show(f"{ended:,} requests, {clock_s:,.0f} s simulated", ended, expected)

    def show(self, words: str, ended: int, expected: int | None) -> None:
        """Show ``words``, and that ``ended`` of ``expected`` (None: not known) are done."""
        if not self._wanted or time.perf_counter() - self._begun < PATIENCE_S:
            return
        if self._progress is None or self._task is None:
            self._open(words, expected)
        else:
            self._progress.update(self._task, completed=ended, total=expected, description=words)

    def _open(self, words: str, expected: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(words, total=expected)
        self._progress.start()
