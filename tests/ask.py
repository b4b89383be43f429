"""Asks the server of :mod:`tests.warm_python` for a process; imports little, to start at once."""

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path


def ask(
    address: str, arguments: Sequence[str], files: Sequence[int], variables: Mapping[str, str]
) -> socket.socket:
    """Run Python with these arguments in the current folder.

    Args:
        address: the server's.
        arguments: ``-m MODULE`` or ``-c CODE``, and the program's own.
        files: its stdin, stdout and stderr.
        variables: its environment.

    Returns:
        A socket that tells the process id in a line, and the exit code in another, negative after a
        signal. The process is killed when this end is closed.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    socket.send_fds(connection, [b"."], files)
    asked = [str(Path.cwd()), dict(variables), list(arguments)]
    connection.sendall(json.dumps(asked).encode() + b"\n")
    return connection
