"""The reference runtime: the student in torch, with the exports' preprocessing."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stages.runtimes.base import Job


class DeployedNetwork(nn.Module):
    """Maps raw images ``[B, H, W, 3]`` uint8 to logits ``[B, K]`` float32.

    ``mean`` and ``std`` per channel are of images scaled to 0..1; normalisation stays in float32.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if dtype == torch.float16:
            normalise_statistics(network)
        self.network = network.to(dtype)
        self.dtype = dtype
        means, stds = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
        self.register_buffer("scale", (1 / (255 * stds)).float())
        self.register_buffer("shift", (-means / stds).float())

    def forward(self, images: Tensor) -> Tensor:
        # The cast comes first, because TensorRT accepts uint8 only as the input of a cast. Scale
        # and shift span a whole line, because onnxruntime is slow along a last axis of three. The
        # permutation comes last, because int8 convolutions are channels-last.
        line = (images.shape[2], 3)
        scaled = images.to(torch.float32) * self.scale.expand(line) + self.shift.expand(line)
        normalised = scaled.permute(0, 3, 1, 2)
        logits: Tensor = self.network(normalised.to(self.dtype))
        return logits.to(torch.float32)


@torch.no_grad()
def normalise_statistics(network: nn.Module) -> None:
    """Give every BatchNorm mean 0 and variance 1, with weight and bias to match.

    Outputs in eval mode stay the same. Training may leave variances above 65,504, which overflow
    half precision; the quotient of weight and deviation does not.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            weight, bias = (1, 0) if module.weight is None else (module.weight, module.bias)
            scale = weight / torch.sqrt(module.running_var + module.eps)
            module.bias = nn.Parameter(bias - module.running_mean * scale)
            module.weight = nn.Parameter(scale)
            module.running_mean.zero_()
            module.running_var.fill_(1 - module.eps)


@torch.inference_mode()
def run_torch(network: DeployedNetwork, job: Job) -> npt.NDArray[np.float32]:
    """Return logits float32 ``[N, K]`` of a network in eval mode, on the CPU."""
    return np.concatenate([network(torch.from_numpy(batch)).numpy() for batch in job.batches()])
