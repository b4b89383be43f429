"""Start a module as a process, so that a crash inside a library is a result like any other."""

from __future__ import annotations

import signal
import subprocess
import sys

from stages.runtimes.base import RuntimeFailureError

#: A conversion takes minutes at most; what lasts longer hangs.
_TIMEOUT_SECONDS = 1800


def run_module(module: str, *arguments: str) -> str:
    """What ``python -m module`` printed.

    Raises:
        RuntimeFailureError: it did not end well; the message is how, and its last line.
    """
    try:
        process = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailureError(f"did not end within {_TIMEOUT_SECONDS} s") from None
    if process.returncode == 0:
        return process.stdout
    if process.returncode < 0:
        how = f"crashed with {signal.Signals(-process.returncode).name}"
    else:
        how = f"ended with status {process.returncode}"
    lines = [line.strip() for line in process.stderr.splitlines() if line.strip()]
    raise RuntimeFailureError(": ".join([how, *lines[-1:]]))
