"""``local:``: this machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from models.errors import InputError
from stages.devices.base import Opening
from stages.devices.host import RUNNER, Finished, Host, Place, run_program
from stages.devices.urls import DeviceUrl


class LocalDevice(Host):
    """Measures where the models lie; ``local:/folder`` is where bundles are deployed to."""

    def __init__(self, url: DeviceUrl, opening: Opening) -> None:
        super().__init__(url, opening)
        # Relative to the home of who is logged in, as on other machines.
        self.folder = None if url.folder is None else str(Path.home() / url.folder)

    @property
    def python(self) -> str:
        return self.url.options.get("python", sys.executable)

    def run(self, command: Sequence[str], given: BinaryIO | None = None) -> Finished:
        try:
            return run_program(command, self.url.text, given)
        except (FileNotFoundError, PermissionError):
            return Finished(127, "", "")

    @contextlib.contextmanager
    def placed(self, models: Path) -> Iterator[Place]:
        if self.folder is not None:
            raise InputError(
                f"{self.url.text}: a folder is where bundles are deployed to; measure on local:"
            )
        yield Place(str(models.resolve()), str(RUNNER))


def open_device(url: DeviceUrl, opening: Opening) -> LocalDevice:
    """Raises InputError where something is allowed that has no meaning here."""
    if opening.send_wheels:
        raise InputError(
            f"--send-wheels is for devices that are reached by ssh, not for {url.text}; install"
            " numpy and onnxruntime here"
        )
    return LocalDevice(url, opening)
