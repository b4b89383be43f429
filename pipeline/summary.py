"""``reports/summary.json`` on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from models.errors import InputError
from pipeline.presets import leaves
from pipeline.rich_tables import print_table
from stages.files import read_json
from stages.formatting import by_reason, origin
from stages.params import PARAMS_FILE, read_yaml
from stages.tables import Table, exports, litert, networks, of_records

SUMMARY = Path("reports/summary.json")
PAGE = Path("reports/index.html")
BUNDLE = Path("artifacts/bundle.tar.gz")
LOCK = Path("dvc.lock")


def show(console: Console) -> None:
    """Print the networks, the exports, warnings, what was skipped and where the results lie.

    Raises:
        InputError: there is no summary yet, it is damaged, or another version wrote it.
    """
    summary = read_json(SUMMARY)
    try:
        with console.capture() as shown:  # whole, or not at all
            _print(console, summary)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{SUMMARY}: not as this version of ackd writes it ({error!r}); run `dvc repro` to"
            " make it anew"
        ) from None
    console.file.write(shown.get())


def _print(console: Console, summary: dict[str, Any]) -> None:
    data = summary["data"]
    size = "" if data["image_size"] is None else f", {data['image_size']} x {data['image_size']}"
    title = f"{summary['student']['network']}, {origin(summary)}"
    console.print(f"[bold]{escape(title)}[/]", highlight=False)
    console.print(
        f"[bold]{escape(str(data['source']))}[/]: {data['train']:,} training,"
        f" {data['val']:,} validation, {data['test']:,} test images,"
        f" {data['classes']} classes{size}",
        highlight=False,
    )
    for warning in _outdated():
        console.print(f"[yellow]warning[/]  {escape(warning)}", highlight=False)
    tables = [networks(summary), exports(summary), litert(summary)]
    if len(summary["devices"]) > 1:
        tables.append(_devices(summary))
    for table in tables:
        if table is not None:
            console.print()
            print_table(console, table)
    for warning in summary["warnings"]:
        console.print(f"[yellow]warning[/]  {escape(warning)}", highlight=False)
    if summary["skipped"]:
        console.print("\n[bold]Not measured[/]")
        for reason, missing in by_reason(summary["skipped"]).items():
            console.print(f"  {', '.join(missing)}: {reason}", highlight=False, markup=False)
    console.print()
    # A missed goal leaves the report and stops the bundle.
    for result, path, remedy in (
        ("report", PAGE, "`ackd run` makes it"),
        ("bundle", BUNDLE, "see the goals in reports/gate.json"),
    ):
        place = str(path) if path.exists() else f"none; {remedy}"
        console.print(f"[bold]{result}[/]  {place}", highlight=False)


def _outdated() -> Iterator[str]:
    """How the last run, recorded in ``dvc.lock``, differs from what a run would do now."""
    if not LOCK.exists():
        return
    stages: dict[str, Any] = read_yaml(LOCK).get("stages") or {}
    now = leaves(read_yaml(PARAMS_FILE))
    used: dict[str, Any] = {}
    for stage in stages.values():
        used |= leaves(stage.get("params", {}).get(PARAMS_FILE.as_posix(), {}))
    other = [f"{k} {was} (now {now.get(k)})" for k, was in used.items() if now.get(k) != was]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        yield (
            f"these results were made with {', '.join(other[:3])}{more}; `ackd run` makes those of"
            f" {PARAMS_FILE}"
        )
    made = {out["path"]: out.get("md5") for one in stages.values() for out in one.get("outs", ())}
    read = {(dep["path"], dep.get("md5")) for one in stages.values() for dep in one.get("deps", ())}
    if newer := sorted(path for path, md5 in read if made.get(path, md5) != md5):
        yield f"{', '.join(newer)}: made anew since; `ackd run` goes on from there"


def _devices(summary: dict[str, Any]) -> Table:
    rows = [
        ([url, device["cpu"] or "", precision], row)
        for url, device in summary["devices"].items()
        for precision, row in device["exports"].items()
    ]
    names = ["device", "processor", "precision"]
    return of_records("Devices", names, rows, ["status", "threads", "p50_ms", "p90_ms"])
