"""Checkpoints and logits that no training needs: found first, and removed only on request.

Folders are recognised by the names that a training gives them and their files, and symbolic links
are never followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from models.errors import InputError
from pipeline.upkeep.disk import bytes_and_time
from stages.checkpoints.durable import IN_USE, unheld
from stages.checkpoints.places import checkpoints_root, logits_root

_DAY_S = 86400
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OURS = re.compile(
    rf"\d{{8}}\.checkpoint|epoch-\d{{5}}\.logits|key\.json|\..+\.partial|{re.escape(IN_USE)}"
)


class Item(NamedTuple):
    """A folder of checkpoints or of logits.

    Attributes:
        why: the reason that it is not needed, or that it stays.
        stays: whether it is in use, although it looks as if it could go.
    """

    kind: str
    path: Path
    bytes: int
    why: str
    stays: bool = False


def find(kinds: Collection[str], days: float) -> list[Item]:
    """Look at ``checkpoints``, ``logits`` or both, and change nothing.

    Args:
        days: since its last use that something must lie idle.
    """
    found: list[Item] = []
    if "checkpoints" in kinds:
        for stage in _folders(checkpoints_root()):
            why = f"{stage.name} was interrupted {{}} ago; without them it would begin anew"
            found += _of_trainings("checkpoints", stage, why, days)
    if "logits" in kinds:
        why = "a teacher's logits, last used {} ago; computed again where they are needed"
        found += _of_trainings("logits", logits_root(), why, days)
    return found


def remove(item: Item) -> int:
    """Remove what :func:`find` found, unless it is in use by now; returns the freed bytes.

    Raises:
        InputError: it cannot be removed.
    """
    if item.path.is_symlink():
        return 0
    try:
        with unheld(item.path) as free:
            for path in item.path.iterdir() if free else ():
                path.unlink()
        with contextlib.suppress(OSError):  # a training has begun in it, or beside it
            item.path.rmdir()
            item.path.parent.rmdir()
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
