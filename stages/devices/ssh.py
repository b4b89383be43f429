"""``ssh://``: measure on a machine that the system's OpenSSH client reaches.

Host keys are checked strictly against the user's known_hosts: unknown and changed ones are refused.
Login is by key or agent, never by password.
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
from stages.devices.commands import Finished, last_line
from stages.devices.host import Host, Place
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

    @contextlib.contextmanager
    def placed(self, exported: Exported) -> Iterator[Place]:
        """Send the static models and the golden batch, with their manifest."""
        sums = exported.sums("static")
        manifest = describe(sums, "models", "0", None)
        files: dict[str, Path | bytes] = {f"bundle/{path.name}": path for path in sums}
        files[f"bundle/{MANIFEST}"] = json.dumps(manifest).encode()
        with self.received(files) as place:
            yield place

    def line(self, command: Sequence[str]) -> list[str]:
        options = [f"-o{option}" for option in _OPTIONS]
        # A shell of its own turns the end by a signal into a status. ssh itself would exit with 255
        # then, as for a lost connection.
        there = shlex.join(["sh", "-c", f"{shlex.join(command)}; exit $?"])
        return ["env", "LC_ALL=C", "ssh", "-T", *options, *self._destination(), there]

    def _destination(self) -> list[str]:
        options = []
        if path := os.environ.get(_CONFIG):
            if not Path(path).is_file():
                raise InputError(f"{_CONFIG} is {path!r}, expected a file; correct or unset it")
            options += ["-F", path]
        options += ["-p", str(self.url.port)] if self.url.port else []
        options += ["-l", self.url.user] if self.url.user else []
        return [*options, "--", str(self.url.host)]

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
        if "host key is known for" in output and "strict checking" in output:
            raise InputError(
                f"{url}: the host is unknown; connect once with"
                f" `{shlex.join(['ssh', *self._destination()])}`, and accept its key if the"
                " fingerprint is that which `ssh-keygen -lf` prints on the device for its key in"
                " /etc/ssh"
            )
        why = last_line(output) or "ssh gave no reason"
        if "Permission denied" in output:
            raise InputError(
                f"{url}: login refused ({why}); install your public key there with ssh-copy-id;"
                " if the private key has a passphrase, load it with ssh-add"
            )
        raise InputError(f"{url}: unreachable ({why})")


def open_device(url: DeviceUrl) -> SshDevice:
    """Connect; raises InputError if the host is unreachable, not trusted or refuses the user."""
    if shutil.which("ssh") is None:
        raise InputError(f"{url.text}: ssh is not installed here; install the OpenSSH client")
    device = SshDevice(url, url.folder or "ackd", "python3")
    device.run(["true"])
    return device
