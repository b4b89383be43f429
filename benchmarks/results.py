"""What all benchmarks share: numbers, tables, the pages and files that they are written to."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from models.errors import InputError
from stages.files import new_file
from stages.identify_device import identify

Json = dict[str, Any]
ROOT = Path(__file__).parents[1]
FOLDER = Path("benchmarks/results")
DOCS = Path("docs")


def summarize(samples: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def quotients(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Round by round, so that a slow moment of the machine is in both."""
    return [x / y for x, y in zip(a, b, strict=True)]


def describe(rounds: int) -> Json:
    """``date``, ``n`` and ``machine``, with which a file of measured times begins."""
    device = identify()
    machine = {key: device[key] for key in ("cpu", "cores", "memory_gb", "system", "python")}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "n": rounds, "machine": machine}


def describe_run(results: Mapping[str, Any]) -> str:
    """What :func:`describe` found, as a sentence."""
    machine = results["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {results['date'][:10]}; median of"
        f" {results['n']} rounds (smallest to largest)."
    )


def spread(summary: Mapping[str, float] | None, digits: int) -> str:
    """Median, smallest and largest, as text."""
    if summary is None:
        return "not measured"
    median, low, high = (f"{summary[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, numbers to the right."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def last_line(text: str) -> str:
    """Where a program puts its result, or the reason why it failed."""
    return (text.strip().splitlines() or ["without a message"])[-1]


def check_checkout(
    folder: Path, repository: str = "HobbitLong/RepDistiller", file: str = "helper/loops.py"
) -> str:
    """Its absolute path.

    Raises:
        InputError: ``folder`` is no checkout of the repository, because it has no such file.
    """
    if not (folder / file).is_file():
        raise InputError(
            f"{folder}: expected a checkout of {repository.partition('/')[2]}, but there is no"
            f" {file}; clone https://github.com/{repository} and give its folder"
        )
    return str(folder.resolve())


def markers(name: str) -> tuple[str, str]:
    """The lines of a page between which the table ``name`` is written."""
    line = f"<!-- written by benchmarks.{name}: {{}} -->\n"
    return line.format("begin"), line.format("end")


def publish(name: str, text: str) -> None:
    """Print the text, and let it replace what a page of docs has between its :func:`markers`.

    Raises:
        InputError: no page has such lines.
    """
    print(text)
    first, last = markers(name)
    for page in DOCS.glob("*.md"):
        before, begin, rest = page.read_text(encoding="utf-8").partition(first)
        _, end, after = rest.partition(last)
        if begin and end:
            with new_file(page) as partial:
                partial.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")
            return
    raise InputError(
        f"{DOCS}: no page has the lines {first.strip()!r} and {last.strip()!r}; put them back, and"
        " run from the project's root"
    )


def command(main: Callable[..., None]) -> None:
    """Run ``main`` as the command line asks; a user's mistake is one sentence and status 1."""
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error.cmd[2]} failed, see above; run again to go on from there")
