"""Drives headless Chromium through its DevTools protocol."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.once import keep_running, once
from tests.waiting import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_SOFTWARE_GPU = (
    *("enable-unsafe-webgpu", "enable-features=Vulkan", "use-webgpu-adapter=swiftshader"),
    "use-vulkan=swiftshader",
)
_FLAGS = (
    *("headless", "no-sandbox", "disable-quic", "no-first-run", "disable-component-update"),
    *("disable-background-networking", "disable-sync", "hide-scrollbars"),
    "remote-debugging-port=0",
    # A name for loopback that browsers do not trust.
    *("host-resolver-rules=MAP phone.test 127.0.0.1", "ignore-certificate-errors"),
)


class Target:
    """The browser, or a tab."""

    def __init__(self, socket: Connection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        #: A page's console messages and errors.
        self.complaints: list[str] = []

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result

    def _note(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(given["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded":
            self.complaints.append(given["entry"]["text"])
        elif message.get("method") == "Runtime.consoleAPICalled":
            self.complaints.append(str([part.get("value") for part in given["args"]]))


class Page(Target):
    def __init__(self, socket: Connection) -> None:
        super().__init__(socket)
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.send(f"{domain}.enable")

    def open(self, address: str) -> None:
        said = self.send("Page.navigate", url=address)
        assert "errorText" not in said, said["errorText"]
        self.wait_for("location.protocol != 'about:' && document.readyState == 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of ``expression``, awaited."""
        result = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """Return the value of ``expression`` as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                shown = self.evaluate("document.body.innerText")
                raise AssertionError(f"never true: {expression}\n{shown}\n{self.complaints}")
            time.sleep(0.05)
        return value

    def choose_file(self, selector: str, path: Path) -> None:
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def look(self, path: Path, width: int, *, dark: bool = False, phone: bool = False) -> None:
        """Take a screenshot of the whole page, ``width`` pixels wide."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": phone}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        size["height"] = max(800, self.evaluate("document.documentElement.scrollHeight"))
        self.send("Emulation.setDeviceMetricsOverride", **size)
        time.sleep(0.5)  # transitions
        shot = self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def opened_page(*, gpu: bool = False) -> Iterator[Page]:
    """Open a tab with a profile of its own, which is closed after the block.

    Args:
        gpu: with WebGPU, computed in software: correct answers, meaningless times.
    """
    flags = (*_FLAGS, *_SOFTWARE_GPU) if gpu else _FLAGS
    folder = once("chromium-gpu" if gpu else "chromium", lambda folder: _start(folder, flags))
    port, path = (folder / "profile/DevToolsActivePort").read_text().splitlines()[:2]
    with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as browser_socket:
        browser = Target(browser_socket)
        profile = browser.send("Target.createBrowserContext")
        tab = browser.send("Target.createTarget", url="about:blank", **profile)
        page = f"ws://127.0.0.1:{port}/devtools/page/{tab['targetId']}"
        try:
            with connect(page, max_size=None, proxy=None) as socket:
                yield Page(socket)
        finally:
            browser.send("Target.disposeBrowserContext", **profile)


def _start(folder: Path, flags: tuple[str, ...]) -> None:
    assert CHROMIUM is not None
    command = [CHROMIUM, *(f"--{flag}" for flag in flags)]
    command += [f"--user-data-dir={folder / 'profile'}", "about:blank"]
    keep_running(command, folder / "log", os.environ)
    place = folder / "profile/DevToolsActivePort"
    log = f"Chromium ({folder}/log)"
    wait_until(lambda: place.is_file() and place.read_text().count("\n"), log, 30)
