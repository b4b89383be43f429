"""``local:``: this machine."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.errors import InputError
from stages.devices.host import Host, Place
from stages.devices.programs import RUNNER, single_file
from stages.devices.urls import DeviceUrl
from stages.runtimes.exported import Exported


class LocalDevice(Host):
    """Measures the models in place; ``local:/folder`` is a folder to deploy bundles to."""

    def line(self, command: Sequence[str]) -> list[str]:
        return list(command)

    @contextlib.contextmanager
    def placed(self, exported: Exported) -> Iterator[Place]:
        if self.folder is not None:
            raise InputError(
                f"{self.url.text}: a folder is only for deploying bundles; measure on local:"
            )
        with tempfile.TemporaryDirectory() as temporary:
            runner = Path(temporary) / "runner.py"
            runner.write_bytes(single_file(RUNNER))
            yield Place(str(exported.folder.resolve()), str(runner))


def open_device(url: DeviceUrl) -> LocalDevice:
    # Relative to the user's home, as on other machines.
    folder = None if url.folder is None else str(Path.home() / url.folder)
    return LocalDevice(url, folder, sys.executable)
