"""A way to a server that breaks off or falls silent after so many bytes, until it is mended."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class CutOff:
    """Passes connections on to a port of this machine.

    Attributes:
        port: where it listens.
        left: how many bytes may still go to the server; None for any number.
        cuts: how many connections it has closed, or let fall silent, before their end.
    """

    def __init__(self, target: int, left: int | None, silently: bool = False) -> None:
        self.left, self.cuts, self._target = left, 0, target
        self._closed = threading.Event()
        self._silently = silently
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self._closed.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for ends in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(16384):
                if counted and self.left is not None:
                    if len(content) > self.left:
                        self.cuts += 1
                        if self._silently:
                            self._closed.wait()
                        break
                    self.left -= len(content)
                sink.sendall(content)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def cut_off(target: int, left: int | None, silently: bool = False) -> Iterator[CutOff]:
    """As :class:`CutOff`, until the end of the block."""
    way = CutOff(target, left, silently)
    try:
        yield way
    finally:
        way.close()
