"""A tiny data set, and a pair of networks for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.networks import write_pair
from stages.files import write_json

COUNT, CLASSES, SIZE = 102, 6, 32


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, as prepare_data would leave it."""
    folder = tmp_path_factory.mktemp("benchmark-data")
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        images = random.integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", np.arange(COUNT) % CLASSES)
    manifest = {"image_size": SIZE, "classes": list("abcdef"), "mean": [0.5] * 3, "std": [0.3] * 3}
    splits = {split: {"count": COUNT} for split in ("train", "val", "test")}
    write_json(folder / "manifest.json", manifest | {"splits": splits})
    return folder


@pytest.fixture(scope="session")
def weights(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a pair's weights, and what is known of it."""
    folder = tmp_path_factory.mktemp("benchmark-weights")
    return folder, write_pair("resnet14", "resnet8", str(data_folder), str(folder))
