"""What a project no longer needs: found first, and removed only when that is asked for.

Each kind has its place, and nothing outside of it is touched: folders and files are known by the
names that this program gives them, and symbolic links are never followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from models.errors import InputError
from pipeline.dvc_command import dvc
from pipeline.dvc_config import cache_folder
from pipeline.processes import holders, working_folders
from pipeline.sizes import bytes_and_time, show_age
from stages.checkpoints.durable import IN_USE, unheld
from stages.checkpoints.places import checkpoints_root, logits_root

_EXPERIMENTS = Path(".dvc/tmp/exps/standalone")
# All that is kept: present files, releases and whatever else is tagged, branches, experiments.
_USED = ("--workspace", "--all-branches", "--all-tags", "--all-experiments")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_OURS = re.compile(
    rf"\d{{8}}\.checkpoint|epoch-\d{{5}}\.logits|key\.json|\..+\.partial|{re.escape(IN_USE)}"
)
_PARTIAL = re.compile(r"\..+\.(\d+)\.partial")
_REMOVING = re.compile(r"^Removing (.+)$", re.M)


@dataclass(frozen=True)
class Item:
    """Something that takes disk: a folder, a file, or all of a cache that nothing refers to.

    Attributes:
        kind: ``checkpoints``, ``logits``, ``cache`` or ``temporary``.
        path: where it is.
        bytes: that it takes.
        why: it is not needed, or it stays.
        stays: whether it does, although it looks as if it could go.
    """

    kind: str
    path: Path
    bytes: int
    why: str
    stays: bool = False


def find(root: Path, kinds: Collection[str], older_than_s: float) -> list[Item]:
    """Look, and change nothing.

    Args:
        root: of the project, the working directory.
        kinds: of :class:`Item`.
        older_than_s: seconds since its last use that something must lie idle; the cache goes by
            what refers to it instead.

    Raises:
        InputError: DVC refuses to look at its cache.
    """
    found: list[Item] = []
    if "checkpoints" in kinds:
        for stage in _folders(checkpoints_root()):
            why = f"{stage.name} was interrupted {{age}} ago; without them it would begin anew"
            found += _of_trainings("checkpoints", stage, why, older_than_s)
    if "logits" in kinds:
        why = "a teacher's logits, last used {age} ago; computed again where they are needed"
        found += _of_trainings("logits", logits_root(), why, older_than_s)
    if "temporary" in kinds:
        found += _temporary(root, older_than_s)
    if "cache" in kinds:
        found += _cache(root)
    return found


def remove(root: Path, item: Item) -> int:
    """Remove what :func:`find` found; the bytes that are free now, 0 where it is in use meanwhile.

    Raises:
        InputError: it cannot be removed.
    """
    if item.kind == "cache":
        before, _ = bytes_and_time(item.path)
        dvc(root, "gc", *_USED, "--force")
        return max(0, before - bytes_and_time(item.path)[0])
    try:
        removed = _remove_idle(item)
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


def _remove_idle(item: Item) -> bool:
    """Whether it is gone: it is not where somebody uses it now."""
    if item.path.is_symlink():
        return False
    if item.kind != "temporary":
        with unheld(item.path) as free:
            for entry in os.scandir(item.path) if free else ():
                Path(entry.path).unlink()
        if free:
            with contextlib.suppress(OSError):  # a training has begun in it
                item.path.rmdir()
        return free
    if _is_busy(item.path):
        return False
    if item.path.is_dir():
        shutil.rmtree(item.path)
    else:
        item.path.unlink()
    return True


def _folders(place: Path) -> Iterator[Path]:
    """Those directly in a place, by name; no symbolic links."""
    with contextlib.suppress(OSError):
        for path in sorted(place.iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield path


def _is_ours(folder: Path) -> bool:
    """Whether it has the name and the content of one that a training made, and nothing else."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return False
    return _DIGEST.fullmatch(folder.name) is not None and all(
        entry.is_file(follow_symlinks=False) and _OURS.fullmatch(entry.name) for entry in entries
    )


def _of_trainings(kind: str, place: Path, why: str, older_than_s: float) -> Iterator[Item]:
    for folder in filter(_is_ours, _folders(place)):
        size, used = bytes_and_time(folder)
        age = time.time() - used if used else older_than_s
        with unheld(folder) as free:
            if not free:
                reason = "a training uses them, or the file system cannot tell"
                yield Item(kind, folder, size, reason, stays=True)
            elif age >= older_than_s:
                yield Item(kind, folder, size, why.format(age=show_age(age)))


def _temporary(root: Path, older_than_s: float) -> Iterator[Item]:
    """What experiments and stages that were killed have left."""
    left = [(path, "left by an experiment") for path in _folders(root / _EXPERIMENTS)]
    for place in (root / "artifacts", root / "reports"):
        left += [(path, "half-written by a stage") for path in _partials(place)]
    for path, who in left:
        size, written = bytes_and_time(path) if path.is_dir() else (path.stat().st_size, 0.0)
        age = time.time() - (written or path.stat().st_mtime)
        if _is_busy(path):
            yield Item("temporary", path, size, "a process works in it", stays=True)
        elif age >= older_than_s:
            why = f"{who} that was killed, {show_age(age)} ago"
            yield Item("temporary", path, size, why)


def _partials(place: Path) -> Iterator[Path]:
    """What ``stages.files`` began to write and whose process is gone."""
    if place.is_symlink():
        return
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            match, path = _PARTIAL.fullmatch(name), Path(folder, name)
            if match and not psutil.pid_exists(int(match[1])) and not path.is_symlink():
                yield path
        folders[:] = [name for name in folders if not _PARTIAL.fullmatch(name)]


def _is_busy(folder: Path) -> bool:
    """Whether a process of this machine works in a folder, or says so in DVC's locks there."""
    inside = folder.resolve()
    return any(holder.alive for holder in holders(folder)) or any(
        place.is_relative_to(inside) for place in working_folders()
    )


def _cache(root: Path) -> Iterator[Item]:
    cache = cache_folder(root).resolve()
    if not cache.is_dir():
        return
    size, _ = bytes_and_time(cache)
    if not cache.is_relative_to((root / ".dvc").resolve()):
        why = "other projects may share it: `dvc gc --workspace --projects ...` names all of them"
        yield Item("cache", cache, size, why, stays=True)
        return
    # What these make is in the cache before anything refers to it.
    busy = [f"process {holder.pid}" for holder in holders(root) if holder.alive]
    busy += _clones_at_work(root, cache)
    if busy:
        why = f"DVC is at work ({', '.join(busy)}); try again when it has ended"
        yield Item("cache", cache, size, why, stays=True)
        return
    gone = [Path(path) for path in _REMOVING.findall(dvc(root, "gc", *_USED, "--dry"))]
    if gone:
        why = f"{len(gone)} objects that neither workspace, branch, tag nor experiment refers to"
        size = sum(path.stat().st_size for path in gone if path.is_file())
        yield Item("cache", cache, size, why)


def _clones_at_work(root: Path, cache: Path) -> list[str]:
    """Projects in which a process works and whose cache is this one's: clones, experiments."""
    here, found = root.resolve(), set()
    for place in working_folders():
        project = next((up for up in (place, *place.parents) if (up / ".dvc").is_dir()), here)
        with contextlib.suppress(InputError, OSError):
            if project != here and cache_folder(project).resolve() == cache:
                found.add(str(project))
    return sorted(found)
