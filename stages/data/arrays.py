"""The data set as ``prepare_data`` leaves it: uint8 arrays per split, and a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from models.errors import InputError
from stages.files import read_json

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
DATA_FOLDER = Path("artifacts/data")


@dataclass(frozen=True)
class Images:
    """One split: images ``[N, H, W, 3]`` uint8 (memory-mapped) and labels ``[N]`` int64."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """What the manifest says, and the splits on demand."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        return list(self.manifest["classes"])

    @property
    def image_size(self) -> int:
        return int(self.manifest["image_size"])

    @property
    def mean(self) -> Sequence[float]:
        """Per channel, of the training images scaled to 0..1."""
        return tuple(self.manifest["mean"])

    @property
    def std(self) -> Sequence[float]:
        return tuple(self.manifest["std"])

    def split(self, name: Split) -> Images:
        """Raises InputError where the arrays are damaged or do not fit the manifest."""
        arrays = []
        for kind in ("images", "labels"):
            path = self.folder / f"{name}_{kind}.npy"
            try:
                arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{path}: missing or damaged ({error}); run `dvc repro prepare_data`"
                ) from None
        images, labels = arrays
        count = self.manifest["splits"][name]["count"]
        if len(images) != count or len(labels) != count:
            raise InputError(
                f"{self.folder}: {name} has {len(images)} images and {len(labels)} labels where"
                f" the manifest says {count}; run `dvc repro --force prepare_data`"
            )
        return Images(images, labels)


def load_data(folder: Path = DATA_FOLDER) -> DataSet:
    """Open what ``prepare_data`` wrote.

    Raises:
        InputError: the manifest is missing or damaged.
    """
    return DataSet(folder, read_json(folder / "manifest.json"))
