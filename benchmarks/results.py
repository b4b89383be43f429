"""Helpers shared by all benchmarks: statistics, tables, and writing to files and pages."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from models.errors import InputError
from stages.files import new_file, write_json
from stages.identify_device import identify

Json = dict[str, Any]
ROOT = Path(__file__).parents[1]
FOLDER = Path("benchmarks/results")
DOCS = Path("docs")


def summarize(samples: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def quotients(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Divide round by round, so that a slow phase of the machine affects both numbers."""
    return [x / y for x, y in zip(a, b, strict=True)]


def describe(rounds: int) -> Json:
    """Return the header of a results file: ``date``, ``n`` and ``machine``."""
    device = identify()
    machine = {key: device[key] for key in ("cpu", "cores", "memory_gb", "system", "python")}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "n": rounds, "machine": machine}


def describe_run(results: Mapping[str, Any]) -> str:
    """Format the result of :func:`describe` as a sentence."""
    machine = results["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {results['date'][:10]}; median of"
        f" {results['n']} rounds (smallest to largest)."
    )


def spread(summary: Mapping[str, float] | None, digits: int) -> str:
    """Format median, minimum and maximum."""
    if summary is None:
        return "not measured"
    median, low, high = (f"{summary[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table with right-aligned numbers."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def last_line(text: str) -> str:
    """Return a program's last line of output, which has its result or the reason why it failed."""
    return (text.strip().splitlines() or ["without a message"])[-1]


def run_python(name: str, *arguments: str, cwd: Path | str, env: Mapping[str, str]) -> str:
    """Run this Python with ``env`` added and this project's modules; return its last line.

    Raises:
        InputError: it failed; the message has its name and its last line.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InputError(f"{name} failed: {last_line(done.stderr)}")
    return last_line(done.stdout)


def check_checkout(
    folder: Path, repository: str = "HobbitLong/RepDistiller", file: str = "helper/loops.py"
) -> str:
    """Return the absolute path of a checkout; raises InputError if it does not contain ``file``."""
    if not (folder / file).is_file():
        raise InputError(
            f"{folder}: expected a checkout of {repository.partition('/')[2]}, but there is no"
            f" {file}; clone https://github.com/{repository} and pass its folder"
        )
    return str(folder.resolve())


def markers(name: str) -> tuple[str, str]:
    """Return the two lines of a page that enclose the table ``name``."""
    line = f"<!-- written by benchmarks.{name}: {{}} -->\n"
    return line.format("begin"), line.format("end")


def publish(name: str, text: str, results: Json | None = None) -> None:
    """Write the results, print the text, and write it between its :func:`markers` of a page.

    Raises:
        InputError: no page has these markers.
    """
    if results is not None:
        write_json(FOLDER / f"{name}.json", results)
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
    """Run ``main`` with the command line's arguments; exit with one sentence on a user error."""
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error.cmd[2]} failed, see above; run again to resume")
