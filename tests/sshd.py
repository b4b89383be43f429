"""Runs sshd on loopback with its own keys, and a client that only knows these."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import wait_until

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None,
    reason="no sshd or no ssh here; install openssh-server and openssh-client",
)


@dataclass
class Sshd:
    """A running server.

    Attributes:
        folder: of its keys and of the client's files.
        process: the server's process; each connection has its own processes.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint that ssh-keygen prints on the device for the key's file."""
        key = self.folder / "host_key.pub"
        told = subprocess.run(
            ["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True
        )
        return told.stdout.split()[1]

    def url(self, folder: Path | str, query: str = "") -> str:
        user = getpass.getuser()
        return f"ssh://{user}@127.0.0.1:{self.port}{folder}?python={sys.executable}{query}"

    def trust(self) -> None:
        """Let the client know the server's key, as after a first connection."""
        key = (self.folder / "host_key.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {' '.join(key)}\n")


def make_key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path, port: int | None = None, home: Path | None = None) -> Iterator[Sshd]:
    """Run a server with the keys in ``folder``, which are created if missing.

    Args:
        folder: of its keys and of the client's files.
        port: by default a free one.
        home: home folder of sessions, with the accepted keys and this Python as ``python3``; by
            default the user's own.
    """
    assert SSHD is not None
    port = port or free_port()
    for name in ("host_key", "user_key"):
        if not (folder / name).exists():
            make_key(folder / name)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    also = "" if home is None else f" {home}/.ssh/authorized_keys"
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys{also}\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        "MaxStartups 100\nSubsystem sftp internal-sftp\n"
    )
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )
    if home is not None:
        programs = Path(sys.executable).parent
        session = folder / "session"
        session.write_text(
            f'#!/bin/sh\nexport HOME="{home}" PATH="{programs}:$PATH"\ncd\n'
            'exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        session.chmod(0o755)
        with (folder / "sshd_config").open("a") as config:
            config.write(f"ForceCommand {session}\n")
    if os.getuid() == 0:  # sshd drops its privileges in it
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    wait_until(lambda: not _listens(port), "the end of the server that was stopped", 20)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log
        )
    try:
        wait_until(lambda: _listens(port) or process.poll() is not None, "sshd", 20)
        assert process.poll() is None, (folder / "log").read_text()
        yield Sshd(folder, port, process)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture
def sshd(tmp_path, monkeypatch):
    """A server whose key the client does not know."""
    folder = tmp_path / "sshd"
    folder.mkdir()
    with running(folder) as server:
        monkeypatch.setenv("ACKD_SSH_CONFIG", str(folder / "ssh_config"))
        yield server
