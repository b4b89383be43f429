"""Forks processes from one that has imported torch and stages, so that they start at once.

Each can be killed, and has its own environment and output; imports are paid for only once.
"""

import contextlib
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["accelerate", "stages.distill"])


class Child(NamedTuple):
    """A running process.

    Attributes:
        process: the process, with ``kill`` and ``exitcode``.
        output: its stdout and stderr, line by line.
    """

    process: Any
    output: TextIO

    def finish(self) -> str:
        """Wait for its end and return the rest of its output."""
        rest = self.output.read()
        self.process.join()
        return rest


@contextlib.contextmanager
def forked(function: Callable[..., object], *arguments: Any, **variables: str) -> Iterator[Child]:
    """Run ``function(*arguments)`` in the current folder, and kill it after the block.

    Args:
        function: a module's function; pickling requires the same of its arguments.
        variables: environment variables to add.
    """
    reader, writer = FORKS.Pipe(duplex=False)
    given = (Path.cwd(), {**os.environ, **variables}, writer, function, arguments)
    process = FORKS.Process(target=_call, args=given)
    process.start()
    writer.close()
    with os.fdopen(os.dup(reader.fileno()), encoding="utf-8") as output:
        reader.close()
        try:
            yield Child(process, output)
        finally:
            process.kill()
            process.join()


def _call(
    folder: Path,
    environment: dict[str, str],
    writer: Any,
    function: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    for stream in (1, 2):
        os.dup2(writer.fileno(), stream)
    writer.close()
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def run_module(name: str, *arguments: str) -> None:
    """Run a module like ``python -m NAME``."""
    sys.modules.pop(name, None)
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_stage(name: str, **variables: str) -> tuple[int, str]:
    """Run ``python -m stages.NAME`` in the current folder; return its exit code and output."""
    with forked(run_module, f"stages.{name}", **variables) as child:
        printed = child.finish()
        return child.process.exitcode, printed
