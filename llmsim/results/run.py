"""`Run`: what `simulate` returns; figures, tables, texts and files of one simulation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmsim.errors import InputError
from llmsim.results import formats, tables, text
from llmsim.results.metrics import DEFAULT_PERCENTILES
from llmsim.results.outcome import Outcome

if TYPE_CHECKING:
    import pandas


@dataclass(slots=True, kw_only=True, repr=False)
class Run(Outcome):
    """What came of a simulation.

    >>> run = llmsim.simulate(scenario)                 # doctest: +SKIP
    >>> run.metrics["p99_ttft_ms"], print(run.summary())  # doctest: +SKIP

    Nothing is computed before it is asked for, and nothing is written but by `save`.
    """

    def __repr__(self) -> str:
        counts = self.counts
        return f"Run({counts['finished']} of {counts['requests']} requests finished, {counts['steps']} steps)"

    def _repr_html_(self) -> str:
        return text.html(self)

    @property
    def requests(self) -> "pandas.DataFrame":
        """One row for each request, with the columns of requests.csv."""
        return tables.requests_frame(self.records, self.goodput, first_tokens=self.first_tokens is not None)

    @property
    def steps_table(self) -> "pandas.DataFrame":
        """One row for each batch of each replica, with the columns of the step log."""
        return tables.steps_frame(self.steps)

    def summary(
        self,
        percentiles: Sequence[float] = DEFAULT_PERCENTILES,
        metrics: Sequence[str] | None = None,
    ) -> str:
        """Return the result block of `vllm bench serve`, with the ``percentiles`` (0..100) of the ``metrics``.

        Without ``metrics`` these are ttft, tpot, itl and e2el, and ttfn where the scenario has ``first_tokens``.

        Raises:
            ValueError: there is no such metric or percentile.
        """
        if metrics is None:
            metrics = [name for name in text.titles(self) if name != "queue_time"]
        return text.block(self, percentiles, metrics)

    def where_the_time_went(self) -> str:
        """Return a table of time and clock cycles by resource and operator."""
        return text.where_the_time_went(self)

    def header_lines(self) -> list[str]:
        """Return the lines that head the result on the terminal: versions, cluster, model, workload."""
        return self.setup.lines(seed=self.seed)

    def closing_lines(self, *, wall_s: float | None = None, folder: str | None = None) -> list[str]:
        """Return the lines that close the result on the terminal.

        Args:
            wall_s: seconds that the simulation took on the caller's clock.
            folder: where the caller wrote the files.
        """
        return text.closing(self, wall_s=wall_s, folder=folder)

    def to_json(self, *, created: str | None = None) -> str:
        """Return the content of summary.json."""
        return formats.dump(formats.summary(self, created=created))

    def save_timeline(self, path: str | Path, *, seconds: float = 60.0) -> Path:
        """Write a timeline to open in https://ui.perfetto.dev, and return its path.

        It shows every engine step of every replica, leaps written out, the phases of every request, the queue and
        the cache.  A file with very many events ends earlier, and says so.

        Args:
            path: the file, such as ``timeline.json.gz``; compressed if it ends in .gz.
            seconds: of simulated time that it shows; inf: all.

        Raises:
            InputError: ``seconds`` is not above 0, or the file cannot be written.
        """
        from llmsim.results.perfetto import save_timeline

        return save_timeline(self, path, seconds=seconds)

    def save_report(self, path: str | Path) -> Path:
        """Write one HTML page that tells all about the run, with its plots in it, and return its path.

        Raises:
            InputError: the file cannot be written.
        """
        from llmsim.results.report import save_report

        return save_report(self, path)

    def save(
        self,
        folder: str | Path,
        *,
        formats: Iterable[str] = ("llmsim",),
        requests: bool = True,
        steps: bool = False,
        plots: bool = False,
        timeline_seconds: float | None = None,
        report: bool = False,
        created: str | None = None,
    ) -> list[Path]:
        """Write the run to ``folder``, which is made when it is not there, and return the files written.

        Args:
            folder: where to.
            formats: names of `llmsim.results.formats.FORMATS`: "llmsim" (summary.json), "vllm-bench".
            requests: whether to write requests.csv.
            steps: whether to write steps.csv.
            plots: whether to draw plots, as PNG files in ``plots/``.
            timeline_seconds: how much of the simulated time timeline.json.gz shows (inf: all); None: no such file.
            report: whether to write report.html.
            created: the moment of writing in ISO form, for the summary.

        Raises:
            InputError: there is no such format, or the folder cannot be written.
        """
        contents = dict(_contents(self, formats, created))
        target = Path(folder)
        written: list[Path] = []
        try:
            target.mkdir(parents=True, exist_ok=True)
            if self.resolved_yaml is not None:
                contents["scenario.resolved.yaml"] = [self.resolved_yaml]
            if requests:
                contents["requests.csv"] = tables.requests_csv(
                    self.records, self.goodput, first_tokens=self.first_tokens is not None
                )
            if steps:
                contents["steps.csv"] = tables.steps_csv(self.steps)
            for name, lines in contents.items():
                # The same bytes on every system: UTF-8, and no translation of line ends.
                with open(target / name, "w", encoding="utf-8", newline="") as stream:
                    stream.writelines(lines)
                written.append(target / name)
            if plots:
                from llmsim.results.plots import save_plots

                written += save_plots(self, target / "plots")
            if timeline_seconds is not None:
                written.append(self.save_timeline(target / "timeline.json.gz", seconds=timeline_seconds))
            if report:
                written.append(self.save_report(target / "report.html"))
        except OSError as error:
            raise InputError(f"{target}: cannot write the results ({error.strerror or error})") from error
        return written


def _contents(run: Run, names: Iterable[str], created: str | None) -> Iterable[tuple[str, Iterable[str]]]:
    """Yield the name and the text of the file of each format."""
    for name in names:
        if name not in formats.FORMATS:
            known = ", ".join(formats.FORMATS)
            raise InputError(f"save: unknown format (got {name!r})\nhint: one of {known}")
        file, content = formats.FORMATS[name]
        yield file, [formats.dump(content(run, created))]
