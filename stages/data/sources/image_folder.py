"""Folders of image files, a folder for each class."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from models.errors import InputError, printable
from stages.data.sources.base import Source, SourceSplit, split_called

_EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
#: What archives, storage boxes and file systems keep beside the files, thumbnails for example.
_NOT_DATA = {
    *("__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "lost+found"),
    *("system volume information", "thumbs.db", "desktop.ini"),
}


def open_image_folder(location: str, named_splits: list[str]) -> Source:
    """Either ``<split>/<class>/*`` or ``<class>/*``; the latter is one split, ``train``.

    Folders called as splits are (see :func:`split_called`), or as ``named_splits`` says, are splits
    where they hold class folders and a training split is among them. Files are looked for at any
    depth below a class, through links too. Hidden files are no data; other files without the
    extension of an image are passed over and counted in the notes.

    Raises:
        InputError: the folder is missing; splits and classes cannot be told apart; a class has no
            image, or a name that is not UTF-8.
    """
    root = Path(location).expanduser()
    if not root.is_dir():
        raise InputError(f"data.source: {location!r} is not a folder; correct the path")
    folders = _subfolders(root)
    splits = _find_splits(root, folders, named_splits)
    notes = []
    if splits and (rest := [name for name in folders if name not in splits]):
        notes.append(f"passed over {', '.join(rest)}: no split, or without class folders")
    return Source(
        list(splits) or ["train"],
        lambda name: _open_split(root, f"{name}/" if splits else ""),
        notes=notes,
    )


def open_flat_folder(location: str) -> SourceSplit:
    """Every image below a folder, at any depth, as one class.

    Raises:
        InputError: the folder is missing, or has no image.
    """
    root = Path(location).expanduser()
    if not root.is_dir():
        raise InputError(f"{location!r} is not a folder; correct the path")
    files, found, passed = _Names(), *_image_names(root)
    for name in found:
        files.append(name)
    if not found:
        raise InputError(f"{root}: no images found{_listed(passed)}; add images or correct it")
    return _split(root, files, [""] * len(found), "the unlabeled images", passed)


def _find_splits(root: Path, folders: list[str], named: list[str]) -> list[str]:
    """Those of the folders that are splits; none where they are the classes."""
    called = [name for name in folders if name in named or split_called(name)]
    nested = [name for name in called if name in named or _subfolders(root / name)]
    kinds = {split_called(name) for name in nested}
    if called and (named or ("train" in kinds and (len(kinds) > 1 or called == folders))):
        return nested
    if nested or len(called) > 1:
        raise InputError(
            f"{root}: {', '.join(called)} may be splits or classes; name the splits in"
            " data.train_split and data.test_split, or rename the classes"
        )
    return []


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


def _open_split(root: Path, prefix: str) -> SourceSplit:
    files = _Names()  # below ``root``
    labels: list[str] = []
    folder = root / prefix
    passed = Counter(
        f"{Path(entry.name).suffix.lower()} beside the classes"
        for entry in os.scandir(folder)
        if _is_data(entry.name) and not entry.is_dir()
    )
    for name in _subfolders(folder):
        images, others = _image_names(folder / name)
        if not images:
            raise InputError(
                f"{folder / name}: this class has no image{_listed(others)}; add images or remove"
                " the folder"
            )
        for image in images:
            files.append(f"{prefix}{name}/{image}")
        labels += [name] * len(images)
        passed += others
    if not labels:
        raise InputError(
            f"{folder}: no images found; expected a folder of image files for each class"
        )
    return _split(root, files, labels, prefix or "the folder", passed)


def _split(
    root: Path, files: _Names, labels: list[str], where: str, passed: Counter[str]
) -> SourceSplit:
    return SourceSplit(
        labels=labels,
        image=lambda position: Image.open(f"{root}/{files[position]}"),
        describe=lambda position: printable(files[position]),
        notes=[f"passed over in {where}{_listed(passed)}"] if passed else [],
    )


def _listed(passed: Counter[str]) -> str:
    return f" ({', '.join(f'{n} {kind}' for kind, n in passed.most_common())})" if passed else ""


def _subfolders(folder: Path) -> list[str]:
    names = sorted(e.name for e in os.scandir(folder) if _is_data(e.name) and e.is_dir())
    for name in names:
        if name.encode(errors="replace").decode() != name:
            raise InputError(
                f"{folder}: the folder '{printable(name)}' has a name that is not UTF-8; rename it"
            )
    return names


def _image_names(folder: Path) -> tuple[list[str], Counter[str]]:
    """The images at any depth, as ``inner/name.png``, sorted folder by folder; other extensions."""
    found = []
    passed: Counter[str] = Counter()
    for inner, names in walk(folder):
        prefix = "" if inner == "." else f"{inner}/"
        for name in names:
            if name.lower().endswith(_EXTENSIONS):
                found.append(prefix + name)
            else:
                passed[Path(name).suffix.lower() or "without extension"] += 1
    return sorted(found, key=lambda name: name.replace("/", "\0")), passed


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The folders below, in order, with the files in them that are data; links are followed once.

    Yields:
        The folder relative to the given one, ``.`` for itself, and the files' names, sorted.
    """
    real = folder.resolve()
    seen = {real, *real.parents}  # links may lead in circles
    for base, folders, names in os.walk(folder, followlinks=True):
        entered = []
        for name in filter(_is_data, sorted(folders)):
            real = Path(base, name).resolve()
            if real not in seen:
                seen.add(real)
                entered.append(name)
        folders[:] = entered
        yield Path(base).relative_to(folder).as_posix(), sorted(filter(_is_data, names))


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _NOT_DATA
