"""A comparison on a terminal, in Markdown, and as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline.comparison import tables
from pipeline.comparison.page import READINGS, lede, title
from pipeline.comparison.variants import Comparison, Group, Place, Variant
from pipeline.rich_tables import print_table
from stages.markdown import bullets, plain
from stages.markdown import table as in_markdown
from stages.tables import Table


def show(comparison: Comparison, console: Console) -> None:
    """Print the tables, each with how to read it."""
    console.print(f"[bold]{escape(title(comparison))}[/]")
    console.print(lede(comparison), highlight=False, markup=False)
    for group in comparison.groups:
        if len(comparison.groups) > 1:
            console.print(f"\n[bold]{escape(group.images.title)}[/]")
        for table, reading in _tables(group):
            console.print()
            print_table(console, table)
            console.print(f"[dim]{escape(reading)}[/]", highlight=False)
        for reason, names in tables.not_comparable_with_paper(group).items():
            text = f"not comparable with the paper: {', '.join(names)}: {reason}"
            console.print(text, highlight=False, markup=False)
    for note in tables.notes(comparison):
        console.print(f"\n[yellow]note[/]  {escape(note)}", highlight=False)
    missing = tables.missing(comparison)
    if missing:
        console.print("\n[bold]Not measured[/]")
        for reason, what in missing.items():
            console.print(f"  {'; '.join(what)}: {reason}", highlight=False, markup=False)


def markdown(comparison: Comparison) -> str:
    """The same tables for a README, an issue or a wiki."""
    parts = [f"# {plain(title(comparison))}", plain(lede(comparison))]
    notes = tables.notes(comparison)
    if notes:
        parts.append(bullets(map(plain, notes)))
    for group in comparison.groups:
        if len(comparison.groups) > 1:
            parts.append(f"## {plain(group.images.title)}")
        level = "###" if len(comparison.groups) > 1 else "##"
        for table, reading in _tables(group):
            parts += [f"{level} {plain(table.caption)}", plain(reading), in_markdown(table)]
        differs = tables.not_comparable_with_paper(group)
        if differs:
            lines = (f"{', '.join(names)}: {reason}" for reason, names in differs.items())
            parts += ["Not comparable with the paper:", bullets(map(plain, lines))]
    parts += ["## Experiments", plain(READINGS["experiments"])]
    parts.append(in_markdown(tables.experiments(comparison)))
    missing = tables.missing(comparison)
    if missing:
        lines = (f"{'; '.join(what)}: {reason}" for reason, what in missing.items())
        parts += ["## Not measured", bullets(map(plain, lines))]
    return "\n\n".join(parts) + "\n"


def csv_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row for each variant, precision and device; fractions, ms and MB, empty where unknown."""
    return [
        row
        for group in comparison.groups
        for rank, variant in enumerate(group.variants, 1)
        for row in _rows(comparison, group, variant, rank)
    ]


def _rows(
    comparison: Comparison, group: Group, variant: Variant, rank: int
) -> Iterator[dict[str, Any]]:
    over, told = variant.over_baseline, variant.figures.paper
    teacher, student = variant.figures.teacher, variant.figures.student
    shared = {
        "variant": variant.name,
        "rank": rank,
        "data": group.images.source,
        "test_images": group.images.number,
        "test_images_digest": (group.images.digest or "")[:16],
        "teacher": teacher.network,
        "student": student.network,
        "method": student.method,
        "seeds": " ".join(map(str, variant.experiments)),
        "accuracy": variant.accuracy.mean,
        "accuracy_low": variant.accuracy.low,
        "accuracy_high": variant.accuracy.high,
        "baseline": comparison.baseline,
        "over_baseline": over and over.mean,
        "interval_low": over and over.low,
        "interval_high": over and over.high,
        "pairs": over and over.pairs,
        "paper": told and told.accuracies.get(told.method),
        "paper_comparable": told and not told.differs,
    }
    places: list[Place | None] = [*group.places] or [None]
    for name, precision in variant.precisions.items():
        for place in places:
            latency = precision.latencies.get(place) if place else None
            yield shared | {
                "precision": name,
                "recommended": name == variant.recommended,
                "export_accuracy": precision.accuracy and precision.accuracy.mean,
                "failed": precision.failed,
                "size_mb": precision.size_mb and precision.size_mb.mean,
                "device": place and place.url,
                "processor": place and (place.cpu or place.machine),
                "threads": place and place.threads,
                "p50_ms": latency and latency.p50_ms.mean,
                "p90_ms": latency and latency.p90_ms.mean,
                "noisy": latency and latency.noisy,
            }


def _tables(group: Group) -> Iterator[tuple[Table, str]]:
    yield tables.accuracies(group), READINGS["accuracy"]
    for place in group.places:
        yield tables.trade_off(group, place), READINGS["trade_off"]
        yield tables.precisions(group, place), READINGS["precisions"]
    for table, key in ((tables.paper(group), "paper"), (tables.parameters(group), "parameters")):
        if table is not None:
            yield table, READINGS[key]
