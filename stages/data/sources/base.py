"""The contract of a source: named splits with labels in memory and images on demand."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from models.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from stages.data.arrays import Split

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}  # names of splits, ignoring case, in order of preference


@dataclass(frozen=True)
class SourceSplit:
    """One split of a source."""

    labels: Sequence[Any]
    """One per image, all integers or all strings; integers index :attr:`Source.class_names`
    if the source has them."""
    image: Callable[[int], Image.Image]  # opens the image at a position; must be thread-safe
    describe: Callable[[int], str]
    """Names the image at a position in messages: a path, or split and row."""
    notes: Sequence[str] = ()  # what was skipped in the split, a sentence each


@dataclass(frozen=True)
class Source:
    """A source opened by its scheme; splits are opened when used."""

    split_names: Sequence[str]
    open_split: Callable[[str], SourceSplit]
    class_names: Sequence[str] | None = None
    """In the order of the labels; None if the labels are the names."""
    notes: Sequence[str] = ()  # what was skipped, a sentence each


def split_called(name: str) -> Split | None:
    """Return the split that a name such as ``Training`` stands for."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for an unknown name, suggesting the nearest known name or listing all."""
    return InputError(f"{what} {name!r} does not exist; {did_you_mean(name, known)}")


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, to quote in a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def raise_if_disk_full(error: BaseException) -> None:
    """Raise the error of a full disk, even if a library wrapped it in another."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, OSError) and candidate.errno in (errno.ENOSPC, errno.EDQUOT):
            raise candidate from None
