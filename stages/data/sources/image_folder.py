"""Folders of image files, one folder per class."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.errors import InputError, printable
from stages.data.sources.base import Source, SourceSplit, split_called

_Names: TypeAlias = npt.NDArray[np.bytes_]

_EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
#: Files that archives, NAS devices and file systems keep beside the data, such as thumbnails.
_NOT_DATA = {
    *("__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "lost+found"),
    *("system volume information", "thumbs.db", "desktop.ini"),
}


def open_image_folder(location: str, named_splits: list[str]) -> Source:
    """Open ``<split>/<class>/*`` or ``<class>/*``; the latter is one split, ``train``.

    Folders named like splits (see :func:`split_called`) or in ``named_splits`` are splits if they
    hold class folders and include a training split. Files may be at any depth below a class, also
    behind links. Hidden files are ignored; other files without an image's extension are skipped and
    counted in the notes.

    Raises:
        InputError: the folder is missing, its layout is ambiguous, or a class has no image or a
            name that is not UTF-8.
    """
    root = Path(location).expanduser()
    if not root.is_dir():
        raise InputError(f"data.source: {location!r} is not a folder; correct the path")
    folders = _subfolders(root)
    splits = _find_splits(root, folders, named_splits)
    notes = []
    if splits and (rest := [name for name in folders if name not in splits]):
        notes.append(f"skipped {', '.join(rest)}: not a split, or without class folders")
    return Source(
        list(splits) or ["train"],
        lambda name: _open_split(root, f"{name}/" if splits else ""),
        notes=notes,
    )


def open_flat_folder(location: str) -> SourceSplit:
    """Open all images at any depth as one class; raises InputError if there are none."""
    root = Path(location).expanduser()
    if not root.is_dir():
        raise InputError(f"{location!r} is not a folder; correct the path")
    found, passed = _image_names(root)
    if not found:
        raise InputError(
            f"{root}: no images found{_listed(passed)}; add images or correct the path"
        )
    return _split(root, _packed(found), [""] * len(found), "the unlabeled images", passed)


def _find_splits(root: Path, folders: list[str], named: list[str]) -> list[str]:
    """Return the folders that are splits; none if the folders are classes."""
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


def _packed(names: list[str]) -> _Names:
    """Pack file names into an array, because millions of strings would take far more memory."""
    return np.array([os.fsencode(name) for name in names])


def _open_split(root: Path, prefix: str) -> SourceSplit:
    files: list[_Names] = []  # below ``root``
    labels: list[str] = []
    folder = root / prefix
    passed = Counter(
        f"{Path(entry.name).suffix.lower()} beside the class folders"
        for entry in os.scandir(folder)
        if _is_data(entry.name) and not entry.is_dir()
    )
    for name in _subfolders(folder):
        images, others = _image_names(folder / name)
        if not images:
            raise InputError(
                f"{folder / name}: the class has no images{_listed(others)}; add images or remove"
                " the folder"
            )
        files.append(_packed([f"{prefix}{name}/{image}" for image in images]))
        labels += [name] * len(images)
        passed += others
    if not labels:
        raise InputError(
            f"{folder}: no images found; expected a folder of image files for each class"
        )
    return _split(root, np.concatenate(files), labels, prefix or "the folder", passed)


def _split(
    root: Path, files: _Names, labels: list[str], where: str, passed: Counter[str]
) -> SourceSplit:
    return SourceSplit(
        labels=labels,
        image=lambda position: Image.open(f"{root}/{os.fsdecode(files[position])}"),
        describe=lambda position: printable(os.fsdecode(files[position])),
        notes=[f"skipped in {where}{_listed(passed)}"] if passed else [],
    )


def _listed(passed: Counter[str]) -> str:
    return f" ({', '.join(f'{n} {kind}' for kind, n in passed.most_common())})" if passed else ""


def _subfolders(folder: Path) -> list[str]:
    names = sorted(e.name for e in os.scandir(folder) if _is_data(e.name) and e.is_dir())
    for name in names:
        if name.encode(errors="replace").decode() != name:
            raise InputError(
                f"{folder}: the name of folder '{printable(name)}' is not UTF-8; rename it"
            )
    return names


def _image_names(folder: Path) -> tuple[list[str], Counter[str]]:
    """Find images at any depth, as ``inner/name.png`` sorted by folder; count other extensions."""
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
    """Yield each folder, relative to the given one, and its data files; follow links once."""
    real = folder.resolve()
    seen = {real, *real.parents}  # links may form cycles
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
