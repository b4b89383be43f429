"""Control an Android device through the system's adb client."""

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import InputError
from stages.devices.commands import Finished, last_line, run_program

# What adb prints when it has lost the device, as opposed to the output of a program there.
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
        """Run an adb command; raises InputError if the device is gone or too slow."""
        finished = run_program(["adb", "-s", self.serial, *arguments], self.url)
        # `adb push` reports a lost device on stdout.
        output = finished.err if arguments[0] == "shell" else finished.err + finished.out
        lost = _LOST.search(output) if finished.code else None
        if lost:
            raise InputError(
                f"{self.url}: the connection was lost (adb: {lost[1]}); check the cable and run"
                " again"
            )
        return finished

    def shell(self, *command: str) -> Finished:
        """Run a program on the device; the arguments reach it unchanged."""
        return self.run("shell", shlex.join(command))

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Copy files to the device; raises InputError if that fails, as when it is full."""
        finished = self.run("push", *map(str, files), f"{folder}/")
        if finished.code:
            why = last_line(finished.err or finished.out)
            raise InputError(f"{self.url}: could not copy the files to the device ({why})")

    @contextlib.contextmanager
    def reversed(self, port: int) -> Iterator[None]:
        """Forward a port of the device to here; raises InputError if it is in use there."""
        place = f"tcp:{port}"
        finished = self.run("reverse", "--no-rebind", place, place)
        if finished.code:
            why = last_line(finished.err)
            raise InputError(f"{self.url}: the device cannot use port {port} ({why}); run again")
        try:
            yield
        finally:
            # A failing cleanup must not hide the error that ended the block.
            with contextlib.suppress(InputError):
                self.run("reverse", "--remove", place)


def find(serial: str | None, url: str) -> Adb:
    """Return the device, the only one by default; raises InputError if it is not usable."""
    if shutil.which("adb") is None:
        raise InputError(
            f"{url}: adb is not installed here; install Android's platform tools, such as Debian's"
            " package adb"
        )
    chosen = [] if serial is None else ["-s", serial]
    found = run_program(["adb", *chosen, "get-state"], url)
    state = found.out.strip()
    if found.code or state != "device":
        why = " ".join(found.err.split()).removeprefix("error: ").rstrip(".")
        raise InputError(
            f"{url}: no usable device ({why or f'its state is {state}'}); attach an Android device"
            " with USB debugging enabled, unlock it and allow this machine; if `adb devices` lists"
            " several, choose one with adb://SERIAL"
        )
    return Adb(serial or run_program(["adb", "get-serialno"], url).out.strip())
