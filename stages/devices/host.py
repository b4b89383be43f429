"""Devices with Python: copy models there, verify them and run them with ``runner.py``."""

import contextlib
import io
import secrets
import signal
import subprocess
import tarfile
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from models.errors import InputError
from stages.devices.base import Device, Measurement, Row, unmeasured
from stages.devices.commands import Finished, last_json, no_answer, run_program, timeout_s
from stages.devices.programs import AGENT, RUNNER, single_file
from stages.devices.urls import DeviceUrl
from stages.runtimes.exported import Exported
from stages.sections.export import Profile

_AGENT = single_file(AGENT)
# The agent reads its own source from stdin, then the data. An older Python cannot compile it.
_BOOT = (
    "import sys;sys.version_info>=(3,8) or sys.exit('error: Python %d.%d is too old, expected 3.8"
    " or newer; choose another with ?python=<program>'%sys.version_info[:2]);"
    "exec(compile(sys.stdin.buffer.read(int(sys.argv[1])),'agent','exec'))"
)


@dataclass(frozen=True)
class Place:
    """Where models and runner are on the device."""

    models: str
    runner: str
    token: str | None = None
    """The agent's name for the folder of models and manifest that was sent; None if the models were
    already there."""


class Host(Device):
    """A device with Python 3.8 or newer and a file system."""

    def __init__(self, url: DeviceUrl, folder: str | None, python: str) -> None:
        """Bundles are deployed to ``folder``; the URL's ``?python=`` replaces ``python``."""
        super().__init__(url)
        self.folder, self.python = folder, url.options.get("python", python)

    @abstractmethod
    def line(self, command: Sequence[str]) -> list[str]:
        """Return the local command that runs a command on the device, with English messages."""

    def require_connection(self, finished: Finished) -> None:
        """Raise InputError if the connection failed."""

    @contextlib.contextmanager
    @abstractmethod
    def placed(self, exported: Exported) -> Iterator[Place]:
        """Keep models and runner on the device until the block ends."""

    def run(self, command: Sequence[str], given: bytes = b"") -> Finished:
        """As :func:`run_program`, on the device; raises InputError if it is unreachable too."""
        try:
            finished = run_program(self.line(command), self.url.text, given)
        except (FileNotFoundError, PermissionError):
            return Finished(127, "", "")
        self.require_connection(finished)
        return finished

    @contextlib.contextmanager
    def received(self, files: Mapping[str, Path | bytes]) -> Iterator[Place]:
        """Send files and the runner; unless activated, they are removed when the block ends.

        The agent also removes them if this process dies, because then its stdin ends.
        """
        token, limit = new_token(), timeout_s()
        with subprocess.Popen(
            self.line(self._agent("receive", str(self.folder), token)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as agent:
            assert agent.stdin is not None
            assert agent.stdout is not None
            ending = threading.Timer(limit, agent.kill)
            ending.start()
            try:
                with contextlib.suppress(BrokenPipeError):  # the agent's output has the reason
                    agent.stdin.write(_AGENT)
                    _write_tar(agent.stdin, {**files, "runner.py": single_file(RUNNER)})
                    agent.stdin.flush()
                # A shell's greeting may precede the answer.
                answers = (last_json(line.decode(errors="replace")) for line in agent.stdout)
                answer = next(filter(None, answers), None)
                ending.cancel()
                if answer is None:
                    raise self._broken_off(agent, limit)
                folder = answer["folder"]
                yield Place(f"{folder}/bundle", f"{folder}/runner.py", token)
            finally:
                ending.cancel()
                with contextlib.suppress(OSError):
                    agent.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.wait(limit)
                agent.kill()

    def measure(self, exported: Exported, profile: Profile) -> Measurement:
        with self.placed(exported) as place:
            proven = [] if place.token is None else [place.models]
            description = self.ask_runner(place, "--describe", *proven)
            rows = [
                self._row(place, exported, precision, threads, profile)
                for precision, threads in self.settings(exported, profile)
            ]
        return Measurement(self.url.text, description, rows)

    def ask_runner(self, place: Place, *arguments: str) -> dict[str, Any]:
        """Return the JSON that ``runner.py`` prints; raises InputError with its reason if none."""
        finished = self._run_runner(place, *arguments)
        answer = last_json(finished.out)
        if answer is None:
            raise self._failure(finished)
        return answer

    def ask_agent(self, command: str, *arguments: str) -> dict[str, Any]:
        """Run ``agent.py`` on the device and return its answer."""
        finished = self.run(self._agent(command, *arguments), _AGENT)
        answer = last_json(finished.out)
        if finished.code or answer is None:
            raise self._failure(finished)
        return answer

    def _agent(self, *arguments: str) -> list[str]:
        """Return the command that starts an agent, which first reads its own source."""
        return [self.python, "-I", "-c", _BOOT, str(len(_AGENT)), *arguments]

    def _row(
        self, place: Place, exported: Exported, precision: str, threads: int, profile: Profile
    ) -> Row:
        """Measure in a fresh process; if it fails or crashes, the row states the reason."""
        entry = exported.entry(precision, "static")
        model, golden = f"{place.models}/{entry['path']}", f"{place.models}/{exported.golden.name}"
        finished = self._run_runner(place, *profile_arguments(model, golden, threads, profile))
        measured = last_json(finished.out) if finished.code == 0 else None
        return measured or unmeasured(entry, precision, threads, "onnxruntime", finished.reason)

    def _run_runner(self, place: Place, *arguments: str) -> Finished:
        command = [self.python, place.runner, *arguments]
        if "cpus" in self.url.options:
            command += ["--cpus", self.url.options["cpus"]]
        code, out, err = self.run(command)
        # Reports should not show the device's temporary folder.
        return Finished(code, out, err.replace(f"{place.models}/", ""))

    def _broken_off(self, agent: subprocess.Popen[bytes], limit: float) -> InputError:
        """Explain why an agent ended without an answer."""
        out, err = (text.decode(errors="replace") for text in agent.communicate())
        if agent.returncode == -signal.SIGKILL:
            return no_answer(self.url.text, limit)
        finished = Finished(agent.returncode, out, err)
        self.require_connection(finished)
        return self._failure(finished)

    def _failure(self, finished: Finished) -> InputError:
        reason = finished.reason
        if finished.code in (126, 127):  # from a shell or env
            reason = f"cannot run {self.python} there; choose another with ?python=<program>"
        return InputError(f"{self.url.text}: {reason}")


def profile_arguments(model: str, golden: str, threads: int, profile: Profile) -> list[str]:
    """Return the runner's arguments to time one model, with paths on the device."""
    arguments = ["--profile", "--model", model, "--golden", golden, "--threads", str(threads)]
    for option, value in profile.model_dump(exclude={"devices", "threads"}).items():
        arguments += [f"--{option.replace('_', '-')}", str(value)]
    return arguments


def new_token() -> str:
    """Return a unique name for a request."""
    return secrets.token_hex(4)


def _write_tar(target: IO[bytes], files: Mapping[str, Path | bytes]) -> None:
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, file in files.items():
            # Not gettarinfo, which would send owner and date.
            content = file if isinstance(file, bytes) else file.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
