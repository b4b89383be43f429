"""Normalise pixels to the input of networks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Normalize:
    """Maps ``[B, H, W, 3]`` uint8 to ``[B, 3, H, W]`` float32 with mean 0 and deviation 1.

    The result is channels-last in memory, the fastest layout for convolutions.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.device = device
        # (x / 255 - mean) / std as one multiplication and one addition.
        std_tensor = torch.tensor(std, dtype=torch.float64)
        self.scale = (1 / (255 * std_tensor)).float().to(device)
        self.shift = (-torch.tensor(mean, dtype=torch.float64) / std_tensor).float().to(device)

    def __call__(self, images: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        if isinstance(images, np.ndarray):
            # torch rejects read-only memory, such as a memory-mapped file.
            images = torch.from_numpy(images if images.flags.writeable else images.copy())
        pixels = images.to(self.device).to(torch.float32)
        return pixels.mul_(self.scale).add_(self.shift).permute(0, 3, 1, 2)
