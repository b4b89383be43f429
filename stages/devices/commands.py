"""Run the local programs that reach a device, and parse their output."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

from models.errors import InputError, printable

_TIMEOUT = "ACKD_DEVICE_TIMEOUT"


class Finished(NamedTuple):
    """The status and output of a command that ended."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """Return the signal that ended it, and the last line of stderr, or else the status."""
        line = last_line(self.err).removeprefix("error: ")
        with contextlib.suppress(ValueError):  # not the number of a signal
            # On another machine, a shell adds 128.
            ended = signal.Signals(-self.code if self.code < 0 else self.code - 128).name
            return f"the process was ended by {ended}{f': {line}' if line else ''}"
        return line or f"the process ended with status {self.code}"


def run_program(command: Sequence[str], device: str, given: bytes = b"") -> Finished:
    """Run a local program to its end.

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
        raise no_answer(device, limit) from None
    out, err = (text.decode(errors="replace") for text in (finished.stdout, finished.stderr))
    return Finished(finished.returncode, out, err)


def timeout_s() -> float:
    """Return ``ACKD_DEVICE_TIMEOUT`` in seconds; raises InputError if it is not positive."""
    text = os.environ.get(_TIMEOUT) or "1800"
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise InputError(f"{_TIMEOUT} is {text!r}, expected a number above 0; correct or unset it")


def no_answer(device: str, limit: float) -> InputError:
    return InputError(f"{device}: no answer within {limit:g} s; {_TIMEOUT} sets how long to wait")


def last_json(text: str) -> dict[str, Any] | None:
    """Parse the object in the last line, with printable strings; ignore a greeting before it."""
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


def last_line(text: str) -> str:
    """Return the last line of a program's output, printable and without a full stop."""
    lines = text.strip().splitlines()
    return printable(lines[-1].strip().rstrip(".")) if lines else ""
