"""``reports/classes.csv``: every class by itself, in a form that another run can be compared with.

The file holds which test images of a class the student got right, a bit for each, and a digest of
these images: so a comparison of two runs is a paired one wherever both saw the same images.
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
_REMEDY = "expected the reports/classes.csv of a run, as it was written"


@dataclass(frozen=True)
class OneClass:
    """A class's test images, as the student of a run saw them.

    Attributes:
        digest: of their pixels, in order.
        right: ``[N]``, whether the student's answer is right; N may be 0.
    """

    name: str
    digest: str
    right: Right


@dataclass(frozen=True)
class Gains:
    """One run against another, on the same classes.

    Attributes:
        paired: whether both saw the same test images of every class.
        mean: over the classes that both have test images of.
        classes: None for a class without.
    """

    paired: bool
    mean: Gain
    classes: list[Gain | None]


def by_class(test: Images, classes: list[str], right: Right) -> list[OneClass]:
    """The test split taken apart."""
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
    """The mean of ``values`` ``[N]`` over the images of each class; None without any."""
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, values, minlength=classes)
    return [float(s / n) if n else None for s, n in zip(sums, counts, strict=True)]


def compare_runs(ours: list[OneClass], theirs: list[OneClass]) -> Gains:
    """How much more often the student of this run is right, class by class.

    Raises:
        InputError: no class has test images in both.
    """
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
    """The figures of ``reports/classes.csv`` as numbers; None where a class has no test images."""
    rows = read_csv(CLASSES_FILE)
    figures = [name for name in rows[0] if name not in _COLUMNS]
    return [
        {"class": row["class"], "images": int(row["images"])}
        | {name: float(row[name]) if row[name] else None for name in figures}
        for row in rows
    ]


def read_baseline(path: Path, classes: list[str]) -> list[OneClass]:
    """Another run's classes, for ``analyze.baseline``.

    Raises:
        InputError: the file is missing, damaged, or of other classes.
    """
    if not path.is_file():
        raise InputError(
            f"params.yaml: analyze.baseline: {path}: no such file; name the reports/classes.csv of"
            " another run, kept under a name of its own, or set it to null"
        )
    rows = read_csv(path)
    if not rows or not set(_COLUMNS) <= rows[0].keys():
        raise InputError(f"{path}: lacks the columns {', '.join(_COLUMNS)}; {_REMEDY}")
    names = [row["class"] for row in rows]
    if names != classes:
        raise InputError(
            f"params.yaml: analyze.baseline: {path} is of {_listed(names)}, but the data are of"
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
            f"{path}: class {row['class']!r}: student_right does not hold one bit for each of its"
            f" images; {_REMEDY}"
        )
    right = np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)
    return OneClass(row["class"], row["images_digest"], right)


def _listed(names: list[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', …' * (len(names) > 3)})"
