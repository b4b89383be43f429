"""Depthwise convolutions in float32, where bf16 would slow their gradients down."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Take the depthwise convolutions out of a CPU's autocast, in place.

    oneDNN takes up to seven times as long for their gradients in bf16 as in float32 (torch 2.14):
    a network of many of them would train more slowly than without bf16.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.forward = partial(_in_float32, type(module).forward, module)  # type: ignore[method-assign]


def _in_float32(forward: Callable[..., Tensor], module: nn.Conv2d, images: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(module, images.float())
