"""The system's adb client: finds an Android device, and runs one command after the other there."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import InputError
from stages.devices.host import Finished, last_line, run_program

#: What each state of a device that cannot be used is called, and what to do.
_STATES = {
    "unauthorized": "does not trust this machine yet; unlock it and allow USB debugging in the"
    " dialog that it shows",
    "authorizing": "is asked for its trust just now; unlock it, allow USB debugging and run again",
    "offline": "is offline; take its cable out and in again, or restart it",
    "connecting": "is being connected just now; run again",
}
# The client's own words where the device is gone, and not those of a program there.
_LOST = re.compile(
    r"^(?:adb|error): (?:error: )?(?:failed to get feature set: )?"
    r"(device .*(?:not found|offline|unauthorized)|no devices|closed|protocol fault"
    r"|cannot connect to daemon)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Adb:
    """A device that adb reaches by its serial number."""

    serial: str

    @property
    def url(self) -> str:
        return f"adb://{self.serial}"

    def run(self, *arguments: str) -> Finished:
        """One command of the client.

        Raises:
            InputError: the device is gone, or does not answer in time.
        """
        finished = run_program(["adb", "-s", self.serial, *arguments], self.url)
        # What `adb push` finds at its start it says on stdout.
        said = finished.err if arguments[0] == "shell" else finished.err + finished.out
        lost = _LOST.search(said) if finished.code else None
        if lost:
            raise InputError(
                f"{self.url}: the connection was lost (adb says: {lost[1]}); see that the cable"
                " holds, and run again"
            )
        return finished

    def shell(self, *command: str) -> Finished:
        """A program of the device and its arguments, as they are."""
        return self.run("shell", shlex.join(command))

    def require_attached(self) -> None:
        """Raises InputError where the device is gone; it is not asked, only adb's server is."""
        state = self.run("get-state").out.strip()
        if state != "device":
            raise InputError(f"{self.url}: {_unusable(state)}")

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Copy files into a folder there.

        Raises:
            InputError: they could not be copied, as where its memory is full.
        """
        finished = self.run("push", *map(str, files), f"{folder}/")
        if finished.code:
            said = last_line(finished.err or finished.out)
            raise InputError(f"{self.url}: nothing could be copied there ({said})")

    @contextlib.contextmanager
    def reversed(self, port: int) -> Iterator[None]:
        """Have the device reach a port of this machine as its own, for as long as this lasts.

        Raises:
            InputError: the port is taken there.
        """
        place = f"tcp:{port}"
        finished = self.run("reverse", "--no-rebind", place, place)
        if finished.code:
            said = last_line(finished.err)
            raise InputError(f"{self.url}: port {port} cannot be used there ({said}); run again")
        try:
            yield
        finally:
            # What ended the work is what the user should read, not that this failed too.
            with contextlib.suppress(InputError):
                self.run("reverse", "--remove", place)


def find(serial: str | None, url: str) -> Adb:
    """The device with this serial number, or the only one.

    Raises:
        InputError: adb is missing, the device is not attached or not usable, or there are several.
    """
    listed = attached(url)
    if serial is None and len(listed) > 1:
        choice = " or ".join(f"adb://{name}" for name in listed)
        raise InputError(f"{url}: {len(listed)} devices are attached; name one of them: {choice}")
    if serial is None and not listed:
        raise InputError(
            f"{url}: no device is attached; connect one by cable, with USB debugging switched on in"
            " its developer options"
        )
    if serial is None:
        (serial,) = listed
    if serial not in listed:
        others = f"; attached are {', '.join(listed)}" if listed else ""
        raise InputError(f"{url}: no device with this serial number is attached{others}")
    if listed[serial] != "device":
        raise InputError(f"{url}: {serial} {_unusable(listed[serial])}")
    return Adb(serial)


def attached(url: str) -> Mapping[str, str]:
    """The state of each device that adb sees, by serial number.

    Args:
        url: what is to be found, for messages.

    Raises:
        InputError: adb is missing or does not run.
    """
    if shutil.which("adb") is None:
        raise InputError(
            f"{url}: adb is not installed here; install Android's platform tools, such as Debian's"
            " package adb"
        )
    finished = run_program(["adb", "devices"], url)
    if finished.code:
        raise InputError(f"{url}: adb does not run here ({last_line(finished.err)})")
    lines = (line.partition("\t") for line in finished.out.splitlines())
    return {serial: state.strip() for serial, tab, state in lines if tab}


def _unusable(state: str) -> str:
    if state.startswith("no permissions"):
        return (
            "may not be used by this user; add udev rules for it, such as those of Debian's package"
            " android-sdk-platform-tools-common"
        )
    return _STATES.get(state) or f"is in the state {state!r}; start Android there, and run again"
