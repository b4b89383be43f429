"""``ssh://``: measure on a machine that the system's OpenSSH client reaches.

Host keys are checked strictly against the user's known_hosts: a new one must be confirmed, a
changed one is refused. Login is by key or agent, never by password.
"""

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.errors import InputError
from stages.bundle.manifest import describe
from stages.devices.base import Opening
from stages.devices.commands import Finished, last_line, run_program
from stages.devices.host import Host, Place
from stages.devices.host_keys import accept_first_key
from stages.devices.proof import MANIFEST
from stages.devices.urls import DeviceUrl
from stages.runtimes.exported import Exported

_CONFIG = "ACKD_SSH_CONFIG"
# A connection fails after 15 s without an answer, during and after its setup.
_OPTIONS = (
    *("BatchMode=yes", "StrictHostKeyChecking=yes", "UpdateHostKeys=no"),
    *("ConnectTimeout=15", "ConnectionAttempts=1"),
    *("ServerAliveInterval=5", "ServerAliveCountMax=3"),
    # A shared connection would skip these checks and outlive the command.
    *("ControlMaster=no", "ControlPath=none"),
    *("ClearAllForwardings=yes", "PermitLocalCommand=no", "RemoteCommand=none"),
)
_CONNECTION_FAILED = 255


class SshDevice(Host):
    """A POSIX machine with Python and sshd."""

    def connect(self, opening: Opening) -> None:
        """Connect, and ask to confirm a new host key; raises InputError if that fails."""
        finished = self._visit()
        if finished.code == _CONNECTION_FAILED and _is_unknown(finished.err):
            accept_first_key(self.url.text, opening, self._visit)
            finished = self._visit()
        self.require_connection(finished)

    def _visit(self, *first: str) -> Finished:
        return run_program(self.line(["true"], *first), self.url.text)

    @contextlib.contextmanager
    def placed(self, exported: Exported) -> Iterator[Place]:
        """Send the static models and the golden batch, with their manifest."""
        sums = exported.sums("static")
        manifest = describe(sums, "models", "0", None)
        files: dict[str, Path | bytes] = {f"bundle/{path.name}": path for path in sums}
        files[f"bundle/{MANIFEST}"] = json.dumps(manifest).encode()
        with self.received(files) as place:
            yield place

    def line(self, command: Sequence[str], *first: str) -> list[str]:
        """As in :class:`Host`; ``first`` overrides options, as ssh takes the first value."""
        options = [*first, *(f"-o{option}" for option in _OPTIONS)]
        if path := os.environ.get(_CONFIG):
            if not Path(path).is_file():
                raise InputError(f"{_CONFIG} is {path!r}, expected a file; correct or unset it")
            options += ["-F", path]
        options += ["-p", str(self.url.port)] if self.url.port else []
        options += ["-l", self.url.user] if self.url.user else []
        # A shell of its own turns the end by a signal into a status. ssh itself would exit with 255
        # then, as for a lost connection.
        there = shlex.join(["sh", "-c", f"{shlex.join(command)}; exit $?"])
        return ["env", "LC_ALL=C", "ssh", "-T", *options, "--", str(self.url.host), there]

    def require_connection(self, finished: Finished) -> None:
        if finished.code != _CONNECTION_FAILED:
            return
        url, output = self.url.text, finished.err
        if "HOST IDENTIFICATION HAS CHANGED" in output:
            host, port = self.url.host, self.url.port
            name = host if port in (None, 22) else f"'[{host}]:{port}'"  # quoted for a shell
            raise InputError(
                f"{url}: the host key has changed, so this may be another machine; if you know why,"
                f" remove the old key with `ssh-keygen -R {name}`"
            )
        if _is_unknown(output):
            raise InputError(f"{url}: the host key is unknown and was not accepted")
        why = last_line(output) or "ssh gave no reason"
        if "Permission denied" in output:
            raise InputError(
                f"{url}: login refused ({why}); install your public key there with ssh-copy-id;"
                " if the private key has a passphrase, load it with ssh-add"
            )
        raise InputError(f"{url}: unreachable ({why})")


def _is_unknown(output: str) -> bool:
    """Return whether ssh knows no key of the host."""
    return "host key is known for" in output and "strict checking" in output


def open_device(url: DeviceUrl, opening: Opening) -> SshDevice:
    """Connect; raises InputError if the host is unreachable, not trusted or refuses the user."""
    for program in ("ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            raise InputError(
                f"{url.text}: {program} is not installed here; install the OpenSSH client"
            )
    device = SshDevice(url, url.folder or "ackd", "python3")
    device.connect(opening)
    return device
