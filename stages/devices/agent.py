"""What is done to files on the device itself: bundles received, proven, served and rolled back.

It needs Python 3.8 or newer and nothing else; it is sent to the device with each request and never
lies there. One request is ``<command> FOLDER [ARGUMENTS]``, and its answer one line of JSON.

A folder that serves a model looks like this::

    served -> releases/<name>/bundle       the one thing that a switch changes
    releases/<name>/bundle/...             the files of the bundle, flat
    releases/<name>/record.json            what was deployed and when, and what was served before
    .new-<token>/                          on its way in; never served

``served`` is replaced by one rename, after everything that it leads to is on the disk and proven.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import stat
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
SERVED = "served"
RELEASES = "releases"
RECORD = "record.json"
NEW = ".new-"
OLD = ".old-"
#: Leftovers of what was interrupted are removed when nobody can be at work on them any more.
_LEFTOVER_SECONDS = 24 * 3600.0


class AgentError(Exception):
    """What the user can put right; the message is one sentence."""


def describe(base: Path) -> Dict[str, Any]:
    """What decides which wheels fit."""
    libc, version = platform.libc_ver()
    return {
        "python": list(sys.version_info[:2]),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "machine": platform.machine(),
        "libc": libc,
        "libc_version": version,
        "folder": str(base),
    }


def receive(base: Path, token: str) -> Dict[str, Any]:
    """Unpack a tar stream from stdin into ``.new-<token>``, a folder that did not exist."""
    try:
        base.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(base)
        folder = base / (NEW + token)
        folder.mkdir(mode=0o755)
    except OSError as error:
        raise AgentError(f"{base}: cannot be written to ({error.strerror})") from None
    try:
        _unpack(folder)
    except (tarfile.TarError, EOFError):
        raise AgentError(f"{folder}: the files did not arrive whole; try again") from None
    except OSError as error:
        raise AgentError(f"{folder}: not written ({error.strerror}); free some space") from None
    finally:
        if sys.exc_info()[0] is not None:
            shutil.rmtree(str(folder), ignore_errors=True)
    return {"folder": str(folder)}


def _unpack(folder: Path) -> None:
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|*") as archive:
        for member in archive:
            parts = Path(member.name).parts
            if not member.isreg() or member.name.startswith("/") or ".." in parts or not parts:
                raise AgentError(f"{member.name}: not a plain file below the bundle's folder")
            path = folder.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            if content is None:
                raise AgentError(f"{member.name}: has no content")
            with path.open("xb") as target:
                shutil.copyfileobj(content, target, 1 << 20)
    os.sync()  # once: a file at a time takes minutes on a memory card


def remove(base: Path, token: str) -> Dict[str, Any]:
    """Remove what :func:`receive` wrote."""
    shutil.rmtree(str(base / (NEW + token)), ignore_errors=True)
    return {}


def verify(bundle: Path, manifest_sha256: str) -> Dict[str, Any]:
    """The manifest of a bundle whose files, and no others, are all as it says.

    Raises:
        AgentError: names the first file that is missing, altered or too many.
    """
    manifest_file = bundle / MANIFEST
    if _sha256(manifest_file) != manifest_sha256:
        raise AgentError(f"{manifest_file}: not the manifest that was verified; deploy again")
    manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    for name, entry in manifest["files"].items():
        if _sha256(bundle / name) != entry["sha256"]:
            raise AgentError(f"{bundle / name}: altered since it was packaged; deploy again")
    listed = {MANIFEST, SIGNATURE, *manifest["files"]}
    for path in sorted(bundle.iterdir()):
        if path.name not in listed:
            raise AgentError(f"{path}: not a file of the bundle; remove it")
    return dict(manifest)


def activate(base: Path, token: str, order: str) -> Dict[str, Any]:
    """Serve what :func:`receive` wrote, if it is whole and no older than what is served.

    Args:
        base: the folder that serves.
        token: of the received folder, whose bundle is in ``bundle/``.
        order: JSON with ``manifest_sha256``, ``allow_downgrade``, and ``record``, which is kept.
    """
    wanted = json.loads(order)
    with _lock(base):
        new = base / (NEW + token)
        manifest = verify(new / "bundle", wanted["manifest_sha256"])
        before = _served(base)
        if before is not None and not wanted["allow_downgrade"]:
            refuse_older(manifest["version"], wanted["manifest_sha256"], before)
        same = before is not None and before["manifest_sha256"] == wanted["manifest_sha256"]
        record = dict(wanted["record"])
        record.update(
            {
                "version": manifest["version"],
                "manifest_sha256": wanted["manifest_sha256"],
                "deployed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                # What is served anew, because it was damaged, is nothing to go back to.
                "previous": None if before is None else before["previous" if same else "name"],
            }
        )
        _write(new / RECORD, json.dumps(record, indent=2) + "\n")
        _sync(new)
        name = "{}-{}-{}".format(manifest["version"], wanted["manifest_sha256"][:8], token)
        (base / RELEASES).mkdir(exist_ok=True)
        new.rename(base / RELEASES / name)
        _sync(base / RELEASES)
        _switch(base, name, token)
        _prune(base, name, record["previous"])
        return status(base)


def refuse_older(version: str, manifest_sha256: str, served: Dict[str, Any]) -> None:
    """Raises AgentError unless ``version`` comes after the one that ``served`` says."""
    new, old = _order(version), _order(served["version"])
    if new < old:
        raise AgentError(
            "version {} is older than {}, which is served; pass --allow-downgrade to serve it"
            " all the same".format(version, served["version"])
        )
    if new == old and manifest_sha256 != served["manifest_sha256"]:
        raise AgentError(
            f"version {version} is served with other contents, so that none is the newer;"
            " raise package.version, or pass --allow-downgrade"
        )


def rollback(base: Path, token: str) -> Dict[str, Any]:
    """Serve what was served before the present release."""
    with _lock(base):
        served = _served(base)
        if served is None:
            raise AgentError(f"{base}: nothing is served here; deploy a bundle first")
        before = _record(base, served["previous"])
        if before is None:
            raise AgentError(f"{base}: no version before {served['version']} is kept")
        verify(base / RELEASES / before["name"] / "bundle", before["manifest_sha256"])
        _switch(base, before["name"], token)
        return status(base)


def status(base: Path) -> Dict[str, Any]:
    """``served`` and ``previous``: their records, or None; and ``problem`` of what is served."""
    served = _served(base)
    problem = None
    if served is not None:
        try:
            verify(base / RELEASES / served["name"] / "bundle", served["manifest_sha256"])
        except AgentError as error:
            problem = str(error)
    previous = None if served is None else _record(base, served["previous"])
    return {"folder": str(base), "served": served, "previous": previous, "problem": problem}


def _served(base: Path) -> Optional[Dict[str, Any]]:
    link = base / SERVED
    try:
        target = os.readlink(str(link))  # noqa: PTH115 (Path has it since 3.9)
    except FileNotFoundError:
        return None
    except OSError:
        raise AgentError(f"{link}: expected a symbolic link; move it away") from None
    parts = Path(target).parts
    record = _record(base, parts[1]) if len(parts) == 3 and parts[0] == RELEASES else None
    if record is None:
        raise AgentError(f"{link}: leads to {target}, which was not deployed; move it away")
    return record


def _record(base: Path, name: Optional[str]) -> Optional[Dict[str, Any]]:
    if name is None:
        return None
    try:
        text = (base / RELEASES / name / RECORD).read_text(encoding="utf-8")
        return dict(json.loads(text), name=name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise AgentError(f"{base / RELEASES / name / RECORD}: damaged; deploy again") from None


def _order(version: str) -> List[int]:
    numbers = [int(number) for number in version.split(".")]
    return numbers + [0] * (3 - len(numbers))


def _switch(base: Path, name: str, token: str) -> None:
    partial = base / (NEW + token)
    partial.symlink_to(Path(RELEASES) / name / "bundle")
    partial.replace(base / SERVED)
    _sync(base)


def _prune(base: Path, *kept: Optional[str]) -> None:
    """Remove all releases but these, each by a rename first, so that none is ever there in part."""
    for path in (base / RELEASES).iterdir():
        if path.name not in kept and not path.name.startswith(OLD):
            path.rename(path.with_name(OLD + path.name))
    for path in (base / RELEASES).glob(OLD + "*"):
        shutil.rmtree(str(path), ignore_errors=True)


def _remove_leftovers(base: Path) -> None:
    for path in base.glob(NEW + "*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if time.time() - found.st_mtime < _LEFTOVER_SECONDS:
                continue
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(str(path), ignore_errors=True)
            else:
                path.unlink()


@contextlib.contextmanager
def _lock(base: Path) -> Iterator[None]:
    """One switch at a time; the lock ends with the process, however that ends."""
    import fcntl

    if not base.is_dir():
        raise AgentError(f"{base}: no such folder; deploy a bundle first")
    handle = os.open(str(base), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(str(folder), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            for block in iter(lambda: handle.read(1 << 20), b""):
                digest.update(block)
    except FileNotFoundError:
        raise AgentError(f"{path}: missing; deploy again") from None
    return digest.hexdigest()


COMMANDS: Dict[str, Callable[..., Dict[str, Any]]] = {
    "describe": describe,
    "receive": receive,
    "remove": remove,
    "activate": activate,
    "rollback": rollback,
    "status": status,
}


def main(command: str, base: str, *arguments: str) -> int:
    try:
        answer = COMMANDS[command](Path(base).resolve(), *arguments)
    except AgentError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    print(json.dumps(answer))
    return 0


# It runs from stdin, where a module has this name too.
if __name__ == "__main__":
    sys.exit(main(*sys.argv[2:]))
