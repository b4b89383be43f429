"""A comparison as one HTML file that needs no other and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.comparison import charts, tables
from pipeline.comparison.variants import Comparison, Group, Precision, Variant
from stages.formatting import percent, points, significant
from stages.report_page.page import page_template

_TEMPLATE = Path(__file__).with_name("comparison.html")

# The section says on which device.
_RECOMMENDED = "Recommended precision"
_EVERY = "Every precision"

READINGS = {
    "accuracy": (
        "Accuracy is top-1 on the test images after the last epoch, the mean over the seeds. A"
        " difference is the mean over the seeds that both have, seed by seed, with Student’s 95 %"
        " interval: one that has 0 in it may be chance."
    ),
    "trade_off": (
        "Each variant in the precision that its experiments recommend, batch 1; accuracy is the"
        " exported model’s, MB are 10⁶ bytes of its file, and all are means over the seeds. A"
        " variant is beaten by those that are no worse in accuracy, size and p50, and better in"
        " one of them at least; a noisy latency is not judged."
    ),
    "precisions": (
        "Every export of every variant; in brackets stand the smallest and the largest of the"
        " seeds."
    ),
    "paper": (
        "The paper’s accuracies are as printed. Its gains over the baseline say more than its"
        " heights, as a shorter schedule may lower all variants alike."
    ),
    "parameters": "Where the variants’ params.yaml differ, but for the seeds.",
    "experiments": (
        "Every experiment that the tables are made of; dvc exp apply NAME brings one into the"
        " workspace."
    ),
}


def title(comparison: Comparison) -> str:
    if comparison.sweep is not None:
        return f"Sweep {comparison.sweep}"
    return "Experiments compared"


def render(comparison: Comparison) -> str:
    """The page as HTML."""
    return page_template(_TEMPLATE).render(
        title=title(comparison),
        lede=lede(comparison),
        tiles=_tiles(comparison),
        readings=READINGS,
        notes=tables.notes(comparison),
        parts=[_part(number, group) for number, group in enumerate(comparison.groups, 1)],
        experiments=tables.experiments(comparison),
        missing=tables.missing(comparison),
    )


def lede(comparison: Comparison) -> str:
    """The result in one or two sentences."""
    group = comparison.groups[0]
    best = group.variants[0]
    seeds = best.accuracy.seeds
    text = (
        f"{best.name} is the most accurate of {_counted(len(group.variants), 'variant')}:"
        f" {percent(best.accuracy.mean)}"
        f"{f', the mean of {seeds} seeds' if seeds > 1 else ' with one seed'}, on"
        f" {group.images.title}."
    )
    if best.over_baseline is not None:
        over = best.over_baseline
        between = ", with one seed in both, which gives no interval"
        if over.low is not None:
            between = f" (95 % interval {tables.interval(over)})"
        text += f" That is {points(over.mean)} points over {group.baseline}{between}."
    return text


def _tiles(comparison: Comparison) -> list[tuple[str, str, str]]:
    group = comparison.groups[0]
    best = group.variants[0]
    taken = sum(len(v.experiments) for g in comparison.groups for v in g.variants)
    left_out = len(comparison.left_out)
    without = f"; {left_out} more without figures" if left_out else ""
    tiles = [
        (f"{100 * best.accuracy.mean:.2f}", "%", f"test accuracy of the best, {best.name}"),
        (str(taken), "", f"experiments of {_counted(_variants(comparison), 'variant')}{without}"),
    ]
    sizes = {v.name: p.size_mb.mean for v in group.variants if (p := _recommended(v)) and p.size_mb}
    if sizes:
        smallest = min(sizes, key=lambda name: sizes[name])
        tiles.append((significant(sizes[smallest]), "MB", f"the smallest file, {smallest}"))
    for place in group.places[:1]:
        times = {
            v.name: found.p50_ms.mean
            for v in group.variants
            if (p := _recommended(v)) and (found := p.latencies.get(place)) and not found.noisy
        }
        if times:
            quickest = min(times, key=lambda name: times[name])
            meaning = f"the quickest median latency, {quickest}, on {place.url}"
            tiles.append((significant(times[quickest]), "ms", meaning))
    return tiles


def _recommended(variant: Variant) -> Precision | None:
    return variant.precisions.get(variant.recommended or "")


def _variants(comparison: Comparison) -> int:
    return len({v.name for group in comparison.groups for v in group.variants})


def _part(number: int, group: Group) -> dict[str, Any]:
    return {
        "number": number,
        "images": group.images.title,
        "accuracies": tables.accuracies(group),
        "differences": charts.over_baseline(group, f"differences-{number}"),
        "places": [
            {
                "title": place.title,
                "charts": charts.accuracy_against_costs(group, place, f"costs-{number}-{index}"),
                "trade_off": tables.trade_off(group, place)._replace(caption=_RECOMMENDED),
                "precisions": tables.precisions(group, place)._replace(caption=_EVERY),
            }
            for index, place in enumerate(group.places)
        ],
        "paper": tables.paper(group),
        "differs": tables.not_comparable_with_paper(group),
        "parameters": tables.parameters(group),
    }


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
