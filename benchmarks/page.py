"""The results as Markdown, and their place in ``docs/benchmarks.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.files import new_file

#: The ratios, what they say, and what they are to reach.
RATIOS = {
    "kd_live_vs_repdistiller": ("KD with a live teacher, of RepDistiller", "2 or more"),
    "kd_warm_store_vs_repdistiller": ("KD with a warm store, of RepDistiller", "4.5 or more"),
    "kd_live_vs_torchdistill": ("KD with a live teacher, of torchdistill", ""),
    "ackd_cost_vs_macs": (
        "ACKD's cost over KD's, of what its multiply-adds predict",
        "1.15 or less",
    ),
    "feed_share": ("the feed's share of a step, KD with a warm store", "below 0.03"),
}


def markdown(results: Mapping[str, Any]) -> str:
    """A table of ratios, then one of rows for each pair."""
    machine = results["machine"]
    bf16 = "bf16" if machine["fast_bf16"] else "fp32, the faster one here"
    head = (
        f"{describe_run(results)} Precision auto is {bf16}; torch {machine['torch']},"
        f" batch {results['batch_size']}."
    )
    parts = [head, _ratios(results["pairs"])]
    for pair, content in results["pairs"].items():
        parts += [f"### {pair}", _limits(content["limit_gflops"]), _rows(content["rows"])]
    return "\n\n".join(parts) + "\n"


def describe_run(results: Mapping[str, Any]) -> str:
    """Machine, date and what the figures are, as a sentence."""
    machine = results["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {results['date'][:10]}; median of"
        f" {results['n']} rounds (smallest to largest)."
    )


def markers(name: str) -> tuple[str, str]:
    """The lines between which ``benchmarks.<name>`` writes."""
    line = f"<!-- written by benchmarks.{name}: {{}} -->"
    return line.format("begin"), line.format("end")


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between the two marker lines of ``benchmarks.<name>``.

    Raises:
        InputError: the page is missing, or has no such lines.
    """
    try:
        content = page.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{page}: no such file; run from the project's root") from None
    first, last = markers(name)
    before, begin, rest = content.partition(f"{first}\n")
    _, end, after = rest.partition(f"{last}\n")
    if not begin or not end:
        raise InputError(f"{page}: expected the lines {first!r} and {last!r}; put them back")
    with new_file(page) as partial:
        partial.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def _ratios(pairs: Mapping[str, Any]) -> str:
    columns = [
        (f"{pair}{name}", content[kind])
        for pair, content in pairs.items()
        for name, kind in (("", "ratios"), (", compiled", "ratios_compiled"))
    ]
    rows = [
        [title, *(spread(ratios[key], 3) for _, ratios in columns), target]
        for key, (title, target) in RATIOS.items()
    ]
    return table(["ratio", *(name for name, _ in columns), "target"], rows)


def _limits(limits: Mapping[str, Any]) -> str:
    figures = (f"{name} {spread(limit, 0)} GFLOPS" for name, limit in limits.items())
    return f"Large matrix products: {', '.join(figures)}."


def _rows(rows: Mapping[str, Any]) -> str:
    heads = ["", "precision", "images/s", "RepDistiller = 1", "of the limit", "waits for images"]
    heads += ["peak memory, MB", "compiles, s"]
    return table(heads, [_row(row, len(heads)) for row in rows.values()])


def _row(row: Mapping[str, Any], cells: int) -> list[str]:
    if "reason" in row:
        return [row["title"], f"not measured: {row['reason']}"] + [""] * (cells - 2)
    compiles = row["compile_seconds"]
    return [
        row["title"],
        row["precision"],
        spread(row["images_per_second"], 0),
        spread(row["ratio_to_repdistiller"], 2),
        f"{row['share_of_limit']['median']:.0%}",
        f"{row['feed_share']['median']:.1%}",
        f"{row['peak_memory_mb']:.0f}",
        "" if compiles is None else f"{compiles:.0f}",
    ]


def spread(summary: Mapping[str, float] | None, digits: int) -> str:
    """Median, smallest and largest, as text."""
    if summary is None:
        return "not measured"
    median, low, high = (f"{summary[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; figures stand to the right."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
