"""``ackd probe``: the page at work, for a person at a terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.errors import InputError
from pipeline.devices.measure import keep
from stages.bundle.opening import open_bundle
from stages.devices.base import Measurement
from stages.devices.browser import web_runtime
from stages.devices.browser.probe import Probe, Reach, probing
from stages.devices.browser.runs import Report
from stages.sections.export import Profile

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def install(console: Console, packed: Path | None) -> None:
    """Fetch onnxruntime-web, or take it from a file."""
    if packed is None and not web_runtime.installed():
        console.print(f"fetching {web_runtime.PACKAGE} {web_runtime.VERSION} (33 MB)")
    if packed is not None or not web_runtime.installed():
        web_runtime.install(packed)
    where = web_runtime.require()
    console.print(
        f"{web_runtime.PACKAGE} {web_runtime.VERSION} is in {where}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def run(
    console: Console,
    bundle: Path,
    profile: Profile,
    reach: Reach,
    name: str | None,
    key: Ed25519PublicKey | None,
) -> None:
    """Serve the page, and keep and show what each browser measures, until Ctrl-C.

    Args:
        bundle: the file or the folder.
        key: whose signature the bundle must bear.
        name: of the device; None makes one of what its browser tells.

    Raises:
        InputError: the bundle, onnxruntime-web or the network is missing, or ``name`` is no name.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise InputError(
            f"--name is {name!r}, expected letters, digits, dots and dashes, such as pixel-8"
        )
    with open_bundle(bundle, key) as opened, probing(opened.exported, profile, reach) as probe:
        try:
            _invite(console, probe, reach)
            while True:
                report = probe.wait()
                if report is not None:
                    path = keep(measurement(report, name))
                    console.print()
                    console.print(table(report))
                    console.print(f"[bold]kept[/]  {path}", highlight=False)
        except KeyboardInterrupt:
            # Rich would print again what it had just printed when it was interrupted.
            typer.echo("stopped")


def measurement(report: Report, name: str | None) -> Measurement:
    """A report as other devices give it; the device is called ``browser:<name>``."""
    measured = Measurement(f"browser:{name or report.name}", report.description)
    for row in report.rows:
        measured.add(row)
    return measured


def table(report: Report) -> Table:
    """The rows for a terminal."""
    browser = report.browser
    who = browser.model or report.description["system"]
    made = Table(title=escape(f"{who}: {report.name}"), title_justify="left", title_style="bold")
    for column in ("precision", "provider", "threads"):
        made.add_column(column, no_wrap=True)
    for column in ("p50 ms", "p90 ms", "runs", "relative error", "same answer"):
        made.add_column(column, justify="right")
    made.add_column("result")
    for row in report.rows:
        golden = row["golden"] or {}
        result = row["status"] if row["reason"] is None else f"{row['status']}: {row['reason']}"
        made.add_row(
            row["precision"],
            row["provider"],
            str(row["threads"]),
            _format(row["p50_ms"], ".3f"),
            _format(row["p90_ms"], ".3f") + (" *" if row["noisy"] else ""),
            _format(row["n"], "d"),
            _format(golden.get("max_relative_error"), ".1e"),
            _format(golden.get("top1_agreement"), ".2%"),
            escape(result),
        )
    notes = ["latency of one image"]
    if any(row["noisy"] for row in report.rows):
        notes.append("* the device was noisy")
    if not browser.isolated:
        notes.append(f"not isolated: one thread, a clock with steps of {browser.timer_ms:g} ms")
    made.caption = "; ".join(notes)
    return made


def _invite(console: Console, probe: Probe, reach: Reach) -> None:
    if reach.lan:
        console.print("Open this page on a device in the same network:\n")
        if console.is_terminal:
            console.file.write(qr_code(probe.address) + "\n")
    else:
        port = probe.address.split(":")[2].partition("/")[0]
        console.print(
            "Open this page on this machine, or on a phone with a cable after"
            f" `adb reverse tcp:{port} tcp:{port}`; --lan opens it to the network:\n",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"  {probe.address}\n", highlight=False, markup=False, soft_wrap=True)
    if probe.fingerprint is not None:
        console.print(
            "The browser will warn that it does not know the certificate, made for this run. Its"
            f" SHA-256 is\n  {probe.fingerprint}\n",
            highlight=False,
            soft_wrap=True,
        )
    elif reach.lan:
        console.print(
            "Without --https browsers give it one thread, a coarse clock and no GPU, and others in"
            " the network can read along.\n",
            soft_wrap=True,
        )
    console.print("Ctrl-C ends it.")


def qr_code(address: str) -> str:
    """A QR code of half blocks, white on black whatever the terminal's own colours are."""
    import segno

    drawn = io.StringIO()
    segno.make(address, micro=False, error="l").terminal(drawn, compact=True, border=2)
    return "\n".join(f"\033[97;40m{line}\033[0m" for line in drawn.getvalue().splitlines())


def _format(value: Any, spec: str) -> str:
    return "-" if value is None else format(value, spec)
