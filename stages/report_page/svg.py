"""Inline SVG that takes its colours from the page's style sheet."""

import io
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# matplotlib draws in placeholder colours, which are then replaced by the style sheet's variables.
_INK, MUTED, _RULE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#05050{n}" for n in range(1, 7))
#: The style sheet's variables for these colours.
VARIABLES = {
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
# As wide as a phone, so that text keeps its size there.
_WIDTH = 420
# Distinguish series if there are more than colours.
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
# Ticks for fractions.
PERCENT_TICKS = FuncFormatter(lambda value, _: f"{100 * value:.6g} %")


class Chart(NamedTuple):
    """A drawing with title and legend."""

    title: str
    svg: Markup
    describes: str  # its text alternative
    reading: str = ""  # how to read it, unless the section explains that
    legend: Sequence[tuple[str, str, bool]] = ()  # (label, CSS colour, dashed) for each series


@contextmanager
def new_axes(height: int = 250) -> Iterator[tuple[Figure, Axes]]:
    """Open a figure whose ``height`` is in pixels on a page as wide as a phone."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(_WIDTH / _POINTS, height / _POINTS), layout="constrained")
        yield figure, figure.subplots()


def looks() -> Iterator[tuple[str, Any]]:
    """Yield a different colour and dash for each series."""
    for dash in itertools.cycle(DASHES):
        for colour in SERIES:
            yield colour, dash


def legend_of(names: Iterable[str], level: Collection[str] = ()) -> Sequence[tuple[str, str, bool]]:
    """Return the legend of series drawn with :func:`looks`; ``level`` ones are always dashed."""
    return [
        (name, VARIABLES[colour], name in level or dash != "-")
        for name, (colour, dash) in zip(names, looks(), strict=False)
    ]


def scale_accuracies(axes: Axes, accuracies: Sequence[float]) -> None:
    """Scale the y axis so that tiny differences in accuracy do not fill its height."""
    low, high = min(accuracies), max(accuracies)
    margin = max(0.005, 0.25 * (high - low))
    axes.set(ylabel="test accuracy", ylim=(low - margin, min(high + margin, 1.0 + margin / 4)))
    axes.yaxis.set_major_formatter(PERCENT_TICKS)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def draw_point(axes: Axes, x: float, y: float, colour: str, noisy: bool = False) -> None:
    """Draw a point, hollow if it was measured on a noisy machine."""
    face = PAPER if noisy else colour
    axes.plot(x, y, "o", color=colour, markerfacecolor=face, markersize=7)


def to_svg(figure: Figure) -> Markup:
    """Return the figure as an SVG element without namespaces, sizes, fonts and fixed colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]+"', text)
    assert view_box
    text = re.sub(r"<svg[^>]*>", f'<svg {view_box[0]} aria-hidden="true">', text, count=1)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r"font-family: [^;\"]*(; )?", "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return Markup(text)
