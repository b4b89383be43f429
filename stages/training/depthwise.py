"""Run depthwise convolutions in float32 where their bf16 gradients would be slow."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Exclude depthwise convolutions from the CPU's autocast, in place.

    In oneDNN their bf16 gradients take up to seven times as long as in float32 (torch 2.14), so a
    network with many of them would train more slowly in bf16.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.forward = partial(_in_float32, type(module).forward, module)  # type: ignore[method-assign]


def _in_float32(forward: Callable[..., Tensor], module: nn.Conv2d, images: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(module, images.float())
