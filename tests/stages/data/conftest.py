"""A data set small enough to look at every image."""

from pathlib import Path

import numpy as np
import pytest

from stages.data.arrays import DataSet, load_data
from stages.files import write_json


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """50 training images of 8x8 random pixels, of five classes."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in (("train", 50), ("val", 10), ("test", 10)):
        np.save(tmp_path / f"{split}_images.npy", rng.integers(0, 256, (count, 8, 8, 3), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(count, dtype=np.int64) % 5)
        splits[split] = {"count": count}
    manifest = {"classes": list("abcde"), "image_size": 8, "splits": splits}
    manifest |= {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.1]}
    write_json(tmp_path / "manifest.json", manifest)
    return load_data(tmp_path)
