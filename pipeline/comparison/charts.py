"""The charts of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from pipeline.comparison.rows import Place
from pipeline.comparison.variants import Group
from stages.analysis.intervals import Gain
from stages.formatting import percent, points, significant
from stages.report_page.charts import differences
from stages.report_page.svg import (
    DASHES,
    MUTED,
    SERIES,
    VARIABLES,
    Chart,
    draw_point,
    new_axes,
    scale_accuracies,
    to_svg,
)

_MANY = 40


class _Point(NamedTuple):
    name: str
    cost: float
    accuracy: float
    noisy: bool


def over_baseline(group: Group, name: str) -> list[Chart]:
    """The differences from the baseline, where there are any."""
    rows = [
        (v.name, Gain(over.mean, *(math.nan if end is None else end for end in over[1:3])))
        for v in group.variants[:_MANY]
        if (over := v.over_baseline) is not None
    ]
    if not rows:
        return []
    listed = "; ".join(f"{label} {points(gain.gain)}" for label, gain in rows)
    describes = f"Differences from {group.baseline} in points: {listed}"
    reading = (
        f"A point is the mean difference from {group.baseline} over the same seeds, its line the"
        " 95 % interval; a line that stays clear of the dotted zero is a difference that seeds"
        " alone do not explain, and a point without a line has a single seed."
    )
    return [differences(name, f"Accuracy over {group.baseline}", rows, describes, reading)]


def accuracy_against_costs(group: Group, place: Place, name: str) -> list[Chart]:
    """Latency on a device, and size; each variant in its recommended precision."""
    timed, sized = [], []
    for variant, cost in group.recommended_on(place).items():
        if cost.accuracy is None or cost.size_mb is None:
            continue
        accuracy = cost.accuracy.mean
        sized.append(_Point(variant, cost.size_mb.mean, accuracy, False))
        if cost.p50_ms is not None:
            timed.append(_Point(variant, cost.p50_ms.mean, accuracy, cost.noisy))
    reading = (
        "Up and to the left is better. A numbered, coloured point is beaten by no other in both;"
        " the others are grey"
    )
    hollow = "; a hollow point was measured while the machine was noisy, and beats none"
    return [
        _trade_off(
            f"{name}-{cost}",
            f"Accuracy against {cost}",
            found,
            f"{cost}, {unit}",
            f"{reading}{hollow if any(point.noisy for point in found) else ''}.",
        )
        for cost, unit, found in (("latency", "p50, ms", timed), ("size", "MB", sized))
        if found
    ]


def _trade_off(name: str, title: str, found: Sequence[_Point], x_label: str, reading: str) -> Chart:
    """Numbers stand at the points that no other beats; dozens of names would hide the points."""
    front = [
        point
        for point in sorted(found, key=lambda p: p.cost)
        if point.noisy or not any(_beats(other, point) for other in found if not other.noisy)
    ]
    with new_axes(height=300) as (figure, axes):
        scale_accuracies(axes, [point.accuracy for point in found])
        axes.set_xlim(0, max(point.cost for point in found) * 1.08)
        for point in found:
            if point not in front:
                axes.plot(point.cost, point.accuracy, "o", color=MUTED, markersize=5)
        steps = [point for point in front if not point.noisy]
        where = [point.cost for point in steps], [point.accuracy for point in steps]
        axes.step(*where, where="post", color=MUTED, linestyle=DASHES[2], linewidth=1)
        legend = []
        for number, point in enumerate(front, 1):
            colour = SERIES[(number - 1) % len(SERIES)]
            draw_point(axes, point.cost, point.accuracy, colour, point.noisy)
            spot = point.cost, point.accuracy
            axes.annotate(str(number), spot, (-5, 8), textcoords="offset points")
            legend.append((f"{number} {point.name}", VARIABLES[colour], False))
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        svg = to_svg(name, figure)
    listed = "; ".join(f"{p.name} {percent(p.accuracy)} at {significant(p.cost)}" for p in found)
    return Chart(title, svg, f"Accuracy against {x_label}: {listed}", reading, legend)


def _beats(other: _Point, point: _Point) -> bool:
    better = other.accuracy >= point.accuracy and other.cost <= point.cost
    return better and (other.accuracy, other.cost) != (point.accuracy, point.cost)
