"""The contract of a source: named splits, their labels at once and their images on demand."""

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
}
"""What splits are called, in upper or lower case; the first ones are looked for first."""


@dataclass(frozen=True)
class SourceSplit:
    """One split as the source has it."""

    labels: Sequence[Any]
    """One per image, all integers or all strings; integers index :attr:`Source.class_names`
    where the source has them."""
    image: Callable[[int], Image.Image]
    """Opens the image at a position; called from several threads, so it keeps no state."""
    describe: Callable[[int], str]
    """Names the image at a position within the source: a path, or the split and the row."""
    notes: Sequence[str] = ()
    """What of the split was passed over, a sentence each."""


@dataclass(frozen=True)
class Source:
    """What a scheme found. Splits are opened only when they are used."""

    split_names: Sequence[str]
    open_split: Callable[[str], SourceSplit]
    class_names: Sequence[str] | None = None
    """In the order of the labels; None where the labels are the names."""
    notes: Sequence[str] = ()
    """What was passed over, a sentence each."""


def split_called(name: str) -> Split | None:
    """Which split a name such as ``Training`` stands for."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that does not exist: with the nearest that does, else with all."""
    return InputError(f"{what} {name!r} does not exist; {did_you_mean(name, known)}")


def first_line(error: BaseException) -> str:
    """What another library says, short enough for a part of a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def raise_if_disk_full(error: BaseException) -> None:
    """Lets a full disk be told as such, also where a library wraps it in an error of its own."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, OSError) and candidate.errno in (errno.ENOSPC, errno.EDQUOT):
            raise candidate from None
