"""Devices that run Python: files are brought there, proven there, and run there by runner.py."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import subprocess
import tarfile
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from models.errors import InputError
from stages.devices.base import Device, Measurement, Opening, Row, failed_row
from stages.devices.urls import DeviceUrl
from stages.devices.wheels import install_for
from stages.progress import track
from stages.sections.export import Profile

RUNNER = Path(__file__).parent / "runner.py"
AGENT = Path(__file__).parent / "agent.py"

_TIMEOUT = "ACKD_DEVICE_TIMEOUT"
_DEFAULT_TIMEOUT_S = 1800.0
# Its source comes first on stdin, and then what it is to receive.
_BOOT = "import sys;exec(compile(sys.stdin.buffer.read(int(sys.argv[1])),'agent','exec'))"


class Finished(NamedTuple):
    """A command that ended: its status and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """Where models and runner lie on the device.

    Attributes:
        environment: for the command line, such as ``PYTHONPATH=...``.
    """

    models: str
    runner: str
    environment: tuple[str, ...] = ()


@dataclass(frozen=True)
class Received:
    """Files that lie on the device, in a folder of their own.

    Attributes:
        token: what the agent knows the folder by.
    """

    place: Place
    token: str


class Host(Device):
    """A device with Python 3.8 or newer and a file system.

    Attributes:
        folder: where bundles are deployed to; None where the URL says none and none is usual.
    """

    folder: str | None

    def __init__(self, url: DeviceUrl, opening: Opening) -> None:
        super().__init__(url)
        self.opening = opening

    @property
    @abstractmethod
    def python(self) -> str:
        """The interpreter there, a name or a path."""

    @abstractmethod
    def run(self, command: Sequence[str], given: BinaryIO | None = None) -> Finished:
        """Run a command there to its end.

        Args:
            command: program and arguments, as they are: no shell changes them.
            given: an open file for its stdin.

        Raises:
            InputError: the device is not reached, or does not end within :func:`timeout_s`.
        """

    @contextlib.contextmanager
    @abstractmethod
    def placed(self, models: Path) -> Iterator[Place]:
        """Models and runner on the device, for as long as this lasts."""

    @contextlib.contextmanager
    def received(self, files: Mapping[str, Path]) -> Iterator[Received]:
        """Send files, the runner and, where the user wants it, what the runner needs.

        The folder there is removed afterwards, unless the agent has activated it.
        """
        base, token = str(self.folder), new_token()
        sent = {**files, "runner.py": RUNNER}
        with contextlib.ExitStack() as stack:
            if self.opening.send_wheels:
                site = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                install_for(self.ask_agent("describe", base), site, self.url.text)
                sent |= files_below(site, "site")
            try:
                folder = self.ask_agent("receive", base, token, files=sent)["folder"]
                path = (f"PYTHONPATH={folder}/site",) if self.opening.send_wheels else ()
                place = Place(f"{folder}/bundle", f"{folder}/runner.py", path)
                yield Received(place, token)
            finally:
                # What ended the work is what the user should read, not that this failed too.
                with contextlib.suppress(InputError):
                    self.ask_agent("remove", base, token)

    def measure(
        self, models: Path, description: Mapping[str, Any], profile: Profile
    ) -> Measurement:
        with self.placed(models) as place:
            told = self.told(place, "--describe", place.models)
            measurement = Measurement(self.url.text, told)
            pairs = [
                (precision, threads)
                for precision in description["files"]
                for threads in self.url.threads or profile.threads
            ]
            for precision, threads in track(pairs, f"profile {self.url.text}"):
                measurement.add(self._row(place, description, precision, threads, profile))
        return measurement

    def told(self, place: Place, *arguments: str) -> dict[str, Any]:
        """The line of JSON that the runner prints.

        Raises:
            InputError: it printed none; the message is what it said instead.
        """
        finished = self._run_runner(place, *arguments)
        answer = last_json(finished.out)
        if answer is None:
            raise InputError(f"{self.url.text}: {self._said(finished)}")
        return answer

    def ask_agent(
        self, command: str, *arguments: str, files: Mapping[str, Path] | None = None
    ) -> dict[str, Any]:
        """The answer of ``agent.py``, run on the device.

        Args:
            command: of the agent.
            arguments: its arguments.
            files: to send, by their names in the folder that receives them.
        """
        source = AGENT.read_bytes()
        with tempfile.TemporaryFile() as given:
            given.write(source)
            if files is not None:
                _write_tar(given, files)
            given.seek(0)
            boot = [self.python, "-I", "-c", _BOOT, str(len(source)), command, *arguments]
            finished = self.run(boot, given)
        answer = last_json(finished.out)
        if finished.code or answer is None:
            raise InputError(f"{self.url.text}: {self._said(finished)}")
        return answer

    def _row(
        self,
        place: Place,
        description: Mapping[str, Any],
        precision: str,
        threads: int,
        profile: Profile,
    ) -> Row:
        """A runner in a fresh process; one that fails or crashes gives a row with its reason."""
        model = f"{place.models}/{description['files'][precision]['static']['path']}"
        golden = f"{place.models}/{description['golden']['path']}"
        arguments = profile_arguments(model, golden, threads, profile)
        finished = self._run_runner(place, *arguments)
        measured = last_json(finished.out) if finished.code == 0 else None
        if measured is not None:
            return measured
        return failed_row(description, precision, threads, "onnxruntime", self._said(finished))

    def _run_runner(self, place: Place, *arguments: str) -> Finished:
        command = [*(("env", *place.environment) if place.environment else ())]
        command += [self.python, place.runner, *arguments]
        if "cpus" in self.url.options:
            command += ["--cpus", self.url.options["cpus"]]
        return self.run(command)

    def _said(self, finished: Finished) -> str:
        """Why there is no answer, from the last line of stderr."""
        lines = finished.err.strip().splitlines()
        if finished.code in (126, 127):  # of a shell, and of env
            return f"{self.python} does not run there; name another one by ?python=<program>"
        if lines:
            return lines[-1].removeprefix("error: ")
        return f"the process ended with status {finished.code}"


def profile_arguments(model: str, golden: str, threads: int, profile: Profile) -> list[str]:
    """What a runner is told to time one model; the paths are the device's."""
    arguments = ["--profile", "--model", model, "--golden", golden, "--threads", str(threads)]
    for option in ("warmup_runs", "warmup_seconds", "min_runs", "min_seconds", "max_runs"):
        arguments += [f"--{option.replace('_', '-')}", str(getattr(profile, option))]
    return arguments


def run_program(
    command: Sequence[str],
    device: str,
    given: BinaryIO | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """A program of this machine, run to its end.

    Args:
        command: program and arguments.
        device: the URL of the device that it is for.
        given: an open file for its stdin.
        environment: besides this process's own.

    Raises:
        FileNotFoundError, PermissionError: there is no such program.
        InputError: it does not end within :func:`timeout_s`.
    """
    limit = timeout_s()
    try:
        finished = subprocess.run(
            command,
            stdin=given if given is not None else subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{device}: no answer within {limit:g} s; ACKD_DEVICE_TIMEOUT sets how long to wait"
        ) from None
    return Finished(finished.returncode, finished.stdout, finished.stderr)


def timeout_s() -> float:
    """Seconds that one command on a device may take.

    Raises:
        InputError: ``ACKD_DEVICE_TIMEOUT`` is no positive number.
    """
    text = os.environ.get(_TIMEOUT) or str(_DEFAULT_TIMEOUT_S)
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise InputError(f"{_TIMEOUT} is {text!r}, expected seconds above 0; correct or unset it")


def last_json(text: str) -> dict[str, Any] | None:
    """The object in the last line; a shell's greeting may come before it."""
    lines = text.strip().splitlines()
    with contextlib.suppress(ValueError, IndexError):
        found = json.loads(lines[-1])
        return found if isinstance(found, dict) else None
    return None


def last_line(said: str) -> str:
    """What a program said last, without a full stop; empty where it said nothing."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""


def files_below(folder: Path, under: str) -> dict[str, Path]:
    """All files of a folder, named ``<under>/<path>``."""
    return {
        f"{under}/{path.relative_to(folder).as_posix()}": path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def new_token() -> str:
    """A name that no other request has."""
    return secrets.token_hex(4)


def _write_tar(target: BinaryIO, files: Mapping[str, Path]) -> None:
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, path in files.items():
            # Not gettarinfo: whose the file is here, and when it was made, is no matter there.
            content = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
