"""What folders take on the disk, and whether the images of a run fit there.

That is known only roughly before a run. Networks, checkpoints and exports are small beside them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from pathlib import Path
from stat import S_ISREG

from rich.filesize import decimal

from models.errors import InputError
from pipeline.dvc_config import cache_folder, links_outputs
from stages.files import read_json, without_folders
from stages.params import Params

_IMAGES = Path("artifacts/data")
_REPORT = Path("reports/data.json")
# Those of the embedded source, and of the data sets that report.paper names.
_COUNTS = {
    "digits": 1797,
    "cifar100": 60_000,
    "cinic10": 270_000,
    "tiny_imagenet": 110_000,
    "imagenet": 1_331_167,
}


def image_bytes(params: Params) -> int | None:
    """The approximate size of the prepared images; None if their number is unknown."""
    data = params.data
    side, count = data.resize or data.image_size, _COUNTS.get(params.report.paper or data.source)
    known = read_json(_REPORT) if _REPORT.is_file() else {}
    if known.get("source") == without_folders(data.source):
        side = side or int(known["image_size"])
        parts = [*known["splits"].values(), known.get("unlabeled", {"count": 0})]
        count = sum(int(part["count"]) for part in parts)
    elif data.train_per_class is not None:
        count = None
    elif data.source.startswith("imagefolder:"):
        folders = [data.source, *([data.unlabeled] if data.unlabeled else [])]
        count = sum(_files(folder.partition(":")[2]) for folder in folders)
    return None if count is None or side is None else 3 * count * side**2


def _files(folder: str) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def require_space(root: Path, params: Params) -> str:
    """A sentence with the free space, and with what the images need of it.

    Raises:
        InputError: they do not fit.
    """
    whole = image_bytes(params)
    needed = 0 if whole is None else max(0, whole - bytes_and_time(root / _IMAGES)[0])
    places = [_existing(root / _IMAGES)]
    if not links_outputs(root):  # DVC has a copy, maybe on another disk
        places.append(_existing(cache_folder(root)))
    copies = Counter(place.stat().st_dev for place in places)
    for place in places:
        free, taken = shutil.disk_usage(place).free, needed * copies[place.stat().st_dev]
        if taken > free:
            raise InputError(
                f"{place}: the images take about {decimal(taken)}, and on this disk"
                f" {decimal(free)} are free; `ackd gc` lists what can go, `dvc config cache.type"
                " hardlink,symlink` saves DVC's copy, and `dvc cache dir` puts it on another disk"
            )
    images = "are not counted yet" if whole is None else f"take about {decimal(needed)} of it"
    return f"disk: {decimal(shutil.disk_usage(places[0]).free)} are free; new images {images}"


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())


def bytes_and_time(folder: Path) -> tuple[int, float]:
    """What the files of a folder take, and when the last of them was written (0 without one)."""
    size, written = 0, 0.0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it may go away meanwhile
                status = Path(place, name).lstat()
                if S_ISREG(status.st_mode):
                    size, written = size + status.st_size, max(written, status.st_mtime)
    return size, written
