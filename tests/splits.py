"""Writes a test's images in the format of ``prepare_data``."""

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
    """Write images ``[N, H, H, 3]`` by split, with cyclic labels.

    The test images determine the size; larger training images have a margin.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described: dict[str, dict[str, int | str]] = {}
    for name, images in splits.items():
        described[name] = {"count": len(images)}
        labels = np.arange(len(images)) % len(classes)
        for kind, values in (("images", images), ("labels", labels)):
            path = folder / f"{name}_{kind}.npy"
            np.save(path, values)
            described[name][f"{kind}_sha256"] = sha256(path)
    manifest = {"classes": list(classes), "image_size": splits["test"].shape[1], "fit": "crop"}
    write_json(folder / "manifest.json", manifest | {"splits": described, "mean": mean, "std": std})
    return load_data(folder)
