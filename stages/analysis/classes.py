"""``reports/classes.csv``: figures for each class, comparable between runs.

A bit for each test image says whether the student is right, and a digest identifies the images, so
two runs on the same images get a paired comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.errors import InputError
from stages.analysis.intervals import Gain, Right, gain, mean_gain
from stages.files import read_csv, write_csv

if TYPE_CHECKING:
    from stages.data.arrays import Images

CLASSES_FILE = Path("reports/classes.csv")
GAIN_COLUMNS = ("gain", "gain_low", "gain_high")

_CHUNK = 1024
_COLUMNS = ("class", "images", "images_digest", "student_right")
_REMEDY = "expected an unchanged reports/classes.csv of a run"


@dataclass(frozen=True)
class OneClass:
    """The student's results on one class's test images."""

    name: str
    digest: str  # of the images' pixels, in order
    right: Right  # [N], whether each prediction is right; N may be 0


@dataclass(frozen=True)
class Gains:
    """The gains of one run over another on the same classes."""

    paired: bool  # whether both saw the same test images of every class
    mean: Gain  # over the classes with test images in both
    classes: list[Gain | None]  # one for each class; None without test images in both


def by_class(test: Images, classes: list[str], right: Right) -> list[OneClass]:
    """Divide the results on the test split by class."""
    digests = [hashlib.sha256() for _ in classes]
    for start in range(0, len(test), _CHUNK):
        images = test.images[start : start + _CHUNK]
        for image, label in zip(images, test.labels[start : start + _CHUNK], strict=True):
            digests[label].update(image.tobytes())
    return [
        OneClass(name, digest.hexdigest()[:16], right[test.labels == label])
        for label, (name, digest) in enumerate(zip(classes, digests, strict=True))
    ]


def class_means(
    values: npt.NDArray[Any], labels: npt.NDArray[np.int64], classes: int
) -> list[float | None]:
    """Return the mean of ``values`` ``[N]`` over each class's images; None if it has none."""
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, values, minlength=classes)
    return [float(s / n) if n else None for s, n in zip(sums, counts, strict=True)]


def compare_runs(ours: list[OneClass], theirs: list[OneClass]) -> Gains:
    """Compare two runs class by class; raises InputError if no class has test images in both."""
    both = [(a.right, b.right, a.digest == b.digest) for a, b in zip(ours, theirs, strict=True)]
    present = [one for one in both if len(one[0]) and len(one[1])]
    if not present:
        raise InputError("analyze.baseline: no class has test images in both runs; set it to null")
    gains = [gain(*one) if len(one[0]) and len(one[1]) else None for one in both]
    return Gains(all(paired for *_, paired in present), mean_gain(present), gains)


def write_classes(
    classes: list[OneClass], figures: Mapping[str, list[float | None]], gains: Gains | None
) -> None:
    """Write ``reports/classes.csv``; ``figures`` are further columns, a value for each class."""
    rows: list[dict[str, Any]] = []
    for index, one in enumerate(classes):
        row: dict[str, Any] = {"class": one.name, "images": len(one.right)}
        row |= {name: values[index] for name, values in figures.items()}
        if gains is not None:
            row |= zip(GAIN_COLUMNS, gains.classes[index] or (None,) * 3, strict=True)
        bits = np.packbits(one.right).tobytes().hex()
        rows.append(row | {"images_digest": one.digest, "student_right": bits})
    write_csv(CLASSES_FILE, rows)


def read_classes() -> list[dict[str, Any]]:
    """Read ``reports/classes.csv`` with figures as numbers; None if a class has no test images."""
    rows = read_csv(CLASSES_FILE)
    figures = [name for name in rows[0] if name not in _COLUMNS]
    return [
        {"class": row["class"], "images": int(row["images"])}
        | {name: float(row[name]) if row[name] else None for name in figures}
        for row in rows
    ]


def read_baseline(path: Path, classes: list[str]) -> list[OneClass]:
    """Read another run's classes; raises InputError if they are missing, damaged or others."""
    if not path.is_file():
        raise InputError(
            f"params.yaml: analyze.baseline: {path}: no such file; name a copy of another run's"
            " reports/classes.csv, or set it to null"
        )
    rows = read_csv(path)
    if not rows or not set(_COLUMNS) <= rows[0].keys():
        raise InputError(f"{path}: lacks the columns {', '.join(_COLUMNS)}; {_REMEDY}")
    names = [row["class"] for row in rows]
    if names != classes:
        raise InputError(
            f"params.yaml: analyze.baseline: {path} has {_listed(names)}, expected the data's"
            f" {_listed(classes)}; name a run on the same classes, or set it to null"
        )
    return [_parse(row, path) for row in rows]


def _parse(row: dict[str, str], path: Path) -> OneClass:
    try:
        count, packed = int(row["images"]), bytes.fromhex(row["student_right"])
    except (ValueError, TypeError):
        count, packed = 8, b""
    if not 0 <= 8 * len(packed) - count < 8:
        raise InputError(
            f"{path}: class {row['class']!r}: student_right does not have one bit per image;"
            f" {_REMEDY}"
        )
    right = np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)
    return OneClass(row["class"], row["images_digest"], right)


def _listed(names: list[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', …' * (len(names) > 3)})"
