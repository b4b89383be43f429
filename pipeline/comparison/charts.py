"""The charts of a comparison."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from pipeline.comparison.variants import Group, Place
from stages.analysis.intervals import Gain
from stages.formatting import percent, points, significant
from stages.report_page.charts import differences
from stages.report_page.page_charts import Titled
from stages.report_page.svg import (
    DASHES,
    MUTED,
    PAPER,
    PERCENT_TICKS,
    SERIES,
    Chart,
    legend_of,
    new_axes,
    to_svg,
)

_MANY = 40


class _Point(NamedTuple):
    name: str
    cost: float
    accuracy: float
    noisy: bool


def over_baseline(group: Group, name: str) -> Titled | None:
    """The differences from the baseline; None where there are none."""
    rows = [
        (v.name, Gain(over.mean, *(math.nan if end is None else end for end in over[1:3])))
        for v in group.variants[:_MANY]
        if (over := v.over_baseline) is not None
    ]
    if not rows:
        return None
    listed = "; ".join(f"{label} {points(gain.gain)}" for label, gain in rows)
    chart = differences(name, rows, f"Differences from {group.baseline} in points: {listed}")
    reading = (
        f"A point is the mean difference from {group.baseline} over the same seeds, its line the"
        " 95 % interval; a line that stays clear of the dotted zero is a difference that seeds"
        " alone do not explain, and a point without a line has a single seed."
    )
    return Titled(f"Accuracy over {group.baseline}", chart, reading)


def accuracy_against_costs(group: Group, place: Place, name: str) -> list[Titled]:
    """Latency on a device, and size; each variant in its recommended precision."""
    timed, sized = [], []
    for variant in group.variants:
        precision = variant.taken
        if precision is None or precision.accuracy is None or precision.size_mb is None:
            continue
        accuracy = precision.accuracy.mean
        sized.append(_Point(variant.name, precision.size_mb.mean, accuracy, False))
        latency = precision.latencies.get(place)
        if latency is not None:
            timed.append(_Point(variant.name, latency.p50_ms.mean, accuracy, latency.noisy))
    reading = (
        "Up and to the left is better. A numbered, coloured point is beaten by no other in both;"
        " the others are grey"
    )
    hollow = "; a hollow point was measured while the machine was noisy, and beats none"
    return [
        Titled(
            f"Accuracy against {cost}",
            _trade_off(f"{name}-{cost}", found, f"{cost}, {unit}"),
            f"{reading}{hollow if any(point.noisy for point in found) else ''}.",
        )
        for cost, unit, found in (("latency", "p50, ms", timed), ("size", "MB", sized))
        if found
    ]


def _trade_off(name: str, found: Sequence[_Point], x_label: str) -> Chart:
    """Numbers stand at the points that no other beats; dozens of names would hide the points."""
    front = [
        point
        for point in sorted(found, key=lambda p: p.cost)
        if point.noisy or not any(_beats(other, point) for other in found if not other.noisy)
    ]
    with new_axes(height=300) as (figure, axes):
        accuracies = [point.accuracy for point in found]
        low, high = min(accuracies), max(accuracies)
        margin = max(0.005, 0.15 * (high - low))
        axes.set_ylim(low - margin, min(high + margin, 1.0 + margin / 4))
        axes.set_xlim(0, max(point.cost for point in found) * 1.08)
        for point in found:
            if point not in front:
                axes.plot(point.cost, point.accuracy, "o", color=MUTED, markersize=5)
        steps = [point for point in front if not point.noisy]
        where = [point.cost for point in steps], [point.accuracy for point in steps]
        axes.step(*where, where="post", color=MUTED, linestyle=DASHES[2], linewidth=1)
        for number, point in enumerate(front, 1):
            colour = SERIES[(number - 1) % len(SERIES)]
            spot = point.cost, point.accuracy
            face = PAPER if point.noisy else colour
            axes.plot(*spot, "o", color=colour, markerfacecolor=face, markersize=8)
            axes.annotate(str(number), spot, (-5, 8), textcoords="offset points")
        axes.set(xlabel=x_label, ylabel="test accuracy")
        axes.yaxis.set_major_formatter(PERCENT_TICKS)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        listed = "; ".join(
            f"{p.name} {percent(p.accuracy)} at {significant(p.cost)}" for p in found
        )
        colours = [colour for _, colour, _ in legend_of(SERIES, itertools.repeat(False))]
        legend = [
            (f"{number} {point.name}", colours[(number - 1) % len(colours)], False)
            for number, point in enumerate(front, 1)
        ]
        return Chart(to_svg(name, figure), f"Accuracy against {x_label}: {listed}", legend)


def _beats(other: _Point, point: _Point) -> bool:
    better = other.accuracy >= point.accuracy and other.cost <= point.cost
    return better and (other.accuracy, other.cost) != (point.accuracy, point.cost)
