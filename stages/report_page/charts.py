"""The kinds of charts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from stages.analysis.intervals import Gain
from stages.report_page.svg import (
    DASHES,
    MUTED,
    PAPER,
    PERCENT_TICKS,
    SERIES,
    Chart,
    legend_of,
    looks,
    new_axes,
    to_svg,
)

_QUANTILES = np.linspace(0, 1, 201)
_MARKERS = {"o": "circles", "D": "diamonds", "s": "squares"}


class Bin(NamedTuple):
    """Answers of like confidence.

    Attributes:
        share: of all images.
        confidence: their mean.
        accuracy: the fraction of them that is right.
    """

    share: float
    confidence: float
    accuracy: float


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
    with new_axes() as (figure, axes):
        for (_, (epochs, values)), (colour, dash) in zip(series.items(), looks(), strict=False):
            if len(values) == 1 and not math.isnan(values[0]):
                axes.axhline(values[0], color=colour, linestyle=DASHES[1], linewidth=1.3)
            elif len(values) > 1:
                axes.plot(epochs, values, color=colour, linestyle=dash, solid_capstyle="round")
        if reference is not None:
            axes.axhline(reference, color=MUTED, linestyle=DASHES[2], linewidth=1)
        axes.set(xlabel="epoch", ylabel=y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if percent:
            axes.yaxis.set_major_formatter(PERCENT_TICKS)
        level = [len(values) == 1 for _, values in series.values()]
        return Chart(to_svg(name, figure), describes, legend_of(series, level))


def distributions(name: str, samples: Mapping[str, Sequence[float]], describes: str) -> Chart:
    """Empirical distribution functions of latencies in ms, none of the samples left out.

    A label without samples keeps its colour for itself, so that the others have the same one in
    every chart.
    """
    with new_axes() as (figure, axes):
        for times, (colour, dash) in zip(samples.values(), looks(), strict=False):
            if times:
                axes.plot(np.quantile(times, _QUANTILES), _QUANTILES, color=colour, linestyle=dash)
        for share in (0.5, 0.9):
            axes.axhline(share, color=MUTED, linestyle=DASHES[2], linewidth=1)
        axes.set(
            xscale="log", xlabel="latency, ms (logarithmic)", ylabel="share of runs", ylim=(0, 1.01)
        )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1])
        axes.yaxis.set_major_formatter(PERCENT_TICKS)
        legend = legend_of(samples, itertools.repeat(False))
        shown = [entry for entry, times in zip(legend, samples.values(), strict=True) if times]
        return Chart(to_svg(name, figure), describes, shown)


def accuracy_against_latency(
    name: str, points: Sequence[Point], student: float, describes: str, at: str
) -> Chart:
    """Each export at its p50 with a line to its p90; the student in torch as a level line."""
    with new_axes(height=290) as (figure, axes):
        accuracies = [student, *(p.accuracy for p in points)]
        # Differences below a tenth of a point are not blown up to the height of the chart.
        low, high = min(accuracies), max(accuracies)
        margin = max(0.005, 0.25 * (high - low))
        axes.set_ylim(low - margin, min(high + margin, 1.0 + margin / 4))
        right = max(p.p90_ms for p in points)
        axes.set_xlim(0, right * 1.3)
        axes.axhline(student, color=MUTED, linestyle=DASHES[2], linewidth=1)
        for point in points:
            colour = SERIES[point.number % len(SERIES)]
            where = [point.p50_ms, point.p90_ms], [point.accuracy] * 2
            axes.plot(*where, color=colour, linewidth=1.5, solid_capstyle="round")
            face = PAPER if point.noisy else colour
            axes.plot(*(w[0] for w in where), "o", color=colour, markerfacecolor=face, markersize=7)
        axes.set(xlabel=f"latency at {at}, ms (point: p50, line: to p90)", ylabel="test accuracy")
        axes.yaxis.set_major_formatter(PERCENT_TICKS)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        figure.draw_without_rendering()  # where points lie is known once all else has its room
        _label(axes, points, 72 / figure.dpi)
        return Chart(to_svg(name, figure), describes)


def reliability(name: str, networks: Mapping[str, Sequence[Bin]], describes: str) -> Chart:
    """Accuracy against confidence, bin by bin; an area grows with its share of the images.

    No line joins the points, as it would make the most of the bins with the fewest images.
    """
    with new_axes(height=320) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=DASHES[2], linewidth=1)
        for bins, colour, marker in zip(networks.values(), SERIES, _MARKERS, strict=False):
            # What lies on top is hollow, so that the first shows through.
            face = colour if marker == "o" else "none"
            for b in bins:
                size = 4 + 14 * math.sqrt(b.share)
                where = b.confidence, b.accuracy
                axes.plot(*where, marker, color=colour, markerfacecolor=face, markersize=size)
        axes.set(xlabel="confidence in the answer", ylabel="share of right answers")
        axes.set(xlim=(0, 1.04), ylim=(-0.03, 1.05))
        axes.xaxis.set_major_formatter(PERCENT_TICKS)
        axes.yaxis.set_major_formatter(PERCENT_TICKS)
        shapes = [
            f"{label} ({shape})" for label, shape in zip(networks, _MARKERS.values(), strict=False)
        ]
        return Chart(to_svg(name, figure), describes, legend_of(shapes, itertools.repeat(False)))


def differences(name: str, rows: Sequence[tuple[str, Gain]], describes: str) -> Chart:
    """A point and its interval for each row, the first at the top, in percentage points."""
    with new_axes(height=60 + 19 * len(rows)) as (figure, axes):
        axes.axvline(0, color=MUTED, linestyle=DASHES[2], linewidth=1)
        for place, (_, found) in enumerate(rows):
            points = [100 * value for value in found]
            colour = SERIES[0] if found.low > 0 else SERIES[1] if found.high < 0 else MUTED
            axes.plot(points[1:], [place] * 2, color=colour, linewidth=1.5)
            axes.plot(points[0], place, "o", color=colour, markersize=6)
        axes.set(xlabel="gain in accuracy, percentage points", ylim=(len(rows) - 0.4, -0.6))
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        return Chart(to_svg(name, figure), describes)


def _label(axes: Axes, points: Sequence[Point], points_a_pixel: float) -> None:
    """Names above the points, pushed up where they would overlap or read as one."""
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda p: (p.accuracy, p.p50_ms)):
        place = axes.transData.transform((point.p50_ms, point.accuracy))
        x, y = (points_a_pixel * pixels for pixels in place)
        width, lift = 6.0 * (len(point.name) + 1), 8.0
        while any(
            x < right and left < x + width and abs(y + lift - other) < 12
            for left, right, other in taken
        ):
            lift += 2
        taken.append((x, x + width, y + lift))
        axes.annotate(
            point.name, (point.p50_ms, point.accuracy), (-2, lift), textcoords="offset points"
        )
