"""A comparison on a terminal, as Markdown, as CSV, and as a page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline.comparison.tables import lede, missing, parts, title
from pipeline.comparison.variants import Comparison, Group, Variant
from pipeline.rich_tables import print_table
from stages.markdown import bullets, plain, section


def show(comparison: Comparison, console: Console) -> None:
    """Print the tables, each with how to read it."""
    console.print(f"[bold]{escape(title(comparison))}[/]")
    console.print(lede(comparison), highlight=False, markup=False)
    for part in parts(comparison):
        console.print()
        print_table(console, part.table)
        if part.table.reading:
            console.print(f"[dim]{escape(part.table.reading)}[/]", highlight=False)
    console.print("\n[bold]Not measured[/]")
    for line in _missing(comparison):
        console.print(f"  {line}", highlight=False, markup=False)


def markdown(comparison: Comparison) -> str:
    """The same for a README, an issue or a wiki."""
    found = [f"# {plain(title(comparison))}", plain(lede(comparison))]
    for table, *_ in parts(comparison):
        found += [f"## {plain(table.caption)}", section(table)]
    found += ["## Not measured", bullets(map(plain, _missing(comparison)))]
    return "\n\n".join(found) + "\n"


def page(comparison: Comparison) -> str:
    """The same as HTML, with charts."""
    from stages.report_page.page import page_template

    return page_template(Path(__file__).with_name("comparison.html")).render(
        title=title(comparison),
        lede=lede(comparison),
        parts=list(parts(comparison, draw=True)),
        missing=missing(comparison),
    )


def _missing(comparison: Comparison) -> list[str]:
    lines = [f"{'; '.join(what)}: {why}" for why, what in missing(comparison).items()]
    return lines or ["nothing"]


def csv_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """A row for each variant, precision and device; fractions, ms and MB, empty where unknown."""
    for group in comparison.groups:
        shared = {
            variant.name: _shared(comparison, group, variant, rank)
            for rank, variant in enumerate(group.variants, 1)
        }
        recommended = {variant.name: variant.recommended for variant in group.variants}
        for cost in group.costs:
            device = cost.place and cost.place.device
            yield shared[cost.variant] | {
                "precision": cost.precision,
                "recommended": cost.precision == recommended[cost.variant],
                "export_accuracy": cost.accuracy and cost.accuracy.mean,
                "failed": cost.failed,
                "size_mb": cost.size_mb and cost.size_mb.mean,
                "device": device and device.url,
                "processor": device and (device.cpu or device.machine),
                "threads": cost.place and cost.place.threads,
                "p50_ms": cost.p50_ms and cost.p50_ms.mean,
                "p90_ms": cost.p90_ms and cost.p90_ms.mean,
                "noisy": cost.p50_ms and cost.noisy,
            }


def _shared(comparison: Comparison, group: Group, variant: Variant, rank: int) -> dict[str, Any]:
    over, paper = variant.over_baseline, variant.results.paper
    teacher, student = variant.results.teacher, variant.results.student
    return {
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
        "paper": variant.in_paper,
        "paper_comparable": paper and not paper.differs,
    }
