"""Show a new ssh host key, have it confirmed, and add it to known_hosts."""

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from models.errors import InputError
from stages.devices.base import Opening
from stages.devices.commands import Finished, last_line, run_program

#: ssh stores the key before login, so no login is needed.
_NOBODY = ("PubkeyAuthentication=no", "GSSAPIAuthentication=no", "HostbasedAuthentication=no")


def accept_first_key(url: str, opening: Opening, ssh: Callable[..., Finished]) -> None:
    """Add the host's key to known_hosts if the user accepts its fingerprint.

    ssh fetches the key just as for later connections: through jump hosts, under the configured
    alias, and of the type it prefers. ``ssh`` connects with arguments before the usual ones.

    Raises:
        InputError: the host presents no key or an unexpected one, or nobody accepts it.
    """
    line = _presented_key(url, ssh)
    name = line.split(maxsplit=1)[0].split(",")[0]
    known_hosts = _known_hosts(ssh)
    found = fingerprint(line)
    find = ["ssh-keygen", "-F", name, "-f", str(known_hosts)]
    if known_hosts.exists() and run_program(find, url).out:
        raise InputError(
            f"{url}: the host presents a key of another type than the one in {known_hosts}"
            f" ({found}) and may be another machine; if you know why, remove the old key with"
            f" `ssh-keygen -R '{name}'`"
        )
    _require_acceptance(url, name, line.split()[1], found, opening)
    known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = known_hosts.read_text(encoding="utf-8") if known_hosts.exists() else ""
    handle = os.open(known_hosts, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(("" if not before or before.endswith("\n") else "\n") + line + "\n")


def fingerprint(line: str) -> str:
    """Return ``SHA256:...`` for the key in a line of known_hosts."""
    digest = hashlib.sha256(base64.b64decode(line.split()[2])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _require_acceptance(url: str, name: str, kind: str, found: str, opening: Opening) -> None:
    if opening.accept_host_key is not None:
        if found != opening.accept_host_key:
            raise InputError(
                f"{url}: the host's key has the fingerprint {found}, expected"
                f" {opening.accept_host_key}; the key was not accepted"
            )
        return
    compare = "`ssh-keygen -lf` prints on the device for its key in /etc/ssh"
    if opening.ask is None:
        raise InputError(
            f"{url}: the host is unknown; its key {kind} has the fingerprint {found}: compare it"
            f" with what {compare}, and repeat with --accept-host-key {found}"
        )
    if not opening.ask(
        f"{name} is new to this machine. Its key {kind} has the fingerprint\n  {found}\n"
        f"Is that what {compare}?"
    ):
        raise InputError(f"{url}: the host key was not accepted")


def _presented_key(url: str, ssh: Callable[..., Finished]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "known_hosts"
        options = ["StrictHostKeyChecking=accept-new", "HashKnownHosts=no", *_NOBODY]
        options += [f"UserKnownHostsFile={kept}", "GlobalKnownHostsFile=/dev/null"]
        finished = ssh(*(f"-o{option}" for option in options))
        lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    if not lines:
        why = last_line(finished.err) or "no reason given"
        raise InputError(f"{url}: presents no host key ({why})")
    return lines[0]


def _known_hosts(ssh: Callable[..., Finished]) -> Path:
    """Return the first known_hosts file that ssh reads."""
    found = re.search(r"^userknownhostsfile (?!none\b)([^\s%]+)(\s|$)", ssh("-G").out, re.MULTILINE)
    if found is None:
        raise InputError(
            "ssh's configuration names no plain UserKnownHostsFile for the host key; connect once"
            " with ssh to accept it"
        )
    return Path(found[1]).expanduser()
