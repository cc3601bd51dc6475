"""What a calibration found, in plain words."""

from collections.abc import Mapping, Sequence

from llmsim.performance.calibration import CLIENT, Calibration, Errors, Range

# Number -> what it is, its unit, and what would tell it.
WORDS: dict[str, tuple[str, str, str]] = {
    "memory": ("time bound by memory bandwidth", "x", "decode with larger batches or longer contexts"),
    "compute": ("time bound by compute", "x", "longer prompts at a low rate"),
    "communication": ("time in which devices talk", "x", "another tensor_parallel_size, or all_reduce kernels"),
    "launch": ("the fixed part of kernels", "x", "decode with very small and with large batches"),
    "step_us": ("host time of a step", "us", "decode with few sequences and short contexts"),
    "sequence_us": ("host time of a sequence in a step", "us", "decode with many short sequences"),
    CLIENT: ("time outside of the server, there and back", "ms", "short and long prompts at a low rate"),
}


def note_kept(name: str, why: str, partners: Sequence[str]) -> str:
    """Return why a number was kept: ``blind``, ``mixed`` (with ``partners``), ``wide`` or ``needless``."""
    what, _, remedy = WORDS[name]
    if why == "blind":
        return f"the data hardly depend on it; {remedy} would tell"
    if why == "wide":
        return f"the data leave it open within a factor of two; {remedy} would tell"
    if why == "needless":
        return "nothing in the data asks for another value"
    others = " and ".join(f"{one} ({WORDS[one][0]})" for one in partners) or "the others"
    return (
        f"the data cannot tell {what} from {others}: they change every measured number alike, so {name} is kept and "
        f"{' and '.join(partners) or 'the others'} may stand for both; {remedy} would tell"
    )


def note_host(step_us: float, moved: Sequence[str]) -> str:
    """Return that a host which bounds every step would do as well as the numbers that moved."""
    return (
        f"the data cannot tell it from {' and '.join(moved)}: a host that takes {step_us:,.0f} us for every step would "
        f"explain them about as well; {WORDS['step_us'][2]} would tell"
    )


def notes_about(
    kept: Mapping[str, str],
    ranges: Mapping[str, Range],
    errors: Mapping[str, Errors],
    *,
    alone: bool,
    widths: bool,
) -> list[str]:
    """Return what whoever uses a calibration should know."""
    notes = []
    sequences = ranges.get("sequences")
    if sequences is not None and sequences.high <= 1.0 and kept:
        notes.append("only one sequence was ever under way: batches were not measured, nothing is known of their costs")
    if not widths:
        notes.append("no intervals: there are no more measured numbers than fitted ones")
    if all(one.held_out is None for one in errors.values()):
        notes.append("no held-out error: one point alone leaves nothing to hold out; measure at other loads")
    elif alone and any(name in errors for name in ("ttft", "tpot")):
        notes.append("one run only: halves of it were held out, which says nothing of how runs or loads differ")
    worse = [name for name, one in errors.items() if one.held_out is not None and one.held_out > one.before + 0.5]
    if worse:
        notes.append(f"on what was held out, {', '.join(worse)} got worse than without a calibration: do not trust it")
    return notes


def report(calibration: Calibration) -> str:
    """Return the text that `llmsim calibrate` prints."""
    regime = calibration.regime
    lines = [
        f"{regime.model} on {regime.device}, {regime.plan}, {regime.engine}, {regime.weight_format}",
        f"measured: {', '.join(calibration.measured)}",
        "",
        f"{'number':<14} {'value':>10} {'95 % interval':>20}  what",
    ]
    for name, one in calibration.numbers.items():
        what, unit, _ = WORDS[name]
        span = "-" if one.low is None or one.high is None else f"{one.low:.4g} to {one.high:.4g}"
        shown = f"{one.value:.4g} {unit}"
        lines.append(f"{name:<14} {shown:>10} {'kept' if one.kept else span:>20}  {what}")
    lines += ["", f"{'median error':<14} {'before':>10} {'in sample':>12} {'held out':>10}"]
    for name, error in calibration.errors.items():
        outside = "-" if error.held_out is None else f"{error.held_out:.1f} %"
        lines.append(f"{name:<14} {error.before:>8.1f} % {error.in_sample:>10.1f} % {outside:>10}")
    kept = [f"{name}: {one.kept}" for name, one in calibration.numbers.items() if one.kept]
    ranges = [f"{name} {one.low:.4g} to {one.high:.4g}" for name, one in regime.ranges.items()]
    return "\n".join([*lines, "", *kept, *calibration.notes, f"valid for {', '.join(ranges) or 'what was measured'}"])
