"""Run a library in a separate process, so that a crash is just another result."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import ParamSpec, TypeVar

from stages.runtimes.base import RuntimeFailureError

P = ParamSpec("P")
T = TypeVar("T")

#: Conversions and engine builds take minutes; whatever takes longer hangs.
_TIMEOUT_SECONDS = 1800
# An error in TensorRT's log, without the time.
_LOGGED = re.compile(r"(\[TRT\] \[[EF]\] .*)")


def run_process(command: Sequence[str]) -> str:
    """Run a command and return its output.

    Raises:
        RuntimeFailureError: it failed; the message says how, with its last line of output and the
            first error that TensorRT logged.
    """
    try:
        process = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailureError(f"did not finish within {_TIMEOUT_SECONDS} s") from None
    if process.returncode == 0:
        return process.stdout
    if process.returncode < 0:
        how = f"crashed with {signal.Signals(-process.returncode).name}"
    else:
        how = f"ended with status {process.returncode}"
    # TensorRT logs to stdout.
    output = f"{process.stdout}\n{process.stderr}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    why = [line for line in lines[-1:] if not _LOGGED.search(line)] + _LOGGED.findall(output)[:1]
    raise RuntimeFailureError(f"{how}: {'; '.join(why)}" if why else how)


def run_apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process; raises RuntimeFailureError if that crashes."""
    with ProcessPoolExecutor(1, get_context("spawn"), _end_with_the_parent) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise RuntimeFailureError("its process crashed, or was killed for memory") from None


def _end_with_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # quietly, without a traceback
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
