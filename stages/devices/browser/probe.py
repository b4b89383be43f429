"""The probe: a page that measures a bundle in any browser that opens it."""

import contextlib
import queue
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from stages.devices.browser import network, web_runtime
from stages.devices.browser.app import HEADERS, create_app
from stages.devices.browser.runs import Report, Runs
from stages.devices.browser.server import serving
from stages.runtimes.exported import Exported
from stages.sections.export import Profile

#: Appended to the address, makes the page measure at once.
START = "#measure"


@dataclass(frozen=True)
class Reach:
    """Where the page can be opened, and how."""

    lan: bool = False  # from other devices in this network, not only from this machine
    https: bool = False  # encrypted, with a certificate that a person must accept
    port: int = 0  # 0 takes a free one


@dataclass(frozen=True)
class Probe:
    """A page that is being served."""

    address: str  # of the page; the path is secret
    port: int
    fingerprint: str | None  # SHA-256 of the certificate; None without HTTPS
    runs: Runs

    def wait(self, seconds: float | None = None) -> Report | None:
        """Wait for the next report; None if none comes in time."""
        try:
            return self.runs.reports.get(timeout=seconds)
        except queue.Empty:
            return None


@contextlib.contextmanager
def probing(exported: Exported, profile: Profile, reach: Reach) -> Iterator[Probe]:
    """Serve the page until the block ends.

    Raises:
        InputError: onnxruntime-web is not installed, a file is damaged, there is no network, or
            the port is taken.
    """
    runtime = web_runtime.require()
    runs = Runs(exported, profile)
    host = network.lan_address() if reach.lan else network.LOOPBACK
    context, fingerprint = network.self_signed(host) if reach.https else (None, None)
    token = secrets.token_urlsafe(16)
    listener = network.listen(host, reach.port)
    port = listener.getsockname()[1]
    scheme = "https" if reach.https else "http"
    with serving(create_app(token, runs, runtime), HEADERS, listener, context):
        yield Probe(f"{scheme}://{host}:{port}/{token}/", port, fingerprint, runs)
