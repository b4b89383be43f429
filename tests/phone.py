"""A fake phone: an ``adb`` that runs the device's commands on this machine.

It accepts the calls of :mod:`stages.devices.adb_client`, and fails like adb 1.0.41.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROPERTIES = """\
[ro.build.version.release]: [16]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 8]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor G3]
"""
# Listed like on Android 16: cached readings, then current ones, then limits.
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
#: {phones} has a folder for each phone, named by its serial number.
_ADB = """\
#!{python} -IS
import os, shutil, subprocess, sys
from pathlib import Path

serial, (command, *given) = None, sys.argv[1:]
if command == "-s":
    serial, command, *given = given
attached = [path for path in Path({phones!r}).iterdir() if (path / "attached").exists()]
chosen = [path for path in attached if serial in (None, path.name)]
prefix = "adb" if command == "shell" else "error"
if len(chosen) != 1:
    what = f"device '{{serial}}' not found" if serial else "no devices/emulators found"
    sys.exit(f"{{prefix}}: " + ("more than one device/emulator" if chosen else what))
phone = chosen[0]
state = (phone / "attached").read_text()
if state != "device":
    sys.exit(f"error: device {{state}}. \\nTry 'adb kill-server' if that seems wrong.")
if command == "get-state":
    print(state)
elif command == "get-serialno":
    print(phone.name)
elif command == "push":
    *files, folder = (arg.replace("/data/local/tmp", str(phone / "tmp")) for arg in given)
    for file in files:
        shutil.copyfile(file, Path(folder, Path(file).name))
elif command == "reverse":
    with (phone / "state/reverse").open("a") as log:
        print(*given, file=log)
else:
    path = f"{{phone}}/programs:{{os.environ['PATH']}}"
    line = given[0].replace("/data/local/tmp", str(phone / "tmp"))
    environment = {{**os.environ, "PATH": path}}
    done = subprocess.run(["sh", "-c", line], env=environment, stdin=subprocess.DEVNULL)
    sys.exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)
"""
_PROGRAMS = {
    "getprop": 'if [ $# = 0 ]; then cat "$state/properties"; else\n'
    '  sed -n "s/^\\[$1\\]: \\[\\(.*\\)\\]$/\\1/p" "$state/properties"\nfi',
    "dumpsys": 'cat "$state/$1"',
    "cmd": 'if [ -e "$state/refused" ]; then cat "$state/refused" >&2; exit 255; fi\n'
    'echo "$*" >>"$state/cmd"',
    "am": 'printf %s "$5" >"$state/opening"\nmv "$state/opening" "$state/opened"\ncat "$state/am"',
}


class Phone:
    """A device with this machine's shell, and a folder for /data/local/tmp.

    Attributes:
        state_folder: files that its programs read and write: ``thermalservice``, ``properties``,
            ``am`` (its output), ``opened`` (the address that it was given), ``cmd`` and ``reverse``
            (all calls), and ``refused``, with which ``cmd`` fails.
    """

    def __init__(self, phones: Path, serial: str = "R58M30ABC") -> None:
        self.serial, self.url = serial, f"adb://{serial}"
        self._root = phones / serial
        self.folder, self.state_folder = self._root / "tmp", self._root / "state"
        for folder in (self.folder, self._root / "programs", self.state_folder):
            folder.mkdir(parents=True)
        for name, text in _PROGRAMS.items():
            program = self._root / "programs" / name
            program.write_text(f"#!/bin/sh\nstate={self.state_folder}\n{text}\n")
            program.chmod(0o755)
        self.put("properties", PROPERTIES)
        self.put("thermalservice", THERMAL.format(status=0))
        self.put("am", "Starting: Intent { act=android.intent.action.VIEW }\n")

    def put(self, name: str, text: str) -> None:
        (self.state_folder / name).write_text(text)

    def calls(self, program: str) -> list[str]:
        """Return the arguments of each call of ``cmd`` or ``reverse``."""
        path = self.state_folder / program
        return path.read_text().splitlines() if path.exists() else []

    def attach(self, state: str = "device") -> None:
        """Connect the phone to adb, optionally as ``unauthorized`` or ``offline``."""
        (self._root / "attached").write_text(state)

    def unplug(self) -> None:
        (self._root / "attached").unlink()


@pytest.fixture
def phones(tmp_path, monkeypatch):
    """The folder of all phones, of which adb lists the attached ones."""
    folder, programs = tmp_path / "phones", tmp_path / "adb"
    for path in (folder, programs):
        path.mkdir()
    (programs / "adb").write_text(_ADB.format(python=sys.executable, phones=str(folder)))
    (programs / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def phone(phones):
    """An attached phone."""
    made = Phone(phones)
    made.attach()
    return made


@contextlib.contextmanager
def whoever_opens(phone: Phone, act: Callable[[str], None]) -> Iterator[None]:
    """Run ``act`` in place of the phone's browser when it receives an address."""
    given_up = threading.Event()
    opened = phone.state_folder / "opened"

    def wait() -> None:
        while not given_up.wait(0.05):
            if opened.exists() and (address := opened.read_text()):
                try:
                    act(address)
                except OSError:  # the measurement may have given up
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
