"""Renders a comparison for the terminal, as Markdown, as CSV, and as a self-contained page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline.comparison.tables import lede, missing, parts
from pipeline.comparison.variants import Comparison
from pipeline.rich_tables import print_table
from stages.markdown import bullets, plain, section


def show(title: str, comparison: Comparison, console: Console) -> None:
    """Print the tables, each with an explanation."""
    console.print(f"[bold]{escape(title)}[/]")
    console.print(lede(comparison), highlight=False, markup=False)
    for table, _ in parts(comparison):
        console.print()
        print_table(console, table)
        console.print(f"[dim]{escape(table.reading)}[/]", highlight=False)
    console.print("\n[bold]Not measured[/]")
    for line in _missing(comparison):
        console.print(f"  {line}", highlight=False, markup=False)


def markdown(title: str, comparison: Comparison) -> str:
    """Render Markdown, for a README, an issue or a wiki."""
    found = [f"# {plain(title)}", plain(lede(comparison))]
    for table, _ in parts(comparison):
        found += [f"## {plain(table.caption)}", section(table)]
    found += ["## Not measured", bullets(map(plain, _missing(comparison)))]
    return "\n\n".join(found) + "\n"


def page(title: str, comparison: Comparison) -> str:
    """Render an HTML page with charts."""
    from stages.report_page.page import page_template

    return page_template(Path(__file__).with_name("comparison.html")).render(
        title=title,
        lede=lede(comparison),
        parts=list(parts(comparison, draw=True)),
        missing=missing(comparison),
    )


def _missing(comparison: Comparison) -> list[str]:
    lines = [f"{'; '.join(what)}: {why}" for why, what in missing(comparison).items()]
    return lines or ["nothing"]


def csv_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yield a row per variant, precision and device: fractions, ms and MB, empty if unknown."""
    for group in comparison.groups:
        for rank, variant in enumerate(group.variants, 1):
            over, first = variant.over_baseline, variant.first
            shared = {
                "variant": variant.name,
                "rank": rank,
                "data": group.images.source,
                "test_images": group.images.number,
                "test_images_digest": group.images.digest[:16],
                "teacher": first.teacher,
                "student": first.student,
                "method": first.method,
                "seeds": " ".join(map(str, variant.seeds)),
                "accuracy": variant.accuracy.mean,
                "accuracy_low": variant.accuracy.low,
                "accuracy_high": variant.accuracy.high,
                "baseline": comparison.baseline,
                "over_baseline": over and over.mean,
                "interval_low": over and over.low,
                "interval_high": over and over.high,
                "pairs": over and over.pairs,
                "paper": first.in_paper,
                "paper_comparable": first.paper and not first.paper["differs"],
            }
            for (precision, place), cost in variant.costs.items():
                yield shared | {
                    "precision": precision,
                    "recommended": precision == variant.recommended,
                    "export_accuracy": cost["accuracy"],
                    "failed": cost["failed"],
                    "size_mb": cost["size_mb"],
                    "device": place and place.url,
                    "processor": place and place.processor,
                    "threads": place and place.threads,
                    "p50_ms": cost["p50_ms"],
                    "p90_ms": cost["p90_ms"],
                    "noisy": None if cost["p50_ms"] is None else cost["noisy"],
                }
