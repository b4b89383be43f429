"""Starts processes that cannot outlive the process that started them, even after ``kill -9``.

This file is the main program of each: it runs a module as ``python -m`` does, in its own process
group, and stops the whole group when the pipe to its starter breaks. Linux's parent-death signal
would only reach dvc and leave the training that dvc started.
"""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

GRACE_S = 5.0
PATIENCE_S = 30.0  # how long a command may take to stop its children before it is stopped


def start(module: str, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
    """Start ``python -m module`` as a process group that ends with this process.

    Close its pipe ``stdin`` only after it has ended; ``options`` are those of ``Popen``.
    """
    return subprocess.Popen(
        [sys.executable, __file__, module, *arguments],
        stdin=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def stop(targets: Iterable[int], grace_s: float = GRACE_S) -> None:
    """Interrupt, then terminate, then kill processes until none is left.

    ``targets`` are those of ``kill(2)``: a process, or a process group as its negative number.
    """
    left = list(targets)
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        left = [target for target in left if _send(target, signal_number)]
        end = time.monotonic() + grace_s
        while left and time.monotonic() < end:
            time.sleep(0.02)
            left = [target for target in left if _send(target, 0)]
        if not left:
            return


def run_guarded(
    module: str, *arguments: str, env: Mapping[str, str], with_children: bool = False
) -> int:
    """Run ``python -m module``, and leave nothing of its process group behind.

    Stop signals are passed on as an interrupt to the module alone, so it decides in which order its
    children end. ``with_children`` also terminates the children, for a module that would wait for
    them.

    Returns:
        Its exit status, or 128 plus the number of the signal that ended it or was passed on.
    """
    received: list[int] = []
    running: list[int] = []

    def pass_on(signal_number: int, _frame: object) -> None:
        received.append(signal_number)
        for process in running:
            if len(received) == 1:
                too_long = threading.Timer(PATIENCE_S, stop, [[-process]])
                too_long.daemon = True
                too_long.start()
            _send(process, signal.SIGINT)
            for child in _children(process) if with_children else ():
                _send(child, signal.SIGTERM)

    # Set handlers first, because a child inherits that background shells ignore SIGINT.
    with on_stop_signals(pass_on):
        child = start(module, *arguments, env=env)
        running.append(child.pid)
        code = child.wait()
        with child:  # closes the pipe
            stop([-child.pid])
    if received:
        return 128 + received[0]
    return 128 - code if code < 0 else code


@contextlib.contextmanager
def on_stop_signals(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Handle the signals that stop a command; SIGHUP stays ignored under ``nohup``."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _send(target: int, signal_number: int) -> bool:
    try:
        os.kill(target, signal_number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _children(process: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(process).children()]
    except psutil.NoSuchProcess:
        return []


def _stop_without(starter: int) -> None:
    """Stop this process group when the pipe from its starter closes."""
    os.read(starter, 1)
    stop([-os.getpgrp()])


def _main() -> None:
    starter, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    threading.Thread(target=_stop_without, args=[starter], daemon=True).start()
    # Ignore SIGTERM, which would end dvc with its locks still on disk. It ends the command that dvc
    # runs, and dvc then releases its locks.
    signal.signal(signal.SIGTERM, lambda *_: None)
    sys.path[0] = str(Path.cwd())
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
