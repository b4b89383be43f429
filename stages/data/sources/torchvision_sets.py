"""Torchvision's data sets by name; missing files are downloaded."""

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from models.errors import InputError
from stages.data.sources.base import Source, SourceSplit, first_line, raise_if_disk_full, unknown

_TRAIN_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}


def _split_names(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"split": name} for name in names}


SETS = {
    "CIFAR10": _TRAIN_FLAG,
    "CIFAR100": _TRAIN_FLAG,
    "Country211": _split_names("train", "valid", "test"),
    "DTD": _split_names("train", "val", "test"),
    "FGVCAircraft": _split_names("train", "val", "test"),
    "FashionMNIST": _TRAIN_FLAG,
    "Flowers102": _split_names("train", "val", "test"),
    "Food101": _split_names("train", "test"),
    "Imagenette": _split_names("train", "val"),
    "KMNIST": _TRAIN_FLAG,
    "MNIST": _TRAIN_FLAG,
    "RenderedSST2": _split_names("train", "val", "test"),
    "STL10": _split_names("train", "test", "unlabeled"),
    "SVHN": _split_names("train", "test", "extra"),
    "USPS": _TRAIN_FLAG,
}  # the constructor's arguments for each set and split


def open_torchvision(location: str) -> Source:
    """Open ``<name>:<root>``: torchvision's files in the folder ``root``, fetched if missing.

    Some of these files are pickles; torchvision verifies their checksums before it opens them.

    Raises:
        InputError: the name is unknown, or the files are missing and cannot be fetched.
    """
    name, _, root = location.partition(":")
    if name not in SETS:
        raise unknown("data.source: the torchvision data set", name, SETS)
    if not root:
        raise InputError(f"data.source names no folder; write torchvision:{name}:<root>")
    open_rows = functools.cache(
        lambda split: _open_rows(name, Path(root).expanduser(), SETS[name][split])
    )

    def open_split(split: str) -> SourceSplit:
        rows = open_rows(split)
        return SourceSplit(
            labels=[int(label) for _, label in rows],
            image=lambda position: _image(rows[position][0]),
            describe=lambda position: f"image {position} of split {split!r}",
        )

    names = getattr(open_rows("train"), "classes", None)
    if names:
        names = [given if isinstance(given, str) else ", ".join(given) for given in names]
    return Source(list(SETS[name]), open_split, names)


def _open_rows(name: str, root: Path, arguments: dict[str, Any]) -> Sequence[tuple[Any, int]]:
    from torchvision import datasets as library  # imports torch, which no other source needs

    build: Callable[..., Sequence[tuple[Any, int]]] = getattr(library, name)
    # Some sets decode an image to return its label; Path as the loader leaves the file closed.
    if "loader" in inspect.signature(build).parameters:
        arguments = arguments | {"loader": Path}
    try:
        return build(root, **arguments)
    except (RuntimeError, OSError):
        pass  # not downloaded yet
    try:
        return build(root, download=True, **arguments)
    except (RuntimeError, OSError, ValueError) as error:
        raise_if_disk_full(error)
        raise InputError(
            f"data.source: torchvision's files of {name} are incomplete in {str(root)!r} and"
            f" could not be fetched ({first_line(error)}); put them there or connect to the network"
        ) from None


def _image(opened: Image.Image | Path) -> Image.Image:
    return Image.open(opened) if isinstance(opened, Path) else opened
