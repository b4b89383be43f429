"""A contender as its measurer sees it: a process that computes when asked, and waits otherwise."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.worker import Measured, Task
from models.errors import InputError

_ROOT = Path(__file__).parents[1]
_GRACE_SECONDS = 10.0


class Contender:
    """One contender in a process and a folder of its own; a context manager.

    GPUs are hidden from it: it is the processor that is compared.

    Args:
        name: for messages.
        task: what it trains.
        folder: an empty one, its current folder; its log lies there.
        compiled: the folder of compiled code, which contenders may share; at first an empty one, or
            what was compiled before would be found again, and its compilation seem free.
        python: the interpreter; this one by default.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        folder: Path,
        compiled: Path,
        python: str = sys.executable,
    ) -> None:
        self.name, self.log = name, folder / "log.txt"
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "CUDA_VISIBLE_DEVICES": "",
            "TORCHINDUCTOR_CACHE_DIR": str(compiled),
        }
        command = [python, "-m", "benchmarks.worker", json.dumps(dataclasses.asdict(task))]
        try:
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        except OSError as error:
            raise InputError(
                f"{python}: not to be started ({error.strerror}); give the path of a Python"
                f" interpreter that has what {name} needs"
            ) from None

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let it end, which it does when there are no more requests."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if kind is not None:
            self.process.terminate()
        with contextlib.suppress(BrokenPipeError):  # it has ended before
            self.process.stdin.close()
        try:
            self.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def warm_up(self) -> Measured:
        """Wait until it is ready: ``step_seconds``, and ``warm_up_seconds`` beyond as many steps.

        Raises:
            InputError: it ended, with the last line of its log.
        """
        return self._reply()

    def run(self, steps: int, profile: bool = False) -> Measured:
        """Let it take so many steps: ``amount``, ``seconds``, ``waited_seconds`` and so on.

        Raises:
            InputError: as :meth:`warm_up`.
        """
        assert self.process.stdin is not None
        request = json.dumps({"steps": steps, "profile": profile})
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its log says why
            print(request, file=self.process.stdin, flush=True)
        return self._reply()

    def _reply(self) -> Measured:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = said[-1] if said else "nothing was said"
            raise InputError(f"{self.name} ended: {last}")
        reply: dict[str, Any] = json.loads(line)
        return reply
