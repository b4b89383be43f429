"""The figures of ``reports/summary.json`` as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.presets import leaves
from pipeline.summary_schema import Shown, checked
from stages.figures import drop, what
from stages.files import read_json
from stages.params import PARAMS_FILE, read_yaml

SUMMARY = Path("reports/summary.json")
PAGE = Path("reports/index.html")
BUNDLE = Path("artifacts/bundle.tar.gz")
LOCK = Path("dvc.lock")

_NONE = "-"


def show(console: Console) -> None:
    """Print the networks, the exports, warnings, what was skipped and where the results lie.

    Raises:
        InputError: there is no summary yet, it is damaged, or another version wrote it.
    """
    summary = read_json(SUMMARY)
    checked(summary, Shown, "run `dvc repro` to make it anew")
    data = summary["data"]
    size = "" if data["image_size"] is None else f", {data['image_size']} x {data['image_size']}"
    console.print(
        f"[bold]{escape(str(data['source']))}[/]: {data['train']:,} training,"
        f" {data['val']:,} validation, {data['test']:,} test images,"
        f" {data['classes']} classes{size}",
        highlight=False,
    )
    for warning in _outdated():
        console.print(f"[yellow]warning[/]  {escape(warning)}", highlight=False)
    console.print()
    console.print(_networks(summary))
    _show_exports(console, "Exports", summary["exports"])
    if summary["litert"] is not None:
        _show_exports(console, "LiteRT", summary["litert"]["exports"])
    for line in _verdicts(summary):
        console.print(line, highlight=False)
    if len(summary["devices"]) > 1:
        console.print(_devices(summary["devices"]))
    for warning in summary["warnings"]:
        console.print(f"[yellow]warning[/]  {escape(warning)}", highlight=False)
    if summary["skipped"]:
        console.print("\n[bold]Not measured[/]")
        for item in summary["skipped"]:
            console.print(f"  {what(item)}: {item['reason']}", highlight=False, markup=False)
    console.print()
    for result, path in (("report", PAGE), ("bundle", BUNDLE)):
        # A missed goal leaves the report and stops the bundle.
        place = str(path) if path.exists() else "none; see the goals in reports/gate.json"
        console.print(f"[bold]{result}[/]  {place}", highlight=False)


def _outdated() -> Iterator[str]:
    """How the last run, which ``dvc.lock`` tells of, differs from what a run would do now."""
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


def _networks(summary: dict[str, Any]) -> Table:
    table = Table(title="Networks", title_justify="left", title_style="bold")
    for column in ("", "network", "accuracy", "parameters", "MACs", "MB"):
        table.add_column(column, justify="left" if column in ("", "network") else "right")
    for role in ("teacher", "student"):
        network = summary[role]
        method = f" ({network['method']})" if "method" in network else ""
        table.add_row(
            role,
            f"{network['network']}{method}",
            _percent(network["accuracy"]),
            _format(network["parameters"], ",d"),
            _format(network["macs"], ",d"),
            _format(network["size_mb"], ".2f"),
        )
    lost = summary["drop_from_teacher"]
    table.caption = f"drop from teacher to student: {_percent(lost)}"
    return table


def _show_exports(console: Console, title: str, exports: dict[str, Any]) -> None:
    """In two tables: together they are wider than a terminal."""
    console.print(_exports(title, exports))
    console.print(_against_torch(f"{title} against torch", exports))


def _exports(title: str, exports: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("precision", "parity"):
        table.add_column(column, no_wrap=True)
    for column in ("accuracy", "MB", "p50 ms", "p90 ms", "x fp32"):
        table.add_column(column, justify="right")
    for precision, export in exports.items():
        table.add_row(
            precision,
            export["status"],
            _percent(export["accuracy"]),
            _format(export["size_mb"], ".2f"),
            _format(export["p50_ms"], ".3f"),
            _format(export["p90_ms"], ".3f") + (" *" if export["noisy"] else ""),
            _format(export["speedup"], ".2f"),
        )
    threads = sorted({export["threads"] for export in exports.values()})
    table.caption = f"latency of one image, threads: {', '.join(map(str, threads))}"
    table.caption += "; x fp32: the speed of onnxruntime's fp32 is 1"
    if any(export["noisy"] for export in exports.values()):
        table.caption += "; * the machine was noisy"
    return table


def _against_torch(title: str, exports: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("precision", no_wrap=True)
    for column in ("relative error", "same answer", "drop, points"):
        table.add_column(column, justify="right")
    for precision, export in exports.items():
        table.add_row(
            precision,
            _format(export["max_relative_error"], ".1e"),
            _percent(export["agreement"]),
            drop(export) or _NONE,
        )
    table.caption = "error on the golden batch; drop of accuracy with its 95 % interval"
    return table


def _verdicts(summary: dict[str, Any]) -> Iterator[str]:
    """How int8 was made, what is recommended, and what others beat in everything."""
    exports = summary["exports"]
    made = [f"{name} by {e['made_by']}" for name, e in exports.items() if e["made_by"]]
    if made:
        yield f"[bold]made[/]         {', '.join(made)}"
    choice = summary["recommended"]
    if choice:
        yield f"[bold]recommended[/]  {choice['precision']}, {escape(choice['reason'])}"
    else:
        yield "[bold]recommended[/]  none: no export has its accuracy, size and latency measured"
    for name, export in exports.items():
        if export["status"] == "failed":
            yield f"[bold]left out[/]     {name}: {escape(export.get('reason') or 'failed')}"
    beaten = [
        f"{n} by {', '.join(e['dominated_by'])}" for n, e in exports.items() if e["dominated_by"]
    ]
    if beaten:
        yield f"[bold]dominated[/]    {'; '.join(beaten)}"


def _devices(devices: dict[str, Any]) -> Table:
    table = Table(title="Devices", title_justify="left", title_style="bold")
    for column in ("device", "processor", "precision"):
        table.add_column(column)
    for column in ("threads", "p50 ms", "p90 ms"):
        table.add_column(column, justify="right")
    for url, device in devices.items():
        for number, (precision, row) in enumerate(device["exports"].items()):
            table.add_row(
                escape(url) if number == 0 else "",
                escape(device["cpu"] or _NONE) if number == 0 else "",
                precision if row["status"] == "passed" else f"{precision} ({row['status']})",
                str(row["threads"]),
                _format(row["p50_ms"], ".3f"),
                _format(row["p90_ms"], ".3f") + (" *" if row["noisy"] else ""),
            )
    table.caption = "latency of one image; * the machine was noisy"
    return table


def _percent(fraction: float | None) -> str:
    return _format(fraction, ".2%")


def _format(value: float | None, spec: str) -> str:
    return _NONE if value is None else format(value, spec)
