"""Data as ``prepare_data`` leaves them, of images that a test makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.data.arrays import DataSet, load_data
from stages.files import sha256, write_json


def write_splits(
    folder: Path,
    splits: Mapping[str, npt.NDArray[np.uint8]],
    classes: Sequence[str],
    mean: Sequence[float] = (0.5, 0.4, 0.3),
    std: Sequence[float] = (0.25, 0.2, 0.1),
) -> DataSet:
    """Images ``[N, H, H, 3]`` by split, of which each class has every so many.

    The size is that of the test images; training images that are larger have a margin.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {}
    for name, images in splits.items():
        path = folder / f"{name}_images.npy"
        np.save(path, images)
        np.save(folder / f"{name}_labels.npy", np.arange(len(images)) % len(classes))
        described[name] = {"count": len(images), "images_sha256": sha256(path)}
    manifest = {"classes": list(classes), "image_size": splits["test"].shape[1]}
    write_json(folder / "manifest.json", manifest | {"splits": described, "mean": mean, "std": std})
    return load_data(folder)
