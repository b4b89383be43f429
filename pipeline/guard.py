"""Stops processes: on request, or when the process that started them is gone, however it ended.

A run starts this file once as a process of its own and writes to its stdin what to watch. The pipe
closes when the run ends, even by ``kill -9``; whatever is still being watched is stopped then. It
covers whole process groups on any POSIX system, where Linux's parent-death signal would reach
dvc alone and leave the training that dvc started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

GRACE_S = 5.0
PATIENCE_S = 30.0
"""How long a guarded command may take to end its own children before it is stopped itself."""


def _send(target: int, signal_number: int) -> bool:
    try:
        os.kill(target, signal_number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def stop(targets: Iterable[int], grace_s: float = GRACE_S) -> None:
    """Interrupt, then terminate, then kill, until none is left.

    Args:
        targets: as for ``kill(2)``: a process, or a process group as its negative number.
        grace_s: seconds to wait after each of the first two signals.
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


class Guard:
    """The guarding process, seen from the run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin

    def watch(self, target: int) -> None:
        self._write(f"+ {target}\n")

    def release(self, target: int) -> None:
        self._write(f"- {target}\n")

    def close(self) -> None:
        """End the guard; it stops what has not been released."""
        with self._lock:
            self._pipe.close()
        self._process.wait()

    def _write(self, line: str) -> None:
        with self._lock:
            if not self._pipe.closed:
                self._pipe.write(line)
                self._pipe.flush()


def run_guarded(
    command: Sequence[str], env: Mapping[str, str], *, with_children: bool = False
) -> int:
    """Run a command as a process group of its own, and end with nothing of the group left.

    A signal to stop is passed on as an interrupt to the command alone, so that it, and not the
    terminal, decides in which order its own children end.

    Args:
        command: program and arguments.
        env: its whole environment.
        with_children: whether a signal to stop terminates the command's children as well, because
            it would wait for them.

    Returns:
        The command's exit status; 128 plus the signal's number if one ended it or was passed on.
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

    # Handlers come first: a child would inherit that a shell in the background ignores SIGINT.
    forwarded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, pass_on) for number in forwarded}
    guard = Guard()
    try:
        child = subprocess.Popen(command, env=env, start_new_session=True)
        running.append(child.pid)
        guard.watch(-child.pid)
        code = child.wait()
    finally:
        guard.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        return 128 + received[0]
    return 128 - code if code < 0 else code


def _children(process: int) -> list[int]:
    # The guarding process runs this file too, without any package.
    import psutil

    try:
        return [child.pid for child in psutil.Process(process).children()]
    except psutil.NoSuchProcess:
        return []


def _main() -> None:
    # The run's own end is what counts, not the signals that lead to it.
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    watched: set[int] = set()
    for line in sys.stdin:
        sign, target = line.split()
        (watched.add if sign == "+" else watched.discard)(int(target))
    stop(sorted(watched))


if __name__ == "__main__":
    _main()
