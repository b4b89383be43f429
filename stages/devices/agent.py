"""Receive, verify, serve and roll back bundles on the device.

Needs only Python 3.8 or newer; each request carries this program, and the device never stores it.
A request is ``<command> FOLDER [ARGUMENTS]``, the answer one line of JSON.

A serving folder looks like this::

    served -> releases/<name>/bundle       the only thing that a switch changes
    releases/<name>/bundle/...             the files of the bundle, flat
    releases/<name>/record.json            what was deployed, when, and what it replaced
    required-key                           the key that must sign bundles, if any: 64 digits
    .new-<token>/                          being received; never served

One rename replaces ``served``, once its target is verified and on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from stages.devices.ed25519 import is_signed_by
from stages.devices.proof import MANIFEST, SIGNATURE, DeviceError, read_small, sha256, verify

SERVED = "served"
RELEASES = "releases"
RECORD = "record.json"
KEY = "required-key"
NEW = ".new-"
OLD = ".old-"
#: How often to send an empty line, which reveals a broken connection.
_SIGN_OF_LIFE_SECONDS = 15.0


def receive(base: Path, token: str) -> None:
    """Unpack a tar stream from stdin into ``.new-<token>``, and keep the folder until stdin ends.

    The folder lives as long as the sending process. Leftovers of earlier ones are removed first.
    """
    with contextlib.ExitStack() as held:
        try:
            base.mkdir(parents=True, exist_ok=True)
            with _locked(base):
                _remove_leftovers(base)
                folder = base / (NEW + token)
                folder.mkdir(mode=0o755)
                held.enter_context(_locked(folder))
        except OSError as error:
            raise DeviceError(f"{base}: not writable ({error.strerror})") from None
        try:
            _unpack(base, folder)
            print(json.dumps({"folder": str(folder)}), flush=True)
            _wait_for_end()
        finally:
            with _locked(base):  # activate() may be turning the folder into a release
                shutil.rmtree(str(folder), ignore_errors=True)


def _unpack(base: Path, folder: Path) -> None:
    try:
        # Read as a stream, because stdin stays open.
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                _write_member(folder, member.name, content)
        os.sync()  # once: syncing each file takes minutes on a memory card
    except (tarfile.TarError, EOFError):
        raise DeviceError(f"{folder}: the transfer was incomplete; try again") from None
    except OSError as error:
        raise DeviceError(
            f"{folder}: could not be written ({error.strerror}); free some space in {base}"
        ) from None


def _write_member(folder: Path, name: str, content: IO[bytes] | None) -> None:
    if content is None or Path(name).is_absolute() or ".." in Path(name).parts:
        raise DeviceError(f"{name}: not a plain file below the bundle's folder")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        shutil.copyfileobj(content, target, 1 << 20)


def _wait_for_end() -> None:
    while True:
        there, _, _ = select.select([sys.stdin], [], [], _SIGN_OF_LIFE_SECONDS)
        if there and not os.read(sys.stdin.fileno(), 1 << 16):
            return
        print(flush=True)


def activate(base: Path, token: str, order: str) -> dict[str, Any]:
    """Serve the received bundle if it is complete and not older than the served one.

    Args:
        base: the serving folder.
        token: of the folder that :func:`receive` wrote, with the bundle in ``bundle/``.
        order: JSON with ``manifest_sha256``, ``allow_downgrade``, ``record`` (stored with the
            release) and ``key`` (must sign bundles from now on: 64 digits or null).
    """
    wanted = json.loads(order)
    with _locked(base):
        new = base / (NEW + token)
        key = wanted["key"] or _pinned(base)
        manifest = _prove(new / "bundle", wanted["manifest_sha256"], key)
        before = _served(base)
        if before is not None and not wanted["allow_downgrade"]:
            refuse_older(manifest["version"], wanted["manifest_sha256"], before)
        same = before is not None and before["manifest_sha256"] == wanted["manifest_sha256"]
        record = {
            **wanted["record"],
            "version": manifest["version"],
            "key_id": key and key_id(key),
            "manifest_sha256": wanted["manifest_sha256"],
            "deployed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            # Deploying the served bundle again repairs it; never roll back to the damaged copy.
            "previous": None if before is None else before["previous" if same else "name"],
        }
        _write(new / RECORD, json.dumps(record, indent=2) + "\n")
        _sync(new)
        name = "{}-{}-{}".format(manifest["version"], wanted["manifest_sha256"][:8], token)
        (base / RELEASES).mkdir(exist_ok=True)
        new.rename(base / RELEASES / name)
        _sync(base / RELEASES)
        if key is not None:
            partial = base / (NEW + token)
            _write(partial, key + "\n")
            partial.replace(base / KEY)
        _switch(base, name, token)
        _prune(base, name, record["previous"])
        return status(base)


def refuse_older(version: str, manifest_sha256: str, served: dict[str, Any]) -> None:
    """Raise DeviceError for an older version, or for the served one with other contents."""
    new, old = _order(version), _order(served["version"])
    if new < old:
        raise DeviceError(
            "version {} is older than the served {}; pass --allow-downgrade to serve it"
            " anyway".format(version, served["version"])
        )
    if new == old and manifest_sha256 != served["manifest_sha256"]:
        raise DeviceError(
            f"version {version} is already served with other contents;"
            " raise package.version, or pass --allow-downgrade"
        )


def rollback(base: Path, token: str) -> dict[str, Any]:
    """Serve the previous release, verified with the key from its deployment."""
    with _locked(base):
        served = _served(base)
        if served is None:
            raise DeviceError(f"{base}: nothing is served here; deploy a bundle first")
        before = _record(base, served["previous"])
        if before is None:
            raise DeviceError(f"{base}: no version before {served['version']} is kept")
        _prove_release(base, before)
        _switch(base, before["name"], token)
        return status(base)


def status(base: Path) -> dict[str, Any]:
    """Return the records ``served`` and ``previous``, the served one's ``problem``, and ``key``."""
    served = _served(base)
    problem = None
    if served is not None:
        try:
            _prove_release(base, served)
        except DeviceError as error:
            problem = str(error)
    previous = None if served is None else _record(base, served["previous"])
    return {
        "folder": str(base),
        "served": served,
        "previous": previous,
        "problem": problem,
        "key": _pinned(base),
    }


def _prove(bundle: Path, manifest_sha256: str, key: str | None) -> dict[str, Any]:
    """Return the manifest of a bundle; raises DeviceError if it is not complete and authentic."""
    manifest = verify(bundle)
    if sha256(bundle / MANIFEST) != manifest_sha256:
        raise DeviceError(f"{MANIFEST}: not the deployed one; deploy again")
    if key is not None:
        signed = manifest["key_id"] is not None and is_signed_by(
            bytes.fromhex(key), (bundle / MANIFEST).read_bytes(), read_small(bundle / SIGNATURE, 64)
        )
        if not signed:
            raise DeviceError(
                f"{MANIFEST}: not signed with the required key {key_id(key)};"
                " package the bundle again with that key"
            )
    return manifest


def _prove_release(base: Path, record: dict[str, Any]) -> None:
    """Verify a release; if it predates the required key, it needs no signature."""
    key = _pinned(base)
    key = key if key and key_id(key) == record["key_id"] else None
    _prove(base / RELEASES / record["name"] / "bundle", record["manifest_sha256"], key)


def _pinned(base: Path) -> str | None:
    """Return the required key, if any."""
    try:
        key = (base / KEY).read_text(encoding="ascii").strip()
        if len(bytes.fromhex(key)) == 32:
            return key
    except FileNotFoundError:
        return None
    except ValueError:
        pass
    raise DeviceError(f"{base / KEY}: damaged; remove it and deploy with --key again")


def key_id(key: str) -> str:
    """Return the id by which manifests name a key of 64 hexadecimal digits."""
    return hashlib.sha256(bytes.fromhex(key)).hexdigest()[:16]


def _served(base: Path) -> dict[str, Any] | None:
    link = base / SERVED
    try:
        target = os.readlink(str(link))  # noqa: PTH115 (Path has it since 3.9)
    except FileNotFoundError:
        return None
    except OSError:
        raise DeviceError(f"{link}: expected a symbolic link; move it away") from None
    parts = Path(target).parts
    record = _record(base, parts[1]) if len(parts) == 3 and parts[0] == RELEASES else None
    if record is None:
        raise DeviceError(f"{link}: points to {target}, not to a release; move it away")
    return record


def _record(base: Path, name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    path = base / RELEASES / name / RECORD
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")), name=name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, TypeError):
        record = {}
    if not {"version", "manifest_sha256", "key_id", "previous"} <= set(record):
        raise DeviceError(f"{path}: damaged; remove {base / SERVED} and deploy again")
    return record


def _order(version: str) -> list[int]:
    numbers = [int(number) for number in version.split(".")]
    return numbers + [0] * (3 - len(numbers))


def _switch(base: Path, name: str, token: str) -> None:
    partial = base / (NEW + token)
    partial.symlink_to(Path(RELEASES) / name / "bundle")
    partial.replace(base / SERVED)
    _sync(base)


def _prune(base: Path, *kept: str | None) -> None:
    """Remove all other releases; each is renamed first, so a partial one is never a release."""
    for path in (base / RELEASES).iterdir():
        if path.name not in kept and not path.name.startswith(OLD):
            path.rename(path.with_name(OLD + path.name))
    for path in (base / RELEASES).glob(OLD + "*"):
        shutil.rmtree(str(path), ignore_errors=True)


def _remove_leftovers(base: Path) -> None:
    """Remove what interrupted deployments and measurements left behind."""
    for path in base.glob(NEW + "*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            else:
                with _locked(path, wait=False):
                    shutil.rmtree(str(path), ignore_errors=True)
    if (base / RELEASES).is_dir():
        served = _served(base)
        _prune(base, *([] if served is None else [served["name"], served["previous"]]))


@contextlib.contextmanager
def _locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Lock a folder; the lock ends with the process, however it ends.

    A lock on the serving folder allows one switch at a time; on a received folder it marks the
    folder as in use.

    Without ``wait``, raises BlockingIOError if another process holds the lock.
    """
    import fcntl  # not on Windows, where this module is imported to send bundles

    if not folder.is_dir():
        raise DeviceError(f"{folder}: no such folder; deploy a bundle first")
    handle = os.open(str(folder), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    handle = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


COMMANDS: dict[str, Callable[..., dict[str, Any] | None]] = {
    "receive": receive,
    "activate": activate,
    "rollback": rollback,
    "status": status,
}


def main(command: str, base: str, *arguments: str) -> int:
    try:
        answer = COMMANDS[command](Path(base).resolve(), *arguments)
    except DeviceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if answer is not None:  # receive() prints its own
        print(json.dumps(answer))
    return 0


# Also true when run from stdin.
if __name__ == "__main__":
    sys.exit(main(*sys.argv[2:]))
