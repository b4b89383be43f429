"""What a project no longer needs: found first, and removed only when that is asked for.

Each kind has its place, and nothing outside of it is touched: folders and files are known by the
names that this program gives them, and symbolic links are never followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import InputError
from pipeline.dvc_config import cache_folder
from pipeline.processes import holders, is_alive, works_in
from pipeline.sizes import bytes_and_time, files_below, show_age
from stages.checkpoints.durable import IN_USE, unheld
from stages.checkpoints.places import checkpoints_root, logits_root

KINDS = ("checkpoints", "logits", "cache", "temporary")
_RUNS = Path(".dvc/tmp/exps/standalone")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PARTIAL = r"\..+\.partial"
_CHECKPOINT = re.compile(rf"\d{{8}}\.checkpoint|{_PARTIAL}|{re.escape(IN_USE)}")
_LOGITS = re.compile(rf"epoch-\d{{5}}\.logits|key\.json|{_PARTIAL}|{re.escape(IN_USE)}")
_ABANDONED = re.compile(r"\..+\.(\d+)\.partial")


@dataclass(frozen=True)
class Item:
    """Something that takes disk: a folder, a file, or all of a cache that nothing refers to."""

    kind: str
    path: Path
    bytes: int
    why: str
    """Why it is not needed, or why it stays."""


@dataclass
class Found:
    """What can go, and what stays although it looks as if it could."""

    unneeded: list[Item] = field(default_factory=list)
    kept: list[Item] = field(default_factory=list)


def find(root: Path, kinds: Collection[str], older_than_s: float) -> Found:
    """Look, and change nothing.

    Args:
        root: of the project, the working directory.
        kinds: of :data:`KINDS`.
        older_than_s: seconds since its last use that something must lie idle; the cache goes by
            what refers to it instead.

    Raises:
        InputError: DVC refuses to look at its cache.
    """
    found, now = Found(), time.time()
    if "checkpoints" in kinds:
        for stage in _folders(checkpoints_root()):
            for folder in _folders(stage):
                if _is_ours(folder, _CHECKPOINT):
                    _add(found, "checkpoints", folder, now, older_than_s, _why_checkpoint(stage))
    if "logits" in kinds:
        why = "a teacher's logits, last used {age} ago; computed again where they are needed"
        for folder in _folders(logits_root()):
            if _is_ours(folder, _LOGITS):
                _add(found, "logits", folder, now, older_than_s, why)
    if "temporary" in kinds:
        _add_temporary(found, root, now, older_than_s)
    if "cache" in kinds:
        _add_cache(found, root)
    return found


def remove(root: Path, item: Item) -> int:
    """Remove what :func:`find` found; the bytes that are free now, 0 where it is in use meanwhile.

    Raises:
        InputError: it cannot be removed.
    """
    if item.kind == "cache":
        before, _ = bytes_and_time(item.path)
        _dvc_gc(root, "--force")
        return max(0, before - bytes_and_time(item.path)[0])
    try:
        removed = _remove_idle(item.path, held=item.kind != "temporary")
    except FileNotFoundError:
        removed = False
    except OSError as error:
        raise InputError(
            f"{item.path}: not removed ({error.strerror}); remove it by hand"
        ) from None
    if removed and item.kind == "checkpoints":
        with contextlib.suppress(OSError):  # others are in it
            item.path.parent.rmdir()
    return item.bytes if removed else 0


def _remove_idle(path: Path, held: bool) -> bool:
    """Whether it is gone: it is not where somebody uses it now.

    Args:
        path: a folder or a file.
        held: whether its users hold it; otherwise they work in it.
    """
    if path.is_symlink():
        return False
    if held:
        with unheld(path) as free:
            for entry in os.scandir(path) if free else ():
                Path(entry.path).unlink()
        if free:
            with contextlib.suppress(OSError):  # a training has begun in it
                path.rmdir()
        return free
    if works_in(path):
        return False
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return True


def _folders(place: Path) -> Iterator[Path]:
    """Those directly in a place, by name; no symbolic links."""
    with contextlib.suppress(OSError):
        for path in sorted(place.iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield path


def _is_ours(folder: Path, names: re.Pattern[str]) -> bool:
    """Whether it has the name and the content of one that a training made, and nothing else."""
    if not _DIGEST.fullmatch(folder.name):
        return False
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return False
    return all(
        entry.is_file(follow_symlinks=False) and names.fullmatch(entry.name) for entry in entries
    )


def _why_checkpoint(stage: Path) -> str:
    return f"{stage.name} was interrupted {{age}} ago; without them it would begin anew"


def _add(found: Found, kind: str, folder: Path, now: float, older_than_s: float, why: str) -> None:
    size, used = bytes_and_time(folder)
    age = now - used if used else older_than_s
    with unheld(folder) as free:
        if not free:
            reason = "a training uses them, or the file system cannot tell"
            found.kept.append(Item(kind, folder, size, reason))
        elif age >= older_than_s:
            found.unneeded.append(Item(kind, folder, size, why.format(age=show_age(age))))


def _add_temporary(found: Found, root: Path, now: float, older_than_s: float) -> None:
    for folder in _folders(root / _RUNS):
        size, written = bytes_and_time(folder)
        if works_in(folder):
            found.kept.append(Item("temporary", folder, size, "an experiment runs in it"))
        elif (age := now - written) >= older_than_s:
            why = f"left by an experiment that was killed, {show_age(age)} ago"
            found.unneeded.append(Item("temporary", folder, size, why))
    for place in (root / "artifacts", root / "reports"):
        for path in _abandoned(place):
            if path.is_dir():
                size, written = bytes_and_time(path)
            else:
                size, written = path.stat().st_size, path.stat().st_mtime
            age = now - (written or path.stat().st_mtime)
            if age >= older_than_s:
                why = f"half-written by a stage that was killed, {show_age(age)} ago"
                found.unneeded.append(Item("temporary", path, size, why))


def _abandoned(place: Path) -> Iterator[Path]:
    """What ``stages.files`` began to write and whose process is gone."""
    if place.is_symlink():
        return
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            match = _ABANDONED.fullmatch(name)
            path = Path(folder, name)
            if match and not is_alive(int(match[1])) and not path.is_symlink():
                yield path
        folders[:] = [name for name in folders if not _ABANDONED.fullmatch(name)]


def _add_cache(found: Found, root: Path) -> None:
    cache = cache_folder(root)
    if not cache.is_dir():
        return
    if not cache.resolve().is_relative_to((root / ".dvc").resolve()):
        size, _ = bytes_and_time(cache)
        why = "other projects may share it: `dvc gc --workspace --projects ...` names all of them"
        found.kept.append(Item("cache", cache, size, why))
        return
    busy = [f"process {holder.pid}" for holder in holders(root) if holder.alive]
    busy += [folder.name for folder in _folders(root / _RUNS) if works_in(folder)]
    if busy:
        # What these make is in the cache before anything refers to it.
        size, _ = bytes_and_time(cache)
        why = f"DVC is at work in this project ({', '.join(busy)}); try again when it has ended"
        found.kept.append(Item("cache", cache, size, why))
        return
    known = {entry.path: entry for entry in files_below(cache)}
    said = _dvc_gc(root, "--dry")
    paths = (line.removeprefix("Removing ") for line in said if line.startswith("Removing "))
    size = count = 0
    for path in paths:
        if entry := known.get(str(cache / Path(path).relative_to(cache))):
            size, count = size + entry.stat(follow_symlinks=False).st_size, count + 1
    if count:
        why = f"{count} objects that neither workspace, branch, tag nor experiment refers to"
        found.unneeded.append(Item("cache", cache, size, why))


def _dvc_gc(root: Path, how: str) -> list[str]:
    """The lines of ``dvc gc``.

    Raises:
        InputError: it fails; nothing has been removed.
    """
    keep = ["--workspace", "--all-branches", "--all-tags", "--all-experiments"]
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "gc", *keep, how],
        cwd=root,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stdout + done.stderr).splitlines()
    if done.returncode:
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        reason = (errors or lines or ["nothing was said"])[-1].rstrip(".")
        raise InputError(
            f"DVC's cache: `dvc gc` failed ({reason}); leave it out with --only checkpoints and the"
            " like, or run `dvc gc --workspace --dry --verbose`"
        )
    return lines
