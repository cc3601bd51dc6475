"""A page of HTML that needs nothing else: no network, no script, pictures and styles in it."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import floor, isfinite, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsim.errors import InputError
from llmsim.results.estimates import Estimate
from llmsim.results.style import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff; margin: 0; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 28px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 36px 0 10px; padding-top: 12px; border-top: 1px solid #ddd; }
p.lead { color: #555; margin: 0 0 4px; }
ul.tiles { display: flex; flex-wrap: wrap; gap: 12px; padding: 0; margin: 20px 0 0; list-style: none; }
ul.tiles li { flex: 1 1 118px; border: 1px solid #ddd; border-radius: 6px; padding: 8px 12px; }
ul.tiles b { display: block; font-size: 19px; white-space: nowrap; font-variant-numeric: tabular-nums; }
ul.tiles span { color: #555; font-size: 13px; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th, td { padding: 4px 9px; border-bottom: 1px solid #e4e4e4; text-align: right; white-space: nowrap; }
th { color: #555; font-weight: 600; }
td.words, th.words { text-align: left; white-space: normal; }
span.range { display: block; color: #555; font-size: 12px; }
.good { color: #006b4e; font-weight: 600; }
.bad { color: #a84300; font-weight: 600; }
li.warning { margin: 4px 0; }
figure { margin: 18px 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 14px; }
pre { background: #f6f6f6; border-radius: 6px; padding: 12px 14px; overflow-x: auto; font-size: 12.5px; }
summary { cursor: pointer; color: #0072b2; }
"""


def page(title: str, lead: Sequence[str], sections: Iterable[str]) -> str:
    """Return a whole page; ``sections`` are HTML."""
    lines = "\n".join(f'<p class="lead">{escape(line)}</p>' for line in lead)
    # The browser is told to fetch nothing: what is not in the file does not show.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n{lines}\n"
        + "\n".join(part for part in sections if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *content: str) -> str:
    """Return a section with a heading; nothing when there is no content."""
    inside = "\n".join(part for part in content if part)
    return f"<h2>{escape(title)}</h2>\n{inside}" if inside else ""


def tiles(facts: Mapping[str, str]) -> str:
    """Return figures to be seen first, each with its name below it."""
    return (
        '<ul class="tiles">'
        + "".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for name, value in facts.items())
        + "</ul>"
    )


def table(rows: Sequence[Mapping[str, Any]], *, words: Sequence[str] = ()) -> str:
    """Return ``rows`` as a table, numbers rounded to four digits; the columns ``words`` are set as text."""
    if not rows:
        return ""
    names = list(rows[0])
    style = {name: ' class="words"' if name in words else "" for name in names}
    head = "".join(f"<th{style[name]}>{escape(name)}</th>" for name in names)
    body = "\n".join("<tr>" + "".join(_cell(row[name], style[name]) for name in names) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _cell(value: Any, style: str) -> str:
    if isinstance(value, bool):
        return f'<td class="{"good" if value else "bad"}">{"met" if value else "missed"}</td>'
    if isinstance(value, Estimate):
        return f"<td{style}>{with_range(value)}</td>"
    return f"<td{style}>{escape(number(value))}</td>"


def with_range(estimate: Estimate) -> str:
    """Return a figure with its interval below it, or that it has none, as HTML."""
    there = estimate.low is not None and estimate.high is not None
    ends = f"{number(estimate.low)} to {number(estimate.high)}" if there else "no interval"
    why = "" if there else f' title="{escape(estimate.reason or "")}"'
    return f'{escape(number(estimate.value))}<span class="range"{why}>{escape(ends)}</span>'


def number(value: Any) -> str:
    """Return a value as people read it: thousands apart, four digits where they matter, n/a for None and NaN."""
    if value is None or value != value:
        return "n/a"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def with_half(value: float, half: float) -> str:
    """Return a mean with half the width of its interval, both to the same place; without one if that is not finite."""
    if not isfinite(half) or not isfinite(value):
        return number(value)
    places = 0 if half <= 0 else min(6, max(0, 1 - floor(log10(half))))
    return f"{value:,.{places}f} ± {half:,.{places}f}" if half else f"{number(value)} ± 0"


def warnings(sentences: Sequence[str]) -> str:
    """Return sentences as a list."""
    if not sentences:
        return ""
    return "<ul>" + "".join(f'<li class="warning">{escape(one)}</li>' for one in sentences) + "</ul>"


def text(content: str, *, hidden: str | None = None) -> str:
    """Return text as it stands, behind the words ``hidden`` where they are given."""
    inside = f"<pre>{escape(content)}</pre>"
    return inside if hidden is None else f"<details><summary>{escape(hidden)}</summary>{inside}</details>"


def image(picture: "Figure", caption: str) -> str:
    """Return a figure with its caption, which also stands for it where pictures are not shown."""
    data = b64encode(png(picture, dpi=130)).decode()
    source = f'src="data:image/png;base64,{data}"'
    width = round(picture.get_figwidth() * 100)
    shown = f'<img {source} width="{width}" alt="{escape(caption)}">'
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def write(path: str | Path, content: str) -> Path:
    """Write a page.

    Raises:
        InputError: it cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"{target}: the report cannot be written ({error.strerror or error})") from error
    return target
