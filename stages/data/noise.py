"""Random images in the format of ``prepare_data``, for trainings that are only timed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.arrays import DataSet
from stages.files import sha256, write_json


def write_noise(
    folder: Path, splits: Mapping[str, tuple[int, int]], classes: int, size: int
) -> DataSet:
    """Write splits of given numbers of images and pixels; ``size`` is that of the data set."""
    random, described = np.random.default_rng(0), dict[str, dict[str, Any]]()
    for split, (count, pixels) in splits.items():
        described[split] = {"count": count}
        for kind, array in (
            ("images", random.integers(0, 256, (count, pixels, pixels, 3), np.uint8)),
            ("labels", np.arange(count) % classes),
        ):
            path = folder / f"{split}_{kind}.npy"
            np.save(path, array)
            described[split][f"{kind}_sha256"] = sha256(path)
    manifest = {
        "classes": [f"class {number}" for number in range(classes)],
        "image_size": size,
        "mean": [0.5] * 3,
        "std": [0.29] * 3,  # of uniform noise
        "splits": described,
    }
    write_json(folder / "manifest.json", manifest)
    return DataSet(folder, manifest)
