"""The probe: a page that measures a bundle in whatever browser opens it."""

from __future__ import annotations

import contextlib
import queue
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from models.errors import InputError
from stages.devices.browser import network, web_runtime
from stages.devices.browser.app import create_app
from stages.devices.browser.runs import Report, Runs
from stages.devices.browser.server import serving
from stages.devices.runner import RunnerError
from stages.params import Profile

BUNDLE = Path("artifacts/bundle")
#: A page that finds this behind its address measures without being asked.
START = "#measure"


@dataclass(frozen=True)
class Reach:
    """From where the page can be opened, and how.

    Attributes:
        lan: from other devices of this network; else from this machine alone.
        https: encrypted, with a certificate that a person accepts once.
        port: 0 takes a free one.
    """

    lan: bool = False
    https: bool = False
    port: int = 0


@dataclass(frozen=True)
class Probe:
    """A page that is being served.

    Attributes:
        address: where it is; the path is a secret of this run.
        fingerprint: SHA-256 of the certificate; None without HTTPS.
    """

    address: str
    fingerprint: str | None
    runs: Runs

    def wait(self, seconds: float | None = None) -> Report | None:
        """The next report; None where none comes in time."""
        try:
            return self.runs.reports.get(timeout=seconds)
        except queue.Empty:
            return None


@contextlib.contextmanager
def probing(bundle: Path, profile: Profile, reach: Reach) -> Iterator[Probe]:
    """Serve the page until the block ends.

    Args:
        bundle: a folder as :func:`stages.bundle.manifest.open_bundle` gives it.

    Raises:
        InputError: onnxruntime-web is not installed, a file is damaged, there is no network, or
            the port is taken.
    """
    runtime = web_runtime.require()
    try:
        runs = Runs(bundle, profile)
    except RunnerError as error:
        raise InputError(str(error)) from None
    host = network.lan_address() if reach.lan else network.LOOPBACK
    certificate = network.self_signed(host) if reach.https else None
    token = secrets.token_urlsafe(16)
    listener = network.listen(host, reach.port)
    port = listener.getsockname()[1]
    scheme = "http" if certificate is None else "https"
    with serving(
        create_app(token, runs, runtime),
        listener,
        None if certificate is None else certificate.context,
    ):
        yield Probe(
            f"{scheme}://{host}:{port}/{token}/",
            None if certificate is None else certificate.fingerprint,
            runs,
        )


def measure(
    bundle: Path,
    profile: Profile,
    present: Callable[[str], None],
    *,
    reach: Reach | None = None,
    seconds: float | None = None,
) -> Report:
    """What the first browser that opens the page measures.

    Args:
        bundle: a folder as :func:`stages.bundle.manifest.open_bundle` gives it.
        present: is given the address, which starts to measure when it is opened; it brings it to
            the device, or shows it to a person.
        seconds: how long to wait.

    Raises:
        InputError: as :func:`probing`, or no browser finished in time.
    """
    with probing(bundle, profile, reach or Reach()) as probe:
        present(probe.address + START)
        report = probe.wait(seconds)
    if report is None:
        raise InputError(
            f"no browser has measured within {seconds:g} s; open the address there and keep the"
            " page in front"
        )
    return report
