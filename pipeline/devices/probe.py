"""``ackd probe``: serves a page that measures in a browser, until Ctrl-C."""

import io
import re
import sys
from pathlib import Path

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.errors import InputError
from pipeline.bundles import open_bundle
from pipeline.devices import measure
from pipeline.rich_tables import print_table, wide_console
from stages.devices.base import Measurement
from stages.devices.browser import web_runtime
from stages.devices.browser.probe import Probe, Reach, probing
from stages.devices.browser.runs import Report
from stages.sections.export import Profile

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def install(packed: Path | None) -> None:
    """Install onnxruntime-web from npm, or from a file."""
    wanted = f"{web_runtime.PACKAGE} {web_runtime.VERSION}"
    if packed is not None or not web_runtime.installed():
        if packed is None:
            typer.echo(f"fetching {wanted} (33 MB)")
        web_runtime.install(packed)
    typer.echo(f"{wanted} is in {web_runtime.require()}")


def run(
    bundle: Path, profile: Profile, reach: Reach, name: str | None, key: Ed25519PublicKey | None
) -> None:
    """Serve the page, and keep and show what each browser measures, until Ctrl-C.

    Without a ``name``, the device is named after its browser and model.

    Raises:
        InputError: the bundle, onnxruntime-web or the network is missing, or ``name`` is invalid.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise InputError(
            f"--name is {name!r}, expected letters, digits, dots and dashes, such as pixel-8"
        )
    with open_bundle(bundle, key) as opened, probing(opened.exported, profile, reach) as probe:
        try:
            typer.echo(_invitation(probe, reach))
            while True:
                if report := probe.wait():
                    measured = measurement(report, name)
                    path = measure.keep(measured)
                    typer.echo()
                    print_table(wide_console(), measure.results(measured))
                    typer.echo(f"kept  {path}")
        except KeyboardInterrupt:
            typer.echo("stopped")


def measurement(report: Report, name: str | None) -> Measurement:
    """Convert a browser's report to a measurement of the device ``browser:<name>``."""
    return Measurement(f"browser:{name or report.name}", report.description, report.rows)


def _invitation(probe: Probe, reach: Reach) -> str:
    parts = ["Open this page on a device in the same network:"]
    if not reach.lan:
        parts = [
            "Open this page on this machine, or on a phone with a cable after"
            f" `adb reverse tcp:{probe.port} tcp:{probe.port}`. --lan opens it to the network:"
        ]
    elif sys.stdout.isatty():
        parts.append(qr_code(probe.address))
    parts.append(f"  {probe.address}")
    if probe.fingerprint is not None:
        parts.append(
            "The browser will warn about the certificate, which was created for this run. Its"
            f" SHA-256 is\n  {probe.fingerprint}"
        )
    elif reach.lan:
        parts.append(
            "Without --https, browsers limit the page to one thread, a coarse clock and no GPU, and"
            " others in the network can read the traffic."
        )
    return "\n\n".join([*parts, "Press Ctrl-C to stop."])


def qr_code(address: str) -> str:
    """Draw a QR code of half blocks, white on black regardless of the terminal's colours."""
    import segno

    drawn = io.StringIO()
    segno.make(address, micro=False, error="l").terminal(drawn, compact=True, border=2)
    return "\n".join(f"\033[97;40m{line}\033[0m" for line in drawn.getvalue().splitlines())
