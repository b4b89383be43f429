"""A phone for tests: the stand-in of adb_device.py, with what Android's shell would answer.

The real client reaches it through a server of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.adb_device import AndroidDevice
from tests.sshd import free_port

needs_adb = pytest.mark.skipif(
    shutil.which("adb") is None, reason="adb is not installed; install the package adb"
)

PROPERTIES = """\
[ro.build.version.release]: [16]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 8]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor G3]
"""
# As Android 16 lists them: what apps were told last, then what the sensors say, then limits.
THERMAL = """\
IsStatusOverride: false
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=21.0, mType=3, mName=VIRTUAL-SKIN, mStatus=0}}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{{mValue=55.5, mType=0, mName=BIG, mStatus=0}}
\tTemperature{{mValue=27.3, mType=2, mName=battery, mStatus=0}}
\tTemperature{{mValue=31.04, mType=3, mName=VIRTUAL-SKIN, mStatus=0}}
\tTemperature{{mValue=0.0, mType=3, mName=absent, mStatus=0}}
Current cooling devices from HAL:
\tCoolingDevice{{mValue=0, mType=2, mName=thermal-cpufreq-0}}
Temperature static thresholds from HAL:
\tTemperatureThreshold{{mType=3, mName=VIRTUAL-SKIN, mHotThrottlingThresholds=[NaN, 39.0, 43.0]}}
"""
_PROGRAMS = {
    "getprop": 'if [ $# = 0 ]; then cat "$state/properties"; else\n'
    '  sed -n "s/^\\[$1\\]: \\[\\(.*\\)\\]$/\\1/p" "$state/properties"\nfi',
    "dumpsys": 'cat "$state/$1"',
    "cmd": 'if [ -e "$state/refused" ]; then cat "$state/refused" >&2; exit 255; fi\n'
    'echo "$*" >>"$state/cmd"',
    "am": 'printf %s "$5" >"$state/opening"\nmv "$state/opening" "$state/opened"\ncat "$state/am"',
}


class Phone(AndroidDevice):
    """A stand-in in a folder of its own.

    Attributes:
        state_folder: files that its programs read and write: ``thermalservice``, ``properties``,
            ``am`` (what that says), ``opened`` (the address it was given), ``cmd`` (all that it
            was told), and ``refused``: with it, that refuses.
    """

    def __init__(self, root: Path, state: str = "device") -> None:
        self.state_folder = root / "state"
        for folder in (root / "tmp", root / "programs", self.state_folder):
            folder.mkdir(parents=True)
        for name, text in _PROGRAMS.items():
            program = root / "programs" / name
            program.write_text(f"#!/bin/sh\nstate={self.state_folder}\n{text}\n")
            program.chmod(0o755)
        super().__init__(root / "tmp", root / "programs", state)
        self.say("properties", PROPERTIES)
        self.say("thermalservice", THERMAL.format(status=0))
        self.say("am", "Starting: Intent { act=android.intent.action.VIEW }\n")

    def say(self, name: str, text: str) -> None:
        (self.state_folder / name).write_text(text)

    @property
    def told(self) -> list[str]:
        """What `cmd` was told."""
        path = self.state_folder / "cmd"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def url(self) -> str:
        return f"adb://{self.serial}"

    def attach(self) -> None:
        """Make it known to adb."""
        subprocess.run(["adb", "connect", self.serial], capture_output=True, check=True)


@pytest.fixture
def adb_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server of this test alone, whose key is not the user's."""
    home = tmp_path / "adb-home"
    home.mkdir()
    # A port that was free may have been taken by the time that adb wants it.
    for _ in range(3):
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
        environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
        started = subprocess.run(
            ["adb", "start-server"], env=environment, capture_output=True, text=True, check=False
        )
        if started.returncode == 0:
            break
    assert started.returncode == 0, started.stderr
    yield
    subprocess.run(["adb", "kill-server"], capture_output=True, check=True)


@pytest.fixture
def phone(adb_server: None, tmp_path: Path) -> Iterator[Phone]:
    """One that is attached."""
    made = Phone(tmp_path / "phone")
    made.attach()
    yield made
    made.unplug()


@contextlib.contextmanager
def whoever_opens(phone: Phone, act: Callable[[str], None]) -> Iterator[None]:
    """Have ``act`` do what the phone's browser does with the address that it is given."""
    given_up = threading.Event()
    opened = phone.state_folder / "opened"

    def wait() -> None:
        while not given_up.wait(0.05):
            if opened.exists() and (address := opened.read_text()):
                try:
                    act(address)
                except OSError:  # nobody answers once the measurement has given up
                    if not given_up.wait(5):
                        raise
                return

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        given_up.set()
        thread.join()
