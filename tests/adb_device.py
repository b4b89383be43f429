"""A stand-in for an Android device: it speaks ADB's protocol over TCP to the real client.

Its shell is this machine's, with a folder for /data/local/tmp; its loopback is 127.0.0.2, as
127.0.0.1 is the computer's. Source: protocol.txt, SYNC.TXT and SERVICES.TXT of Android's adb.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.2"
_FOLDER = "/data/local/tmp"
_BANNER = b"device::ro.product.name=standin;ro.product.model=Standin;features=shell_v2,cmd"
_MAX_DATA = 256 * 1024


def end(place: socket.socket) -> None:
    with place, contextlib.suppress(OSError):
        place.shutdown(socket.SHUT_RDWR)  # wakes those who wait at it


def start(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def listen(place: socket.socket, take: Callable[[socket.socket], None]) -> None:
    with contextlib.suppress(OSError):
        while True:
            start(take, place.accept()[0])


class Stream:
    def __init__(self, connection: Connection, local: int, remote: int = 0) -> None:
        self.connection, self.local, self.remote = connection, local, remote
        self.received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.ready = threading.Semaphore(1 if remote else 0)
        self._rest = b""

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), _MAX_DATA):
            self.ready.acquire()
            self.connection.send(b"WRTE", self.local, self.remote, data[at : at + _MAX_DATA])

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            if not (data := self.received.get()):
                raise EOFError
            self._rest += data
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


class Connection:
    def __init__(self, device: AndroidDevice, link: socket.socket) -> None:
        self.device, self.link = device, link
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lock, self._ids = threading.Lock(), itertools.count(1)
        self._streams: dict[int, Stream] = {}

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        name = int.from_bytes(command, "little")
        head = struct.pack("<6I", name, first, second, len(data), sum(data), name ^ 0xFFFFFFFF)
        with self._lock, contextlib.suppress(OSError):
            self.link.sendall(head + data)

    def serve(self) -> None:
        with contextlib.suppress(OSError, EOFError), self.link.makefile("rb") as source:
            while len(head := source.read(24)) == 24:
                number, first, second, size = struct.unpack("<4I", head[:16])
                self._take(number.to_bytes(4, "little"), first, second, source.read(size))

    def _take(self, command: bytes, first: int, second: int, data: bytes) -> None:
        found = self._streams.get(second)
        if command in (b"CNXN", b"AUTH"):
            if self.device.state == "unauthorized" and first != 3:  # a key for a person to trust
                self.send(b"AUTH", 1, 0, bytes(20))
            elif self.device.state == "device":
                self.send(b"CNXN", 0x01000001, _MAX_DATA, _BANNER)
        elif command == b"OPEN":
            stream = self.new_stream(first)
            self.send(b"OKAY", stream.local, first)
            start(self._offer, data.rstrip(b"\0").decode(), stream)
        elif found is not None and command == b"OKAY":
            found.remote = first
            found.ready.release()
        elif found is not None and command == b"WRTE":
            self.send(b"OKAY", second, first)
            found.received.put(data)
        elif found is not None and command == b"CLSE":
            found.received.put(b"")
            found.ready.release()
            del self._streams[second]

    def new_stream(self, remote: int = 0) -> Stream:
        stream = Stream(self, next(self._ids), remote)
        self._streams[stream.local] = stream
        return stream

    def _offer(self, service: str, stream: Stream) -> None:
        kind, _, what = service.partition(":")
        services = {"shell": self._shell, "sync": self._sync, "reverse": self._reverse}
        with contextlib.suppress(EOFError):
            services[kind.split(",")[0]](what, stream)
        self._close(stream)

    def _close(self, stream: Stream) -> None:
        stream.ready.acquire()
        self.send(b"CLSE", stream.local, stream.remote)

    def _shell(self, command: str, stream: Stream) -> None:
        done = subprocess.run(
            ["sh", "-c", command.replace(_FOLDER, str(self.device.folder))],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "PATH": f"{self.device.programs}:{os.environ['PATH']}"},
        )
        code = abs(done.returncode) + 128 * (done.returncode < 0)
        for kind, data in ((1, done.stdout), (2, done.stderr), (3, bytes([code]))):
            if data:
                stream.write(struct.pack("<BI", kind, len(data)) + data)

    def _sync(self, _: str, stream: Stream) -> None:
        while True:
            kind, size = struct.unpack("<4sI", stream.read(8))
            name = stream.read(size).decode() if kind in (b"STAT", b"SEND") else ""
            path = Path(name.replace(_FOLDER, str(self.device.folder)))
            if kind == b"STAT":
                mode = path.stat().st_mode if path.exists() else 0
                stream.write(struct.pack("<4s3I", b"STAT", mode, 0, 0))
            elif kind == b"SEND":
                path = Path(str(path).rpartition(",")[0])
                content = b""
                while (head := struct.unpack("<4sI", stream.read(8)))[0] == b"DATA":
                    content += stream.read(head[1])
                path.write_bytes(content)
                stream.write(struct.pack("<4sI", b"OKAY", 0))
            else:
                return

    def _reverse(self, what: str, stream: Stream) -> None:
        action, _, rest = what.partition(":")
        here, _, there = rest.removeprefix("norebind:").partition(";")
        port = int(here.removeprefix("tcp:"))
        try:
            if action == "forward":
                self.device.forwards[port] = socket.create_server((LOOPBACK, port))
                start(listen, self.device.forwards[port], partial(self._carry, there))
            else:
                end(self.device.forwards.pop(port))
            stream.write(b"OKAY")
        except (OSError, KeyError) as error:
            stream.write(b"FAIL%04x%s" % (len(str(error)), str(error).encode()))

    def _carry(self, there: str, client: socket.socket) -> None:
        self.device.carried += 1
        stream = self.new_stream()
        self.send(b"OPEN", stream.local, 0, there.encode() + b"\0")

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := stream.received.get():
                    client.sendall(data)
                end(client)

        start(back)
        with contextlib.suppress(OSError), client:
            while data := client.recv(64 * 1024):
                stream.write(data)
            self._close(stream)


class AndroidDevice:
    """A device that listens, or is ``unauthorized``; its shell looks in ``programs`` first."""

    def __init__(self, folder: Path, programs: Path, state: str = "device") -> None:
        self.folder, self.programs, self.state = folder, programs, state
        self.forwards: dict[int, socket.socket] = {}
        self.carried = 0  # connections through them
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.serial = f"127.0.0.1:{self._sockets[0].getsockname()[1]}"
        start(listen, self._sockets[0], self._serve)

    def _serve(self, link: socket.socket) -> None:
        self._sockets.append(link)
        Connection(self, link).serve()

    def unplug(self) -> None:
        for place in (*self._sockets, *self.forwards.values()):
            end(place)
