"""Folders of image files, a folder for each class."""

from __future__ import annotations

import os
from array import array
from pathlib import Path

from PIL import Image

from models.errors import InputError
from stages.data.sources.base import VAL_NAMES, Source, SourceSplit

_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SPLIT_NAMES = ("train", *VAL_NAMES, "test")


def open_image_folder(location: str, named_splits: list[str]) -> Source:
    """Either ``<split>/<class>/*`` or ``<class>/*``; the latter is one split, ``train``.

    Folders named train, validation, valid, val or test, or as ``named_splits`` says, are splits
    where a training split is among them. Files are looked for at any depth below a class; those
    without the extension of an image, and hidden ones, are passed over.

    Raises:
        InputError: the folder is missing, holds no classes, or a class of it holds no image.
    """
    root = Path(location).expanduser()
    if not root.is_dir():
        raise InputError(f"data.source: {location!r} is not a folder; correct the path")
    folders = _subfolders(root)
    if any(folder.name in ("train", *named_splits) for folder in folders):
        splits = {f.name: f for f in folders if f.name in (*_SPLIT_NAMES, *named_splits)}
    else:
        splits = {"train": root}
    return Source(list(splits), lambda name: _open_split(splits[name]))


class _Names:
    """File names, end to end: of millions, as many strings would take far more memory.

    Path objects most of all, as Python keeps a table of all their parts, which never shrinks.
    """

    def __init__(self) -> None:
        self._joined = bytearray()
        self._ends = array("Q")

    def append(self, name: str) -> None:
        self._joined += os.fsencode(name)
        self._ends.append(len(self._joined))

    def __getitem__(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return os.fsdecode(bytes(self._joined[start : self._ends[number]]))


def _open_split(folder: Path) -> SourceSplit:
    files = _Names()  # below ``folder``
    labels: list[str] = []
    for class_folder in _subfolders(folder):
        images = _image_names(class_folder)
        if not images:
            raise InputError(
                f"{class_folder}: this class has no image; add images or remove the folder"
            )
        for name in images:
            files.append(f"{class_folder.name}/{name}")
        labels += [class_folder.name] * len(images)
    if not labels:
        raise InputError(
            f"{folder}: no images found; expected a folder of image files for each class"
        )
    return SourceSplit(
        labels=labels,
        image=lambda position: Image.open(f"{folder}/{files[position]}"),
        describe=lambda position: f"{folder}/{files[position]}",
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _image_names(folder: Path) -> list[str]:
    """The images at any depth, as ``inner/name.png``, sorted folder by folder."""
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = Path(base).relative_to(folder).as_posix()
        prefix = "" if inner == "." else f"{inner}/"
        found += [prefix + name for name in names if _is_image(name)]
    return sorted(found, key=lambda name: name.replace("/", "\0"))


def _is_image(name: str) -> bool:
    return name.lower().endswith(_EXTENSIONS) and not name.startswith(".")
