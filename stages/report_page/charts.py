"""Charts as SVG that stands in the page and takes its colours from the page's style sheet."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

# matplotlib draws in colours that occur nowhere else; the SVG names the style sheet's instead.
_INK, _MUTED, _RULE, _PAPER = "#010101", "#020202", "#030303", "#040404"
_SERIES = tuple(f"#05050{n}" for n in range(1, 7))
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    _PAPER: "var(--paper)",
    **{colour: f"var(--series-{n})" for n, colour in enumerate(_SERIES, 1)},
}
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _RULE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": _MUTED,
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
    "xtick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.color": _MUTED,
    "ytick.major.size": 0,
}
_POINTS = 72
# No wider than a phone, so that the text keeps its size there.
_WIDTH = 420
# Beyond its colours, a chart tells series apart by dashes.
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
_QUANTILES = np.linspace(0, 1, 201)


@dataclass(frozen=True)
class Chart:
    """A drawing with its legend, ``(label, CSS colour, dashed)``, and what it shows in words."""

    svg: Markup
    describes: str
    legend: list[tuple[str, str, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class Point:
    """An export in the chart of accuracy against latency.

    Attributes:
        number: its place among all exports, so that it has the same colour in every chart.
    """

    name: str
    number: int
    p50_ms: float
    p90_ms: float
    accuracy: float
    noisy: bool


def lines(
    name: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    y_label: str,
    describes: str,
    percent: bool = False,
    reference: float | None = None,
) -> Chart:
    """Curves over epochs.

    Args:
        name: unique in the page; the SVG's ids begin with it.
        series: ``(epochs, values)`` by label; NaN leaves a gap, and a single value, of what was
            not trained here, becomes a level line.
        y_label: the quantity and its unit.
        describes: the chart in words.
        percent: whether fractions are shown as %.
        reference: a value to compare with, as a fine dotted line.
    """
    with _axes() as (figure, axes):
        for (_, (epochs, values)), (colour, dash) in zip(series.items(), _looks(), strict=False):
            if len(values) == 1 and not math.isnan(values[0]):
                axes.axhline(values[0], color=colour, linestyle=_DASHES[1], linewidth=1.3)
            elif len(values) > 1:
                axes.plot(epochs, values, color=colour, linestyle=dash, solid_capstyle="round")
        if reference is not None:
            axes.axhline(reference, color=_MUTED, linestyle=_DASHES[2], linewidth=1)
        axes.set(xlabel="epoch", ylabel=y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if percent:
            axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        level = [len(values) == 1 for _, values in series.values()]
        return Chart(_svg(name, figure), describes, _legend(series, level))


def distributions(name: str, samples: Mapping[str, Sequence[float]], describes: str) -> Chart:
    """Empirical distribution functions of latencies in ms, none of the samples left out.

    A label without samples keeps its colour for itself, so that the others have the same one in
    every chart.
    """
    with _axes() as (figure, axes):
        for times, (colour, dash) in zip(samples.values(), _looks(), strict=False):
            if times:
                axes.plot(np.quantile(times, _QUANTILES), _QUANTILES, color=colour, linestyle=dash)
        for share in (0.5, 0.9):
            axes.axhline(share, color=_MUTED, linestyle=_DASHES[2], linewidth=1)
        axes.set(
            xscale="log", xlabel="latency, ms (logarithmic)", ylabel="share of runs", ylim=(0, 1.01)
        )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1])
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        legend = _legend(samples, itertools.repeat(False))
        shown = [entry for entry, times in zip(legend, samples.values(), strict=True) if times]
        return Chart(_svg(name, figure), describes, shown)


def accuracy_against_latency(
    name: str, points: Sequence[Point], student: float, describes: str
) -> Chart:
    """Each export at its p50 with a line to its p90; the student in torch as a level line."""
    with _axes(height=290) as (figure, axes):
        accuracies = [student, *(p.accuracy for p in points)]
        # Differences below a tenth of a point are not blown up to the height of the chart.
        low, high = min(accuracies), max(accuracies)
        margin = max(0.005, 0.25 * (high - low))
        axes.set_ylim(low - margin, min(high + margin, 1.0 + margin / 4))
        right = max(p.p90_ms for p in points)
        axes.set_xlim(0, right * 1.3)
        axes.axhline(student, color=_MUTED, linestyle=_DASHES[2], linewidth=1)
        for point in points:
            colour = _SERIES[point.number % len(_SERIES)]
            where = [point.p50_ms, point.p90_ms], [point.accuracy] * 2
            axes.plot(*where, color=colour, linewidth=1.5, solid_capstyle="round")
            face = _PAPER if point.noisy else colour
            axes.plot(*(w[0] for w in where), "o", color=colour, markerfacecolor=face, markersize=7)
        _label(axes, points)
        axes.set(
            xlabel="latency at one thread, ms (point: p50, line: to p90)", ylabel="test accuracy"
        )
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        return Chart(_svg(name, figure), describes)


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Names above the points, pushed up where they would overlap."""
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda p: (p.accuracy, p.p50_ms)):
        x, y = axes.transData.transform((point.p50_ms, point.accuracy))
        width, lift = 7.0 * len(point.name), 8.0
        while any(
            x < right and left < x + width and abs(y + lift - other) < 14
            for left, right, other in taken
        ):
            lift += 2
        taken.append((x, x + width, y + lift))
        axes.annotate(
            point.name, (point.p50_ms, point.accuracy), (-2, lift), textcoords="offset points"
        )


@contextmanager
def _axes(height: int = 250) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(_WIDTH / _POINTS, height / _POINTS), layout="constrained")
        yield figure, figure.subplots()


def _looks() -> Iterator[tuple[str, object]]:
    for dash in itertools.cycle(_DASHES):
        for colour in _SERIES:
            yield colour, dash


def _legend(names: Iterable[str], level: Iterable[bool]) -> list[tuple[str, str, bool]]:
    return [
        (name, _VARIABLES[colour], flat or dash != "-")
        for name, flat, (colour, dash) in zip(names, level, _looks(), strict=False)
    ]


def _percent(value: float, _position: int) -> str:
    return f"{100 * value:.6g} %"


def _svg(name: str, figure: Figure) -> Markup:
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
