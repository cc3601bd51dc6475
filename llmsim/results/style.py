"""How all pictures look: colours, axes, figures that a notebook shows.

Figures are made without pyplot and its global state, so they can be made anywhere.  Colours are those of Okabe and Ito
(2008, "Color Universal Design"), which colour-blind readers can tell apart; where several curves share axes, markers
or dashes tell them apart too.
"""

from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#999999",
)
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, "#000000", GREY)  # of curves, yellow is too faint for a line
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
PALE = "#DDDDDD"


@cache
def _kind() -> "type[Figure]":
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that a notebook shows by itself, without pyplot."""

        def _repr_png_(self) -> bytes:
            return png(self, dpi=72)

    return Picture


def figure(width: float, height: float) -> "Figure":
    """Return an empty figure of so many inches."""
    return _kind()(figsize=(width, height), layout="constrained")


def png(picture: "Figure", *, dpi: int = 150) -> bytes:
    """Return a figure as PNG: without the version of matplotlib, so the same data give the same bytes."""
    stream = BytesIO()
    picture.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def svg(picture: "Figure") -> str:
    """Return a figure as SVG whose letters are letters; the same data give the same text."""
    from matplotlib import rc_context

    stream = BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmsim"}):
        picture.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue().decode()


def write(picture: "Figure", path: Path) -> Path:
    """Write a figure as its file's ending says, .svg or .png."""
    if path.suffix == ".svg":
        path.write_text(svg(picture), encoding="utf-8", newline="")
    else:
        path.write_bytes(png(picture))
    return path


def dress(axes: "Axes") -> None:
    """Give the axes a light grid behind the data, and no box."""
    axes.grid(color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def log_scale(axis: "Axis", set_scale: "Callable[[str], None]", least: float, greatest: float) -> None:
    """Make an axis logarithmic, with plain numbers: the fewer to a decade, the more decades there are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = np.log10(greatest / least)
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0) if decades < 4 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """Return ``value`` with three significant digits, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
