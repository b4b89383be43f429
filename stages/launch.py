"""Train in several processes on one host: ``ACKD_PROCESSES=2 dvc repro``.

``torchrun`` and ``accelerate launch`` work as well, and are needed for several hosts; this launcher
reports a failure in one sentence.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from models.errors import InputError
from stages.entry import LAUNCHER, run_stage
from stages.params import Params
from stages.preflight import check_training

_VARIABLE = "ACKD_PROCESSES"
_GRACE_SECONDS = 5.0
_TAIL = 2000


def run_training_stage(stage: Callable[[Params], None], name: str) -> None:
    """As :func:`stages.entry.run_stage`, in ``ACKD_PROCESSES`` processes.

    ``name`` is the stage's module, for example ``stages.distill``.
    """
    count = 1 if "RANK" in os.environ else _wanted_processes()

    def checked(params: Params) -> None:
        if LAUNCHER not in os.environ:  # which has checked them
            check_training(params, int(os.environ.get("WORLD_SIZE", count)))
        if count == 1:
            stage(params)
        else:
            _launch(name, count)

    run_stage(checked)


def _wanted_processes() -> int:
    text = os.environ.get(_VARIABLE, "1")
    if not text.isdigit() or int(text) < 1:
        sys.exit(f"error: {_VARIABLE} is {text!r}, expected a number of processes, at least 1")
    return int(text)


def _launch(name: str, count: int) -> None:
    """Run the workers; if one fails, stop the others and report which."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared[LAUNCHER] = str(os.getpid())
    with contextlib.ExitStack() as logs:
        workers, files = [], []
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
            # Only the first worker prints; the others' output is shown only if they fail.
            files.append(logs.enter_context(tempfile.TemporaryFile()) if rank else None)
            command, env = [sys.executable, "-m", name], {**os.environ, **shared, **own}
            workers.append(
                subprocess.Popen(command, env=env, stdout=files[rank], stderr=files[rank])
            )
        try:
            failed = _wait(workers)
        finally:
            _stop(workers)
        if failed is None:
            return
        if log := files[failed]:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-_TAIL:])
    code = workers[failed].returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    raise InputError(
        f"process {failed} of {count} {how}, and the others were stopped; run again to resume from"
        " the last checkpoint"
    )


def _wait(workers: list[subprocess.Popen[bytes]]) -> int | None:
    """Return the index of the first worker that fails; None once all have succeeded."""
    while True:
        codes = [worker.poll() for worker in workers]
        for rank, code in enumerate(codes):
            if code:
                return rank
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.1)


def _stop(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    end = time.monotonic() + _GRACE_SECONDS
    for worker in workers:
        try:
            worker.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
