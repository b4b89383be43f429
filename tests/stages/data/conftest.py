"""A data set small enough to check every image."""

import numpy as np
import pytest

from tests.splits import write_splits


@pytest.fixture
def data(tmp_path):
    """50 training images of 8x8 random pixels, of five classes."""
    rng, counts = np.random.default_rng(0), {"train": 50, "val": 10, "test": 10}
    images = {name: rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for name, n in counts.items()}
    return write_splits(tmp_path, images, "abcde")
