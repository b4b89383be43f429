"""What a project no longer needs: found first, and removed only on request.

Each kind has its place, and nothing outside of it is touched: folders and files are recognised by
the names that this program gives them, and symbolic links are never followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from models.errors import InputError
from pipeline.dvc_command import dvc
from pipeline.dvc_config import cache_folder
from pipeline.upkeep.processes import holders, working_folders
from pipeline.upkeep.sizes import bytes_and_time
from stages.checkpoints.durable import IN_USE, unheld
from stages.checkpoints.places import checkpoints_root, logits_root

_DAY_S = 86400
_EXPERIMENTS = Path(".dvc/tmp/exps/standalone")
# All that is kept: present files, releases and whatever else is tagged, branches, experiments.
_USED = ("--workspace", "--all-branches", "--all-tags", "--all-experiments")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_OURS = re.compile(
    rf"\d{{8}}\.checkpoint|epoch-\d{{5}}\.logits|key\.json|\..+\.partial|{re.escape(IN_USE)}"
)
_PARTIAL = re.compile(r"\..+\.(\d+)\.partial")
_REMOVING = re.compile(r"^Removing (.+)$", re.M)


class Item(NamedTuple):
    """Something that takes disk: a folder, a file, or all of a cache that nothing refers to.

    Attributes:
        kind: ``checkpoints``, ``logits``, ``temporary`` or ``cache``.
        why: the reason that it is not needed, or that it stays.
        stays: whether it is in use, although it looks as if it could go.
    """

    kind: str
    path: Path
    bytes: int
    why: str
    stays: bool = False


def find(root: Path, kinds: Collection[str], days: float) -> list[Item]:
    """Look, and change nothing.

    Args:
        root: of the project, the working directory.
        kinds: of :class:`Item`.
        days: since its last use that something must lie idle; the cache goes by what refers to it
            instead.

    Raises:
        InputError: DVC refuses to look at its cache.
    """
    found: list[Item] = []
    if "checkpoints" in kinds:
        for stage in _folders(checkpoints_root()):
            why = f"{stage.name} was interrupted {{}} ago; without them it would begin anew"
            found += _of_trainings("checkpoints", stage, why, days)
    if "logits" in kinds:
        why = "a teacher's logits, last used {} ago; computed again where they are needed"
        found += _of_trainings("logits", logits_root(), why, days)
    if "temporary" in kinds:
        found += _temporary(root, days)
    if "cache" in kinds:
        found += _cache(root)
    return found


def remove(root: Path, item: Item) -> int:
    """Remove what :func:`find` found, unless it is in use by now; returns the freed bytes.

    Raises:
        InputError: it cannot be removed.
    """
    if item.kind == "cache":
        before, _ = bytes_and_time(item.path)
        dvc(root, "gc", *_USED, "--force")
        return max(0, before - bytes_and_time(item.path)[0])
    if item.path.is_symlink():
        return 0
    free = False
    try:
        if item.kind != "temporary":
            with unheld(item.path) as free:
                for path in item.path.iterdir() if free else ():
                    path.unlink()
            with contextlib.suppress(OSError):  # a training has begun in it, or beside it
                item.path.rmdir()
                item.path.parent.rmdir()
        elif free := not _is_busy(item.path):
            shutil.rmtree(item.path) if item.path.is_dir() else item.path.unlink()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise InputError(
            f"{item.path}: not removed ({error.strerror}); remove it by hand"
        ) from None
    return item.bytes if free else 0


def _folders(place: Path) -> Iterator[Path]:
    """Those directly in a place, by name; no symbolic links."""
    with contextlib.suppress(OSError):
        for path in sorted(place.iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield path


def _is_ours(folder: Path) -> bool:
    """Whether a training made it, by its name and by every file in it."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return False
    return _DIGEST.fullmatch(folder.name) is not None and all(
        entry.is_file(follow_symlinks=False) and _OURS.fullmatch(entry.name) for entry in entries
    )


def _of_trainings(kind: str, place: Path, why: str, days: float) -> Iterator[Item]:
    for folder in filter(_is_ours, _folders(place)):
        size, used = bytes_and_time(folder)
        age = (time.time() - used) / _DAY_S if used else days
        with unheld(folder) as free:
            if not free:
                reason = "a training uses them, or the file system cannot tell"
                yield Item(kind, folder, size, reason, stays=True)
            elif age >= days:
                yield Item(kind, folder, size, why.format(f"{age:.0f} days"))


def _temporary(root: Path, days: float) -> Iterator[Item]:
    """What killed experiments and stages have left."""
    left = [(path, "left by an experiment") for path in _folders(root / _EXPERIMENTS)]
    for place in (root / "artifacts", root / "reports"):
        left += [(path, "half-written by a stage") for path in _partials(place)]
    for path, who in left:
        size, written = bytes_and_time(path) if path.is_dir() else (path.stat().st_size, 0.0)
        age = (time.time() - (written or path.stat().st_mtime)) / _DAY_S
        if _is_busy(path):
            yield Item("temporary", path, size, "a process works in it", stays=True)
        elif age >= days:
            yield Item("temporary", path, size, f"{who} that was killed, {age:.0f} days ago")


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
    """Whether a process of this machine works in a folder, or holds DVC's locks there."""
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
    # Their outputs are in the cache before anything refers to them.
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
    """Other projects with this cache in which a process works: clones, experiments."""
    here, found = root.resolve(), set()
    for place in working_folders():
        project = next((up for up in (place, *place.parents) if (up / ".dvc").is_dir()), here)
        with contextlib.suppress(InputError, OSError):
            if project != here and cache_folder(project).resolve() == cache:
                found.add(str(project))
    return sorted(found)
