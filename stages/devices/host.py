"""Devices that run Python: files are brought there, proven there, and run there by runner.py."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import signal
import subprocess
import tarfile
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from models.errors import InputError, printable
from stages.devices.base import Device, Measurement, Opening, Row, failed_row
from stages.devices.programs import AGENT, RUNNER, single_file
from stages.devices.urls import DeviceUrl
from stages.devices.wheels import install_for
from stages.progress import track
from stages.runtimes.exported import Exported
from stages.sections.export import Profile

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
        sent: whether the models were brought there, and their manifest with them.
    """

    models: str
    runner: str
    environment: tuple[str, ...] = ()
    sent: bool = True


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
    def line(self, command: Sequence[str]) -> list[str]:
        """What this machine runs, in English, to have a command run there."""

    def require_connection(self, finished: Finished) -> None:
        """Raises InputError where it was the connection that ended."""

    @contextlib.contextmanager
    @abstractmethod
    def placed(self, exported: Exported) -> Iterator[Place]:
        """Models and runner on the device, for as long as this lasts."""

    def run(self, command: Sequence[str], given: bytes = b"") -> Finished:
        """Run a command there to its end.

        Args:
            command: program and arguments, as they are: no shell changes them.
            given: its stdin.

        Raises:
            InputError: the device is not reached, or does not end within :func:`timeout_s`.
        """
        try:
            finished = run_program(self.line(command), self.url.text, given)
        except (FileNotFoundError, PermissionError):
            return Finished(127, "", "")
        self.require_connection(finished)
        return finished

    @contextlib.contextmanager
    def received(self, files: Mapping[str, Path | bytes]) -> Iterator[Received]:
        """Send files, the runner and, where the user wants it, what the runner needs.

        The folder there is removed afterwards, unless the agent has activated it.
        """
        base, token = str(self.folder), new_token()
        sent: dict[str, Path | bytes] = {**files, "runner.py": single_file(RUNNER)}
        with contextlib.ExitStack() as stack:
            if self.opening.send_wheels:
                site = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                install_for(self.ask_agent("describe", base), site, self.url.text)
                sent |= files_below(site, "site")
            folder = stack.enter_context(self._held(sent, base, token))
            path = (f"PYTHONPATH={folder}/site",) if self.opening.send_wheels else ()
            yield Received(Place(f"{folder}/bundle", f"{folder}/runner.py", path), token)

    @contextlib.contextmanager
    def _held(self, files: Mapping[str, Path | bytes], base: str, token: str) -> Iterator[str]:
        """Have the agent receive files into a folder, and keep that until this ends.

        Should this process die, the agent removes it as well: its stdin has ended.
        """
        source, limit = single_file(AGENT), timeout_s()
        with subprocess.Popen(
            self.line([self.python, "-I", "-c", _BOOT, str(len(source)), "receive", base, token]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as agent:
            assert agent.stdin is not None
            assert agent.stdout is not None
            ending = threading.Timer(limit, agent.kill)
            ending.start()
            try:
                with contextlib.suppress(BrokenPipeError):  # it says why
                    agent.stdin.write(source)
                    _write_tar(agent.stdin, files)
                    agent.stdin.flush()
                # A shell's greeting may come before it.
                answers = (last_json(line.decode(errors="replace")) for line in agent.stdout)
                answer = next(filter(None, answers), None)
                ending.cancel()
                if answer is None:
                    raise self._broken_off(agent, limit)
                yield answer["folder"]
            finally:
                ending.cancel()
                with contextlib.suppress(OSError):
                    agent.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.wait(limit)
                agent.kill()

    def measure(self, exported: Exported, profile: Profile) -> Measurement:
        with self.placed(exported) as place:
            measurement = Measurement(
                self.url.text,
                self.told(place, "--describe", *([place.models] if place.sent else [])),
            )
            pairs = [
                (precision, threads)
                for precision in exported.precisions
                for threads in self.url.threads or profile.threads
            ]
            for precision, threads in track(pairs, f"profile {self.url.text}"):
                measurement.add(self._row(place, exported, precision, threads, profile))
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

    def ask_agent(self, command: str, *arguments: str) -> dict[str, Any]:
        """The answer of ``agent.py``, run on the device."""
        source = single_file(AGENT)
        boot = [self.python, "-I", "-c", _BOOT, str(len(source)), command, *arguments]
        finished = self.run(boot, source)
        answer = last_json(finished.out)
        if finished.code or answer is None:
            raise InputError(f"{self.url.text}: {self._said(finished)}")
        return answer

    def _row(
        self,
        place: Place,
        exported: Exported,
        precision: str,
        threads: int,
        profile: Profile,
    ) -> Row:
        """A runner in a fresh process; one that fails or crashes gives a row with its reason."""
        model = f"{place.models}/{exported.file(precision, 'static').name}"
        golden = f"{place.models}/{exported.golden.name}"
        arguments = profile_arguments(model, golden, threads, profile)
        finished = self._run_runner(place, *arguments)
        measured = last_json(finished.out) if finished.code == 0 else None
        if measured is not None:
            return measured
        return failed_row(exported, precision, threads, "onnxruntime", self._said(finished))

    def _run_runner(self, place: Place, *arguments: str) -> Finished:
        command = [*(("env", *place.environment) if place.environment else ())]
        command += [self.python, place.runner, *arguments]
        if "cpus" in self.url.options:
            command += ["--cpus", self.url.options["cpus"]]
        code, out, err = self.run(command)
        # A folder of the device is of no interest to who reads the report.
        return Finished(code, out, err.replace(f"{place.models}/", ""))

    def _broken_off(self, agent: subprocess.Popen[bytes], limit: float) -> InputError:
        """Why an agent has ended without an answer."""
        out, err = (said.decode(errors="replace") for said in agent.communicate())
        if agent.returncode == -signal.SIGKILL:
            return InputError(_no_answer(self.url.text, limit))
        finished = Finished(agent.returncode, out, err)
        self.require_connection(finished)
        return InputError(f"{self.url.text}: {self._said(finished)}")

    def _said(self, finished: Finished) -> str:
        """Why there is no answer, from the last line of stderr."""
        lines = finished.err.strip().splitlines()
        if finished.code in (126, 127):  # of a shell, and of env
            return f"{self.python} does not run there; name another one by ?python=<program>"
        if lines:
            return printable(lines[-1].removeprefix("error: "))
        return f"the process ended with status {finished.code}"


def profile_arguments(model: str, golden: str, threads: int, profile: Profile) -> list[str]:
    """What a runner is told to time one model; the paths are the device's."""
    arguments = ["--profile", "--model", model, "--golden", golden, "--threads", str(threads)]
    for option in ("warmup_runs", "warmup_seconds", "min_runs", "min_seconds", "max_runs"):
        arguments += [f"--{option.replace('_', '-')}", str(getattr(profile, option))]
    return arguments


def run_program(command: Sequence[str], device: str, given: bytes = b"") -> Finished:
    """A program of this machine, run to its end.

    Args:
        command: program and arguments.
        device: the URL of the device that it is for.
        given: its stdin.

    Raises:
        FileNotFoundError, PermissionError: there is no such program.
        InputError: it does not end within :func:`timeout_s`.
    """
    limit = timeout_s()
    try:
        finished = subprocess.run(
            command, input=given, capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(_no_answer(device, limit)) from None
    out, err = (said.decode(errors="replace") for said in (finished.stdout, finished.stderr))
    return Finished(finished.returncode, out, err)


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
    """The object in the last line, its texts printable; a shell's greeting may come before it."""
    lines = text.strip().splitlines()
    with contextlib.suppress(ValueError, RecursionError, IndexError):
        found = _printable(json.loads(lines[-1]))
        return found if isinstance(found, dict) else None
    return None


def _printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {printable(key): _printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value


def last_line(said: str) -> str:
    """What a program said last, printable, without a full stop; empty where it said nothing."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return printable(lines[-1].rstrip(".")) if lines else ""


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


def _no_answer(device: str, limit: float) -> str:
    return f"{device}: no answer within {limit:g} s; ACKD_DEVICE_TIMEOUT sets how long to wait"


def _write_tar(target: IO[bytes], files: Mapping[str, Path | bytes]) -> None:
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, file in files.items():
            # Not gettarinfo: whose the file is here, and when it was made, is no matter there.
            content = file if isinstance(file, bytes) else file.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
