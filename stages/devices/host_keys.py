"""Host keys of ssh devices: a first one is shown and asked for, and kept in known_hosts."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from models.errors import InputError
from stages.devices.base import Opening

SSH_CONFIG = "ACKD_SSH_CONFIG"
_SCAN_SECONDS = 30


def ssh_config() -> list[str]:
    """Arguments for ssh that name the configuration to use instead of the user's."""
    path = os.environ.get(SSH_CONFIG)
    if not path:
        return []
    if not Path(path).is_file():
        raise InputError(f"{SSH_CONFIG} is {path!r}, which is no file; correct or unset it")
    return ["-F", path]


def is_unknown(said: str) -> bool:
    """Whether ssh's stderr says that it knows no key of the host."""
    return "host key is known for" in said and "strict checking" in said


def has_changed(said: str) -> bool:
    """Whether ssh's stderr says that the host has another key than the one that is known."""
    return "HOST IDENTIFICATION HAS CHANGED" in said


def accept_first_key(url: str, target: Sequence[str], opening: Opening) -> None:
    """Add the key that the host presents to known_hosts, if the user accepts its fingerprint.

    ssh itself fetches the key, so that it comes by the same way as later connections: through
    jump hosts, under the alias of the configuration, and of the kind that ssh prefers.

    Raises:
        InputError: the host shows no key, another one than expected, or nobody accepts it.
    """
    line = _presented_key(url, target)
    name = line.split(maxsplit=1)[0].split(",")[0]
    known_hosts = _known_hosts(target)
    found = fingerprint(line)
    if known_hosts.exists() and _keygen("-F", name, "-f", str(known_hosts)):
        raise InputError(
            f"{url}: the host shows a key of another kind than the one in {known_hosts}"
            f" ({found}), so this may be another machine; if you know why, remove the old key with"
            f" `ssh-keygen -R '{name}'`"
        )
    _require_acceptance(url, name, line, found, opening)
    known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = known_hosts.read_text(encoding="utf-8") if known_hosts.exists() else ""
    handle = os.open(known_hosts, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(("" if not before or before.endswith("\n") else "\n") + line + "\n")


def fingerprint(line: str) -> str:
    """``SHA256:...`` of the key in a line of known_hosts."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        words = _keygen("-l", "-E", "sha256", "-f", file.name).split()
    return next(word for word in words if word.startswith("SHA256:"))


def _require_acceptance(url: str, name: str, line: str, found: str, opening: Opening) -> None:
    expected = opening.accept_host_key
    if expected is not None:
        if found != expected:
            raise InputError(
                f"{url}: the host shows a key with the fingerprint {found}, expected {expected};"
                " nothing was trusted"
            )
        return
    kind = line.split()[1]
    if opening.ask is None:
        raise InputError(
            f"{url}: the host is not known; its key {kind} has the fingerprint {found}: compare it"
            " with what `ssh-keygen -lf` says on the device of its own key below /etc/ssh, and"
            f" repeat with --accept-host-key {found}"
        )
    if not opening.ask(
        f"{name} is visited the first time. Its key {kind} has the fingerprint\n  {found}\n"
        "Is that the one that `ssh-keygen -lf` says on the device of its own key below /etc/ssh?"
    ):
        raise InputError(f"{url}: the host key was not accepted")


def _presented_key(url: str, target: Sequence[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "known_hosts"
        options = [
            *("-oBatchMode=yes", "-oStrictHostKeyChecking=accept-new", "-oHashKnownHosts=no"),
            *(f"-oUserKnownHostsFile={kept}", "-oGlobalKnownHostsFile=/dev/null"),
            # The key is kept before anybody says who they are; nobody does here.
            *("-oPubkeyAuthentication=no", "-oGSSAPIAuthentication=no", "-oControlPath=none"),
            *("-oHostbasedAuthentication=no", "-oUpdateHostKeys=no", "-oConnectTimeout=15"),
        ]
        try:
            process = subprocess.run(
                ["ssh", *ssh_config(), "-T", *options, *target, "true"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_SCAN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{url}: shows no host key within {_SCAN_SECONDS} s") from None
        lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    if not lines:
        said = process.stderr.strip().splitlines()
        raise InputError(f"{url}: shows no host key ({said[-1] if said else 'no reason given'})")
    return lines[0]


def _known_hosts(target: Sequence[str]) -> Path:
    """The first of the files that ssh looks into."""
    told = subprocess.run(
        ["ssh", *ssh_config(), "-G", *target], capture_output=True, encoding="utf-8", check=False
    ).stdout
    for line in told.splitlines():
        key, _, value = line.partition(" ")
        files = value.split()
        if key == "userknownhostsfile" and files and files[0] != "none" and "%" not in files[0]:
            return Path(files[0]).expanduser()
    raise InputError(
        "ssh's configuration names no plain UserKnownHostsFile to keep a host key in; accept the"
        " key by a visit with ssh"
    )


def _keygen(*arguments: str) -> str:
    """What ``ssh-keygen`` prints; nothing where it fails, as it does where it finds nothing."""
    return subprocess.run(
        ["ssh-keygen", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    ).stdout
