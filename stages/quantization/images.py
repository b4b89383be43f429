"""The images that int8 ranges are calibrated on, the same for every runtime."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stages.data.arrays import DataSet


def calibration_images(data: DataSet, count: int) -> npt.NDArray[np.uint8]:
    """``count`` training images or all, ``[N, H, W, 3]``, evenly spaced over the split."""
    images = data.split("train").images
    count = min(count, len(images))
    return images[np.arange(count) * len(images) // count]
