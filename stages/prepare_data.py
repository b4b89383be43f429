"""Stage ``prepare_data``: write any source's images as uint8 arrays per split, with a manifest."""

from __future__ import annotations

import hashlib
import shutil
from array import array
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import InputError, printable
from stages.data.arrays import DATA_FOLDER, SPLITS, Split, middle, write_header
from stages.data.sources.base import SourceSplit
from stages.data.sources.decode import DamagedImageError, decode
from stages.data.sources.schemes import open_source, open_unlabeled
from stages.data.splits import ChosenSplit, choose_splits
from stages.entry import run_stage
from stages.files import new_folder, sha256, without_folders, write_json
from stages.machine import cores
from stages.params import Params
from stages.preflight import check
from stages.progress import track
from stages.sections.data import Data

REPORT = Path("reports/data.json")
_AHEAD = 8  # images per core to decode ahead of writing; bounds the memory
_NAMED = 5  # damaged images to name in a message


@dataclass
class Statistics:
    """Statistics of the images, collected while they are written."""

    histogram: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    """Pixel counts by channel and level."""
    digests: array[int] = field(default_factory=lambda: array("Q"))
    """One digest per image, equal for equal pixels."""

    def add(self, image: npt.NDArray[np.uint8], digest: int) -> None:
        for channel in range(3):
            self.histogram[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
        self.digests.append(digest)

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel, for levels scaled to 0..1."""
        levels = np.arange(256)
        count = self.histogram.sum(axis=1)
        mean = self.histogram @ levels / count
        variance = [
            row @ (levels - m) ** 2 / n
            for row, m, n in zip(self.histogram, mean, count, strict=True)
        ]
        return (mean / 255).tolist(), (np.sqrt(variance) / 255).tolist()


def main(params: Params) -> None:
    """Write ``artifacts/data/`` and ``reports/data.json``."""
    check(params)
    data = params.data
    choice = choose_splits(open_source(data), data)
    extra = open_unlabeled(data) if data.unlabeled is not None else None
    notes = [*choice.notes, *(extra.notes if extra else ())]
    for note in notes:
        print(printable(note))
    size = data.image_size or _own_size(data.source, choice.splits["train"])
    _require_space(choice.splits, len(extra.labels) if extra else 0, size, data.resize or size)
    statistics: dict[Split, Statistics] = {}
    splits: dict[str, dict[str, Any]] = {}
    damaged: list[str] = []
    with new_folder(DATA_FOLDER) as folder:
        for name in SPLITS:
            chosen = choice.splits[name]
            images_path, labels_path = folder / f"{name}_images.npy", folder / f"{name}_labels.npy"
            margin = name == "train"
            found = _write_images(images_path, chosen, size, data, damaged, margin=margin)
            statistics[name], kept = found
            labels = chosen.labels[kept].astype(np.int64)
            with labels_path.open("wb") as handle:
                write_header(handle, np.int64, labels.shape)
                handle.write(labels.tobytes())
            splits[name] = {
                "count": len(labels),
                "per_class": np.bincount(labels, minlength=len(choice.classes)).tolist(),
                "images_sha256": sha256(images_path),
                "labels_sha256": sha256(labels_path),
            }
        damaged = list(dict.fromkeys(damaged))  # validation may use the test images
        if damaged:
            wanted = len(np.unique(choice.splits["train"].labels))
            trained = int(np.count_nonzero(splits["train"]["per_class"]))
            emptied = trained < wanted or not all(split["count"] for split in splits.values())
            lacking = "a class or split has no other images" if emptied else ""
            _judge_damage(damaged, data.source, data, lacking)
        unlabeled: dict[str, Any] = {}
        if extra is not None:
            unlabeled = _write_unlabeled(folder, extra, data, size, statistics.values(), damaged)
        mean, std = statistics["train"].mean_and_std()
        if min(std) == 0:
            raise InputError(
                f"{data.source}: a colour channel is constant over all training images; use others"
            )
        summary: dict[str, Any] = {
            "source": data.source,
            "image_size": size,
            "fit": data.fit,
            "classes": list(choice.classes),
            "mean": mean,
            "std": std,
        }
        for other in ("val", "test"):
            repeated = np.isin(statistics[other].digests, statistics["train"].digests).sum()
            summary[f"{other}_images_also_in_train"] = int(repeated)
            print(f"{other}: {repeated} images also in train, with identical pixels")
        if unlabeled:
            summary["unlabeled"] = unlabeled
        write_json(folder / "manifest.json", {**summary, "splits": splits})
    counts = {
        name: {key: split[key] for key in ("count", "per_class")} for name, split in splits.items()
    }
    summary |= {"source": without_folders(data.source), "splits": counts}
    if unlabeled:
        summary["unlabeled"] = {
            "source": without_folders(unlabeled["source"]),
            **{key: unlabeled[key] for key in ("count", "left_out")},
        }
    summary |= {"notes": notes, "damaged": damaged}
    write_json(REPORT, summary)
    print(describe(summary | {"source": data.source}))


def describe(report: dict[str, Any]) -> str:
    """Return the counts of ``reports/data.json`` as one line."""
    sizes = ", ".join(f"{split['count']} {name}" for name, split in report["splits"].items())
    size, more = report["image_size"], ""
    if unlabeled := report.get("unlabeled"):
        more = f"; {unlabeled['count']} unlabeled"
        more += f", {unlabeled['left_out']} left out as duplicates" * bool(unlabeled["left_out"])
    line = f"{report['source']}: {sizes} images of {len(report['classes'])} classes, {size}x{size}"
    return line + more


def _require_space(
    splits: Mapping[Split, ChosenSplit], unlabeled: int, size: int, train_size: int
) -> None:
    """Raise InputError early if the images will not fit on the disk."""
    sides = {name: train_size if name == "train" else size for name in splits}
    pixels = sum(len(chosen.positions) * sides[name] ** 2 for name, chosen in splits.items())
    needed = 3 * (pixels + unlabeled * train_size**2)
    free = shutil.disk_usage(Path()).free
    if needed > free:
        raise InputError(
            f"{DATA_FOLDER}: the images need {needed / 1e9:.3g} GB, but this disk has only"
            f" {free / 1e9:.3g} GB free; make room for them and for DVC's copy"
            " (docs/how-to-keep-it-running.md)"
        )


def _write_unlabeled(
    folder: Path,
    split: SourceSplit,
    data: Data,
    size: int,
    others: Iterable[Statistics],
    damaged: list[str],
) -> dict[str, Any]:
    """Write the unlabeled images that are in no other split; return their manifest entry.

    Adds those that cannot be read to ``damaged``.
    """
    path = folder / "unlabeled_images.npy"
    zeros = np.zeros(len(split.labels), np.int64)
    chosen = ChosenSplit(split, np.arange(len(zeros)), zeros)
    known = {digest for part in others for digest in part.digests}
    broken: list[str] = []
    _, kept = _write_images(path, chosen, size, data, broken, known, margin=True)
    if broken:
        lacking = "there are no others" if len(broken) == len(zeros) else ""
        _judge_damage(broken, f"data.unlabeled: {data.unlabeled}", data, lacking)
        damaged += [image for image in broken if image not in damaged]
    left_out = len(zeros) - len(kept) - len(broken)
    if not kept:
        raise InputError(
            f"data.unlabeled: all images of {data.unlabeled} are also in train, val or test; name"
            " other images, or set it to null"
        )
    counts = {"source": data.unlabeled, "count": len(kept), "left_out": left_out}
    return counts | {"images_sha256": sha256(path)}


def _digest(image: npt.NDArray[np.uint8], size: int) -> int:
    """Hash the centre crop of ``size`` pixels."""
    digest = hashlib.blake2b(middle(image, size).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _judge_damage(damaged: list[str], source: str, data: Data, lacking: str) -> None:
    listed = ", ".join(damaged[:_NAMED])
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    problem = f"{source}: {len(damaged)} of the images cannot be read: {listed}{more};"
    if lacking:
        raise InputError(f"{problem} replace them, because {lacking}")
    if data.damaged == "refuse":
        raise InputError(f"{problem} replace or remove them, or set data.damaged: skip")
    print(printable(f"{problem} they are skipped"))


def _own_size(source: str, chosen: ChosenSplit) -> int:
    for position in chosen.positions:
        try:
            height, width, _ = _decode(chosen, int(position), None, "crop").shape
        except DamagedImageError:
            continue
        if height != width:
            raise InputError(
                f"{source}: {chosen.source.describe(int(position))} has {width}x{height} pixels,"
                " expected a square; set data.image_size to resize and crop"
            )
        return int(height)
    raise InputError(f"{source}: no training image can be read; correct the path or the files")


def _decode(
    chosen: ChosenSplit, position: int, size: int | None, fit: str
) -> npt.NDArray[np.uint8]:
    source = chosen.source
    return decode(lambda: source.image(position), size, source.describe(position), fit)


def _write_images(
    path: Path,
    chosen: ChosenSplit,
    size: int,
    data: Data,
    damaged: list[str],
    known: Collection[int] = (),
    *,
    margin: bool,
) -> tuple[Statistics, list[int]]:
    """Decode images and write them as an array ``[N, size, size, 3]``, except known ones.

    Uses plain writes: on a full disk, a memory map would kill the process, and ``np.save`` would
    not give the reason.

    Returns:
        Statistics of the written images, and their indices among the chosen ones.
    """
    statistics = Statistics()
    positions = chosen.positions
    resize = data.resize or data.image_size
    decoded_size = resize or size
    stored_size = decoded_size if margin else size

    def pixels(position: int) -> tuple[npt.NDArray[np.uint8], int] | str:
        try:
            image = _decode(chosen, position, resize, data.fit)
            stored = middle(image, stored_size)
            if data.fit != "crop" and stored_size < decoded_size:  # nothing may be cut off
                stored = _decode(chosen, position, stored_size, data.fit)
        except DamagedImageError as error:
            return str(error)
        if image.shape[:2] != (decoded_size, decoded_size):
            height, width, _ = image.shape
            raise InputError(
                f"{data.source}: {chosen.source.describe(position)} has {width}x{height} pixels"
                f" where others have {size}x{size}; set data.image_size to resize and crop"
            )
        return stored, _digest(image, size)

    def decoded() -> Iterator[tuple[npt.NDArray[np.uint8], int] | str]:
        ahead: deque[Future[tuple[npt.NDArray[np.uint8], int] | str]] = deque()
        for position in positions:
            ahead.append(pool.submit(pixels, int(position)))
            if len(ahead) == _AHEAD * cores():
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    kept = []
    with path.open("wb") as handle, ThreadPoolExecutor(cores()) as pool:
        write_header(handle, np.uint8, (len(positions), stored_size, stored_size, 3))
        images = track(decoded(), path.stem.replace("_", " "), total=len(positions))
        for row, found in enumerate(images):
            if isinstance(found, str):
                damaged.append(found)
                continue
            image, digest = found
            if digest in known:
                continue
            kept.append(row)
            handle.write(image.tobytes())
            statistics.add(image, digest)
        handle.seek(0)  # numpy pads the header, so another count fits
        write_header(handle, np.uint8, (len(kept), stored_size, stored_size, 3))
    return statistics, kept


if __name__ == "__main__":
    run_stage(main)
