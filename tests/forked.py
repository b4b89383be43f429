"""Runs functions and stages in processes of their own, forked by :mod:`tests.warm_python`.

Each can be killed, and has its own environment and output.
"""

import contextlib
import os
import pickle
import select
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from tests.ask import ask
from tests.warm_python import run_module, warm_server


class Child:
    """A running process.

    Attributes:
        pid: its id.
        output: its stdout and stderr, line by line.
        exitcode: set when it has ended, negative after a signal.
    """

    exitcode: int | None = None

    def __init__(self, connection: socket.socket, output: TextIO) -> None:
        self.output = output
        self._connection = connection
        self._answers = connection.makefile()
        self.pid = int(self._answers.readline())

    def is_running(self) -> bool:
        return not select.select([self._connection], [], [], 0)[0]

    def finish(self) -> str:
        """Wait for its end and return the rest of its output."""
        rest = self.output.read()
        self.exitcode = int(self._answers.readline())
        return rest


@contextlib.contextmanager
def forked(function: Callable[..., object], *arguments: Any, **variables: str) -> Iterator[Child]:
    """Run ``function(*arguments)`` in the current folder, and kill it after the block.

    Args:
        function: a module's function; pickling requires the same of its arguments.
        variables: environment variables to add.
    """
    reader, writer = os.pipe()
    call = ["-m", "tests.forked", pickle.dumps((function, arguments)).hex()]
    with Path(os.devnull).open() as nothing, os.fdopen(reader, encoding="utf-8") as output:
        files = [nothing.fileno(), writer, writer]
        connection = ask(str(warm_server() / "socket"), call, files, os.environ | variables)
        os.close(writer)
        with connection:
            child = Child(connection, output)
            try:
                yield child
            finally:
                connection.shutdown(socket.SHUT_WR)  # kills it
                connection.makefile().read()  # waits for its end


def run_stage(name: str, **variables: str) -> tuple[int | None, str]:
    """Run ``python -m stages.NAME`` in the current folder; return its exit code and output."""
    with forked(run_module, f"stages.{name}", **variables) as child:
        printed = child.finish()
        return child.exitcode, printed


if __name__ == "__main__":
    _function, _arguments = pickle.loads(bytes.fromhex(sys.argv[1]))
    _function(*_arguments)
