"""SVG that stands in the page and takes its colours from the page's style sheet."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# matplotlib draws in colours that occur nowhere else; the SVG names the style sheet's instead.
_INK, MUTED, _RULE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#05050{n}" for n in range(1, 7))
_VARIABLES = {
    _INK: "var(--ink)",
    MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    PAPER: "var(--paper)",
    **{colour: f"var(--series-{n})" for n, colour in enumerate(SERIES, 1)},
}
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _RULE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "ackd",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
}
_POINTS = 72
# No wider than a phone, so that the text keeps its size there.
_WIDTH = 420
# With more series than colours, dashes distinguish them.
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
# Of fractions.
PERCENT_TICKS = FuncFormatter(lambda value, _: f"{100 * value:.6g} %")


@dataclass(frozen=True)
class Chart:
    """A drawing with its legend, ``(label, CSS colour, dashed)``, and what it shows in words."""

    svg: Markup
    describes: str
    legend: list[tuple[str, str, bool]] = field(default_factory=list)


@contextmanager
def new_axes(height: int = 250) -> Iterator[tuple[Figure, Axes]]:
    """A figure as high as so many pixels where the page is as wide as a phone."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(_WIDTH / _POINTS, height / _POINTS), layout="constrained")
        yield figure, figure.subplots()


def looks() -> Iterator[tuple[str, object]]:
    """Colour and dash of each series in turn, no two alike."""
    for dash in itertools.cycle(DASHES):
        for colour in SERIES:
            yield colour, dash


def legend_of(names: Iterable[str], level: Iterable[bool]) -> list[tuple[str, str, bool]]:
    """The legend of series drawn with :func:`looks`; ``level`` ones are dashed in any case."""
    return [
        (name, _VARIABLES[colour], flat or dash != "-")
        for name, flat, (colour, dash) in zip(names, level, looks(), strict=False)
    ]


def to_svg(name: str, figure: Figure) -> Markup:
    """The figure as an SVG element without namespaces, sizes, fonts and colours of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]+"', text)
    assert view_box
    text = re.sub(r"<svg[^>]*>", f'<svg {view_box[0]} aria-hidden="true">', text, count=1)
    text = text.replace("xlink:href=", "href=")
    # Ids must be unique in the page that holds several charts.
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*(; )?", "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return Markup(text)
