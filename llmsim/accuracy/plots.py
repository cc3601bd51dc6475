"""Scatter plots: predicted against measured, both on logarithmic scales, by class and by engine family."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsim.accuracy.score import Prediction, grouped, scored
from llmsim.accuracy.tables import family_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision tell apart, with a shape for each as well.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_NAMED = len(COLOURS) * 2


def save_plots(predictions: Sequence[Prediction], folder: Path) -> list[Path]:
    """Draw the rows of tiers A and B that were run, by class and by engine family, and return the files."""
    ran = [one for one in scored(predictions) if one.value is not None]
    if not ran:
        return []
    made = []
    for name, of in (("class", lambda one: one.row.kind), ("family", family_of)):
        path = folder / f"predicted_by_{name}.png"
        _draw(ran, of, path)
        made.append(path)
    return made


def _draw(predictions: Sequence[Prediction], of: Callable[[Prediction], str], path: Path) -> None:
    from matplotlib.figure import Figure

    groups = sorted(grouped(predictions, of).items(), key=lambda pair: -len(pair[1]))
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    panels: Any = figure.subplots(1, 2)
    for panel, kinds, unit in ((panels[0], ("latency", "TTFT"), "ms"), (panels[1], ("throughput",), "per s")):
        _panel(panel, groups, kinds, unit)
    handles, labels = [], []
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False, markerscale=2)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _panel(panel: "Axes", groups: Sequence[tuple[str, list[Prediction]]], kinds: Sequence[str], unit: str) -> None:
    low, high = float("inf"), 0.0
    rest = [one for _, members in groups[MOST_NAMED:] for one in members]
    for index, (name, members) in enumerate([*groups[:MOST_NAMED], ("others", rest)]):
        shown = [one for one in members if one.kind in kinds and one.value is not None]
        if not shown:
            continue
        measured = [one.row.value for one in shown]
        predicted = [one.value or 0.0 for one in shown]
        low, high = min([low, *measured, *predicted]), max([high, *measured, *predicted])
        panel.scatter(
            measured, predicted, s=9, alpha=0.55, linewidths=0, label=name,
            color=COLOURS[index % len(COLOURS)] if index < MOST_NAMED else "#999999",
            marker=SHAPES[(index + index // len(COLOURS)) % len(SHAPES)],
        )  # fmt: skip
    if high <= 0.0:
        panel.set_axis_off()
        return
    line = [low * 0.8, high * 1.25]
    panel.plot(line, line, color="black", linewidth=0.8)
    for factor in (0.5, 2.0):
        panel.plot(line, [factor * end for end in line], color="grey", linewidth=0.5, linestyle="--")
    panel.set(xscale="log", yscale="log", xlim=line, ylim=line, xlabel=f"measured, {unit}", ylabel=f"predicted, {unit}",
              title=", ".join(kinds))  # fmt: skip
