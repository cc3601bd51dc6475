"""The lives of the worst requests: when each was queued, computed its prompt, decoded, or was out of the batch."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmsim.results.outcome import Outcome
from llmsim.results.records import Record
from llmsim.results.style import BLUE, ORANGE, PURPLE, VERMILION, dress, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 12  # requests of each panel
COLOURS = {"queued": VERMILION, "prefill": ORANGE, "out of the batch": PURPLE, "decode": BLUE}

Span = tuple[str, float, float]  # phase, begin and end in seconds


def pauses(outcome: Outcome, record: Record) -> list[tuple[float, float]]:
    """Return from when until when, in seconds, a request was out of the batch because it was preempted."""
    rows = outcome.pieces.get(record.id, ())
    if len(rows) < 2 or record.replica is None:
        return []
    columns = outcome.steps[record.replica].columns()
    starts, ends = columns["start_s"], columns["end_s"]
    spans = [(float(ends[rows[index][1]]), float(starts[rows[index + 1][0]])) for index in range(len(rows) - 1)]
    return [(out_s, max(out_s, back_s)) for out_s, back_s in spans]


def spans(outcome: Outcome, record: Record) -> list[Span]:
    """Return the phases of a finished request, in the order of time and without gaps."""
    assert record.finished_s is not None
    admitted = record.finished_s if record.admitted_s is None else record.admitted_s
    first = record.finished_s if record.first_token_s is None else record.first_token_s
    out = pauses(outcome, record)
    told: list[Span] = [("queued", record.arrival_s, admitted)]
    for phase, begin, end in (("prefill", admitted, first), ("decode", first, record.finished_s)):
        at = begin
        for out_s, back_s in out:
            if begin <= out_s < end:
                told += [(phase, at, out_s), ("out of the batch", out_s, min(back_s, end))]
                at = min(back_s, end)
        told.append((phase, at, end))
    return [span for span in told if span[2] > span[1]]


def worst(outcome: Outcome, until: Callable[[Record], float | None], count: int = SHOWN) -> list[Record]:
    """Return the measured requests that finished with the longest time from arrival to ``until``, longest first."""
    found = [(until(one), one) for one in outcome.measured_records() if one.status == "finished"]
    lasted = [(moment - one.arrival_s, one) for moment, one in found if moment is not None]
    return [one for _, one in sorted(lasted, key=lambda pair: -pair[0])[:count]]


def life_lines(outcome: Outcome) -> "Figure | None":
    """Return the lives of the requests with the slowest first tokens, and of those that took longest."""
    by_first = worst(outcome, lambda record: record.first_token_s)
    by_end = worst(outcome, lambda record: record.finished_s)
    if not by_first:
        return None
    picture = figure(11, 1.9 + 0.28 * len(by_first))
    left, right = picture.subplots(1, 2)
    first = [_until(spans(outcome, one), one.first_token_s) for one in by_first]
    whole = [spans(outcome, one) for one in by_end]
    _lines(left, by_first, first)
    _lines(right, by_end, whole)
    left.set_title("Slowest first tokens, until these", fontsize=11, loc="left")
    right.set_title("Slowest to the end", fontsize=11, loc="left")
    from matplotlib.patches import Patch

    seen = {phase for told in (*first, *whole) for phase, _, _ in told}
    handles = [Patch(color=colour, label=phase) for phase, colour in COLOURS.items() if phase in seen]
    picture.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    setup = outcome.setup
    said = ("Life lines of the worst requests", setup.model, setup.devices, setup.plan)
    picture.suptitle("  ·  ".join(part for part in said if part))
    return picture


def _until(told: Sequence[Span], moment_s: float | None) -> list[Span]:
    """Return the spans up to a moment."""
    assert moment_s is not None
    return [(phase, begin, min(end, moment_s)) for phase, begin, end in told if begin < moment_s]


def _lines(axes: "Axes", records: Sequence[Record], told: Sequence[Sequence[Span]]) -> None:
    longest = max(
        (end - one.arrival_s for one, each in zip(records, told, strict=True) for _, _, end in each), default=0
    )
    unit, scale = ("s", 1.0) if longest >= 2 else ("ms", 1e3)
    for place, (one, each) in enumerate(zip(records, told, strict=True)):
        for phase, begin, end in each:
            left = (begin - one.arrival_s) * scale
            axes.barh(place, (end - begin) * scale, left=left, color=COLOURS[phase], height=0.72)
    labels = [f"{_name(one)}:  {one.prompt_tokens:,} in, {one.output_tokens:,} out" for one in records]
    axes.set_yticks(range(len(records)), labels, fontsize=8)
    axes.set_ylim(max(len(records), 4) - 0.4, -0.6)
    axes.set_xlabel(f"time since arrival ({unit})")
    axes.set_xlim(0, None)
    dress(axes)
    axes.grid(axis="y", visible=False)


def _name(record: Record) -> str:
    return record.id if len(record.id) <= 14 else f"{record.id[:13]}…"
