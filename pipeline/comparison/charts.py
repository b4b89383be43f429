"""Draws the charts of a comparison."""

import math
from collections.abc import Mapping

from matplotlib.ticker import MaxNLocator

from pipeline.comparison.experiments import Place
from pipeline.comparison.variants import Group, beaten_by
from stages.analysis.intervals import Gain
from stages.formatting import percent, points, significant
from stages.report_page.charts import differences
from stages.report_page.svg import (
    MUTED,
    SERIES,
    VARIABLES,
    Chart,
    draw_point,
    new_axes,
    scale_accuracies,
    to_svg,
)
from stages.tables import Record

_MANY = 40


def over_baseline(group: Group) -> list[Chart]:
    """Draw the differences from the baseline, if there are any."""
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
        f"Points are mean differences from {group.baseline} over the same seeds, and lines their"
        " 95 % intervals. A line that does not reach the dotted zero is a difference beyond the"
        " variation of seeds. A point without a line has a single seed."
    )
    return [differences(f"Accuracy over {group.baseline}", rows, describes, reading)]


def against_costs(group: Group, place: Place) -> list[Chart]:
    """Draw the accuracy of every export against its latency on a device, and against its size."""
    exports = {
        f"{variant.name}, {precision}": cost
        for variant in group.variants
        for (precision, there), cost in variant.costs.items()
        if there == place
    }
    latency = _against(exports, "p50_ms", "latency, p50, ms")
    return latency + _against(exports, "size_mb", "size, MB")


def _against(exports: Mapping[str, Record], axis: str, label: str) -> list[Chart]:
    """Draw accuracy against a cost; only the points that no other beats are numbered."""
    found = [
        (name, cost[axis], cost["accuracy"], cost["noisy"])
        for name, cost in exports.items()
        if cost[axis] is not None and cost["accuracy"] is not None
    ]
    if not found:
        return []
    found.sort(key=lambda point: point[1])
    beaten = beaten_by(exports)
    legend: list[tuple[str, str, bool]] = []
    with new_axes(height=300) as (figure, axes):
        scale_accuracies(axes, [accuracy for _, _, accuracy, _ in found])
        axes.set_xlim(0, found[-1][1] * 1.08)
        for called, x, accuracy, noisy in found:
            if beaten.get(called):
                axes.plot(x, accuracy, "o", color=MUTED, markersize=5)
                continue
            colour = SERIES[len(legend) % len(SERIES)]
            number = f"{len(legend) + 1}"
            draw_point(axes, x, accuracy, colour, noisy)
            axes.annotate(number, (x, accuracy), (-5, 8), textcoords="offset points")
            legend.append((f"{number} {called}", VARIABLES[colour], False))
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        svg = to_svg(figure)
    against, _, unit = label.partition(", ")
    hollow = " Hollow points were measured on a noisy machine and beat no others."
    reading = (
        "Up and to the left is better. Grey points are beaten by another one in accuracy, size and"
        f" latency together.{hollow if any(noisy for *_, noisy in found) else ''}"
    )
    listed = "; ".join(f"{v} {percent(share)} at {significant(x)}" for v, x, share, _ in found)
    describes = f"Accuracy against {against} in {unit}: {listed}"
    return [Chart(f"Accuracy against {against}", svg, describes, reading, legend)]
