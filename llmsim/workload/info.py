"""What is in a trace: how many requests, how fast and how unevenly they come, how long they are, what they share."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from llmsim.errors import TraceError
from llmsim.workload.build import trace_path
from llmsim.workload.order import in_order
from llmsim.workload.readers import failures
from llmsim.workload.readers.detect import format_named
from llmsim.workload.readers.rows import ReadOptions, Row
from llmsim.workload.replay import Trace, TraceOptions
from llmsim.workload.servegen import ServeGen, scaled_to
from llmsim.workload.servegen_data import load_clients
from llmsim.workload.statistics import Gaps, PrefixReuse, TokenCounts, Windows
from llmsim.workload.window import ContextWindow

PERCENTS = (50.0, 90.0, 95.0, 99.0)
WIDTHS_S = (1.0, 10.0, 60.0)

_CHUNK = 16_384
_GENERATED = 20_000  # requests from which ServeGen's data are described
_COARSE = 0.5  # stamps are called coarse when fewer than this share of them differ


@dataclass(slots=True)
class Tokens:
    """Lengths of one side: total, mean, smallest, largest, and percentiles as `numpy.percentile` gives them."""

    total: int
    mean: float
    smallest: int
    largest: int
    percentiles: dict[float, float]


@dataclass(slots=True)
class Timing:
    """When requests come.  ``rate`` is (rows - 1) / span; ``dispersion`` the variance over the mean of counts.

    ``dispersion`` and ``peak_rate`` are keyed by the width of the window in seconds; None: too short to say.
    ``stamp_step_s`` is the shortest time between two stamps that differ.
    """

    span_s: float
    rate: float | None
    gap_cv: float | None
    longest_gap_s: float
    stamp_step_s: float
    distinct_stamps: int
    out_of_order: int
    dispersion: dict[float, float | None]
    peak_rate: dict[float, float]


@dataclass(slots=True)
class Reuse:
    """Prefix re-use at a cache without end, over leading blocks of ``block_tokens`` tokens."""

    block_tokens: int
    blocks: int
    unique_blocks: int
    hit_blocks: int
    hit_ratio: float
    cached_tokens: int
    cached_share: float


@dataclass(slots=True)
class TraceInfo:
    """What `trace_info` found; ``timing`` and ``reuse`` are None when the format has no times or no blocks."""

    path: Path
    format: str
    title: str
    rows: int
    prompt: Tokens
    output: Tokens
    timing: Timing | None
    reuse: Reuse | None
    zero_outputs: int
    zero_prompts: int
    blank_rows: int
    sessions: int
    warnings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the findings as lines of text."""
        lines = [f"{self.path.name}: {self.title}", f"  {'requests':<22}{self.rows:,}"]
        if self.sessions:
            lines.append(f"  {'sessions':<22}{self.sessions:,}")
        lines += _timing_lines(self.timing) if self.timing is not None else ["  no times: lengths only"]
        lines += [_token_line("prompt tokens", self.prompt), _token_line("output tokens", self.output)]
        if self.reuse is not None:
            reuse = self.reuse
            blocks = f"{reuse.hit_ratio:.1%} of {reuse.blocks:,} blocks of {reuse.block_tokens} tokens"
            tokens = f"{reuse.cached_share:.1%} of prompt tokens"
            lines.append(f"  {'prefix re-use':<22}{blocks}, {tokens}, at a cache without end")
        return "\n".join(lines + [f"  note: {warning}" for warning in self.warnings])


@dataclass(slots=True)
class _Gathering:
    """Everything that is summed up while the rows go by."""

    prompts: TokenCounts = field(default_factory=TokenCounts)
    outputs: TokenCounts = field(default_factory=TokenCounts)
    gaps: Gaps = field(default_factory=Gaps)
    windows: list[Windows] = field(default_factory=lambda: [Windows(width) for width in WIDTHS_S])
    reuse: PrefixReuse = field(default_factory=PrefixReuse)
    first_ns: int = 0
    zero_outputs: int = 0
    zero_prompts: int = 0
    sessions: dict[str, None] = field(default_factory=dict)

    def add_all(self, rows: Iterable[Row]) -> None:
        source = iter(rows)
        while block := list(islice(source, _CHUNK)):
            prompts = np.array([row.prompt_tokens for row in block], dtype=np.int64)
            outputs = np.array([row.output_tokens for row in block], dtype=np.int64)
            if block[0].time_ns is not None:
                if not self.prompts.rows:
                    self.first_ns = block[0].time_ns
                times = np.array([row.time_ns for row in block], dtype=np.int64) - self.first_ns
                self.gaps.add(times)
                for window in self.windows:
                    window.add(times)
            self.prompts.add(prompts)
            self.outputs.add(outputs)
            self.zero_prompts += int((prompts == 0).sum())
            self.zero_outputs += int((outputs == 0).sum())
            for row in block:
                if row.prefix is not None:
                    self.reuse.add(row.prefix, row.prompt_tokens)
                if row.session_id is not None:
                    self.sessions[row.session_id] = None


def trace_info(path: str | Path, format: str = "auto", options: ReadOptions | None = None) -> TraceInfo:
    """Read the trace at ``path`` once, row by row, and return what is in it.

    ServeGen's client data hold no requests; 20,000 that are generated from them are described.

    Raises:
        TraceError: there is no such file, its format is not known, or a row is broken.
    """
    found_path = trace_path(str(path))
    found = format_named(format, found_path, options.columns if options else None)
    trace = Trace(found_path, found, TraceOptions(read=options or ReadOptions()), seed=0)
    gathering = _Gathering()
    if found.read is None:
        gathering.add_all(_generated_rows(found_path))
        notes = [f"the numbers are those of {gathering.prompts.rows:,} requests generated with seed 0"]
    else:
        rows = trace.raw_rows()
        gathering.add_all(in_order(rows, found_path.name, trace.counts.disorder) if found.has_times else rows)
        notes = list(trace.reading.notes)
    if not gathering.prompts.rows:
        raise TraceError(f"{found_path.name}: holds no request")
    timing = _timing(gathering, trace.counts.disorder.rows) if found.has_times else None
    info = TraceInfo(
        path=found_path,
        format=found.name,
        title=found.title,
        rows=gathering.prompts.rows,
        prompt=_tokens(gathering.prompts),
        output=_tokens(gathering.outputs),
        timing=timing,
        reuse=_reuse(gathering.reuse),
        zero_outputs=gathering.zero_outputs,
        zero_prompts=gathering.zero_prompts,
        blank_rows=trace.reading.blank_rows,
        sessions=len(gathering.sessions),
        warnings=notes,
    )
    info.warnings += _odd(info, trace)
    return info


def _generated_rows(path: Path) -> Iterable[Row]:
    clients = load_clients(path)
    start_s = min(window.start_s for client in clients for window in client.rates if window.rate > 0.0)
    end_s, scale = scaled_to(clients, start_s, None, None)
    workload = ServeGen(clients, start_s, end_s, scale, 0, ContextWindow(2**62, "reject"), _GENERATED)
    for number, request in enumerate(workload.start(), start=1):
        yield Row(number, round(request.arrival_s * 1e9), request.prompt_tokens, request.output_tokens)


def _tokens(counts: TokenCounts) -> Tokens:
    percentiles = {percent: counts.percentile(percent) for percent in PERCENTS}
    return Tokens(counts.total, counts.mean, counts.smallest, counts.largest, percentiles)


def _timing(gathering: _Gathering, out_of_order: int) -> Timing:
    gaps = gathering.gaps
    span_s = gaps.total_s if gaps.last_ns is None else gaps.last_ns / 1e9
    return Timing(
        span_s=span_s,
        rate=gaps.gaps / span_s if span_s > 0.0 else None,
        gap_cv=gaps.cv,
        longest_gap_s=gaps.longest_s,
        stamp_step_s=gaps.shortest_s,
        distinct_stamps=gaps.distinct,
        out_of_order=out_of_order,
        dispersion={window.width_s: window.dispersion(span_s) for window in gathering.windows},
        peak_rate={window.width_s: window.peak_rate() for window in gathering.windows},
    )


def _reuse(reuse: PrefixReuse) -> Reuse | None:
    if not reuse.blocks:
        return None
    return Reuse(
        reuse.block_tokens,
        reuse.blocks,
        reuse.unique_blocks,
        reuse.hit_blocks,
        reuse.hit_ratio,
        reuse.cached_tokens,
        reuse.cached_tokens / max(reuse.prompt_tokens, 1),
    )


def _odd(info: TraceInfo, trace: Trace) -> list[str]:
    found = []
    if trace.reading.failed_rows:
        found.append(failures.note_of(trace.reading.failed_rows))
    if info.blank_rows:
        found.append(f"{info.blank_rows} blank rows were skipped")
    if info.timing is not None and info.timing.out_of_order:
        found.append(f"{info.timing.out_of_order} rows come before the row above them; they are sorted by time")
    if info.zero_outputs:
        what = "failures, which a replay drops" if trace.drops_zero_output else "which a replay gives 1"
        found.append(f"{info.zero_outputs} rows with 0 output tokens: {what}")
    if info.zero_prompts:
        found.append(f"{info.zero_prompts} rows with 0 prompt tokens: a replay gives them 1")
    timing = info.timing
    if timing is not None and info.rows > 20 and timing.distinct_stamps < _COARSE * info.rows and timing.span_s > 0.0:
        found.append(
            f"only {timing.distinct_stamps:,} stamps differ, by {timing.stamp_step_s:.2g} s or more: rounded stamps "
            f"replay as bursts that never happened; spread them with trace.jitter_s: {timing.stamp_step_s:.2g}"
        )
    return found


def _timing_lines(timing: Timing) -> list[str]:
    lines = [f"  {'span':<22}{timing.span_s:,.3f} s"]
    if timing.rate is None:
        return [*lines, f"  {'rate':<22}all at once"]
    peaks = ", ".join(f"{rate:.3g} in {width:g} s" for width, rate in timing.peak_rate.items())
    lines.append(f"  {'rate':<22}{timing.rate:.3f} req/s, peaks {peaks}")
    if timing.gap_cv is not None:
        lines.append(f"  {'gaps':<22}CV {timing.gap_cv:.2f}, longest {timing.longest_gap_s:.3g} s")
    known = [f"{value:.2f} at {width:g} s" for width, value in timing.dispersion.items() if value is not None]
    if known:
        lines.append(f"  {'index of dispersion':<22}{', '.join(known)} (Poisson: 1)")
    return [*lines, f"  {'distinct stamps':<22}{timing.distinct_stamps:,}"]


def _token_line(name: str, tokens: Tokens) -> str:
    percentiles = "  ".join(f"p{percent:g} {value:,.0f}" for percent, value in tokens.percentiles.items())
    return f"  {name:<22}mean {tokens.mean:,.1f}  {percentiles}  max {tokens.largest:,}  sum {tokens.total:,}"
