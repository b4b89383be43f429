"""Draw each kind of chart."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from stages.analysis.intervals import Gain
from stages.report_page.svg import (
    DASHES,
    MUTED,
    PERCENT_TICKS,
    SERIES,
    Chart,
    draw_point,
    legend_of,
    looks,
    new_axes,
    scale_accuracies,
    to_svg,
)

_QUANTILES = np.linspace(0, 1, 201)
_MARKERS = {"o": "circles", "D": "diamonds", "s": "squares"}

#: ``(epochs, values)`` by label.
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


class Point(NamedTuple):
    """An export in the chart of accuracy against latency."""

    name: str
    number: int  # its place among all exports; gives it the same colour in every chart
    p50_ms: float
    p90_ms: float
    accuracy: float
    noisy: bool


def lines(
    title: str, y_label: str, series: Series, reading: str = "", reference: float | None = None
) -> Chart:
    """Draw curves over epochs, with a dotted line at ``reference``.

    NaN leaves a gap. A single value, of a network not trained here, becomes a horizontal line.
    """
    with new_axes() as (figure, axes):
        for (epochs, values), (colour, dash) in zip(series.values(), looks(), strict=False):
            if len(values) > 1:
                axes.plot(epochs, values, color=colour, linestyle=dash, solid_capstyle="round")
            elif not math.isnan(values[0]):
                axes.axhline(values[0], color=colour, linestyle=DASHES[1], linewidth=1.3)
        if reference is not None:
            axes.axhline(reference, color=MUTED, linestyle=DASHES[2], linewidth=1)
        axes.set(xlabel="epoch", ylabel=y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if y_label in ("accuracy", "mean weight"):
            axes.yaxis.set_major_formatter(PERCENT_TICKS)
        svg = to_svg(figure)
    level = {name for name, (_, values) in series.items() if len(values) == 1}
    describes = f"{title} by epoch: {', '.join(series)}"
    return Chart(title, svg, describes, reading, legend_of(series, level))


def distributions(title: str, samples: Mapping[str, Sequence[float]]) -> Chart:
    """Draw empirical distribution functions of latencies in ms, with all samples.

    A label without samples still takes a colour, so the others have the same one in every chart.
    """
    with new_axes() as (figure, axes):
        for times, (colour, dash) in zip(samples.values(), looks(), strict=False):
            if times:
                axes.plot(np.quantile(times, _QUANTILES), _QUANTILES, color=colour, linestyle=dash)
        for share in (0.5, 0.9):
            axes.axhline(share, color=MUTED, linestyle=DASHES[2], linewidth=1)
        axes.set(
            xscale="log", xlabel="latency, ms (log)", ylabel="fraction of runs", ylim=(0, 1.01)
        )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1])
        axes.yaxis.set_major_formatter(PERCENT_TICKS)
        svg = to_svg(figure)
    legend = [entry for entry in legend_of(samples) if samples[entry[0]]]
    describes = f"Distribution of latency with {title}: {', '.join(samples)}"
    return Chart(title, svg, describes, legend=legend)


def accuracy_against_latency(
    title: str, points: Sequence[Point], student: float, at: str, reading: str = ""
) -> Chart:
    """Draw each export at its p50 with a line to its p90, and a dotted line for torch."""
    with new_axes(height=290) as (figure, axes):
        scale_accuracies(axes, [student, *(p.accuracy for p in points)])
        axes.set_xlim(0, max(p.p90_ms for p in points) * 1.3)
        axes.axhline(student, color=MUTED, linestyle=DASHES[2], linewidth=1)
        for point in points:
            colour = SERIES[point.number % len(SERIES)]
            reach = [point.p50_ms, point.p90_ms], [point.accuracy] * 2
            axes.plot(*reach, color=colour, linewidth=1.5, solid_capstyle="round")
            draw_point(axes, point.p50_ms, point.accuracy, colour, point.noisy)
        axes.set_xlabel(f"latency at {at}, ms (point: p50, line: to p90)")
        figure.draw_without_rendering()  # the layout fixes the points' positions
        _label(axes, points, 72 / figure.dpi)
        svg = to_svg(figure)
    listed = "; ".join(f"{p.name} {p.accuracy:.2%} at {p.p50_ms:.3g} ms" for p in points)
    return Chart(title, svg, f"{title}: {listed}", reading)


def reliability(
    title: str, networks: Mapping[str, Sequence[Mapping[str, float]]], reading: str
) -> Chart:
    """Draw accuracy against confidence for each bin; a point's area grows with its images.

    No line joins the points, as it would overemphasise bins with few images. The bins are those of
    :func:`stages.analysis.calibration.calibration`.
    """
    with new_axes(height=320) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=DASHES[2], linewidth=1)
        for bins, colour, marker in zip(networks.values(), SERIES, _MARKERS, strict=False):
            # Later networks are hollow, so the first shows through.
            face = colour if marker == "o" else "none"
            images = sum(b["images"] for b in bins)
            for b in bins:
                size = 4 + 14 * math.sqrt(b["images"] / images)
                where = b["confidence"], b["accuracy"]
                axes.plot(*where, marker, color=colour, markerfacecolor=face, markersize=size)
        axes.set(xlabel="confidence", ylabel="accuracy")
        axes.set(xlim=(0, 1.04), ylim=(-0.03, 1.05))
        axes.xaxis.set_major_formatter(PERCENT_TICKS)
        axes.yaxis.set_major_formatter(PERCENT_TICKS)
        svg = to_svg(figure)
    listed = "; ".join(
        f"{name}: "
        + ", ".join(f"{b['accuracy']:.0%} right at confidence {b['confidence']:.0%}" for b in bins)
        for name, bins in networks.items()
    )
    named = zip(networks, _MARKERS.values(), strict=False)
    legend = legend_of(f"{label} ({shape})" for label, shape in named)
    return Chart(title, svg, f"Accuracy by confidence. {listed}", reading, legend)


def differences(
    title: str, rows: Sequence[tuple[str, Gain]], describes: str, reading: str
) -> Chart:
    """Draw a point and its interval for each row, from the top, in percentage points."""
    with new_axes(height=60 + 19 * len(rows)) as (figure, axes):
        axes.axvline(0, color=MUTED, linestyle=DASHES[2], linewidth=1)
        for place, (_, found) in enumerate(rows):
            mean, *ends = (100 * value for value in found)
            colour = SERIES[0] if found.low > 0 else SERIES[1] if found.high < 0 else MUTED
            axes.plot(ends, [place] * 2, color=colour, linewidth=1.5)
            draw_point(axes, mean, place, colour)
        axes.set(xlabel="gain in accuracy, percentage points", ylim=(len(rows) - 0.4, -0.6))
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        return Chart(title, to_svg(figure), describes, reading)


def _label(axes: Axes, points: Sequence[Point], points_a_pixel: float) -> None:
    """Write names above the points, moved up where they would overlap or run together."""
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda p: (p.accuracy, p.p50_ms)):
        where = point.p50_ms, point.accuracy
        x, y = (points_a_pixel * pixels for pixels in axes.transData.transform(where))
        width, lift = 6.0 * (len(point.name) + 1), 8.0
        while any(
            x < right and left < x + width and abs(y + lift - other) < 12
            for left, right, other in taken
        ):
            lift += 2
        taken.append((x, x + width, y + lift))
        axes.annotate(point.name, where, (-2, lift), textcoords="offset points")
