"""Work around the bf16 gradients of convolutions in oneDNN, the CPU's library (torch 2.14)."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from models.distillers.base import Distiller


@torch.no_grad()
def mask_padding_gradients(distiller: Distiller, image_size: int, device: torch.device) -> None:
    """Set the gradients of weights that only meet padding to 0, their true value.

    On maps of one pixel, these are all but one weight of each kernel. In bf16 on a CPU, oneDNN
    leaves their gradients uninitialised in strided convolutions, so the weights would take
    arbitrary values, even NaN.
    """
    strided = [m for m in distiller.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    on_one_pixel: list[nn.Conv2d] = []

    def note(convolution: nn.Conv2d, given: tuple[Tensor]) -> None:
        if given[0].shape[2:] == (1, 1) and convolution.kernel_size != (1, 1):
            on_one_pixel.append(convolution)

    handles = [convolution.register_forward_pre_hook(note) for convolution in strided]
    training = distiller.training
    distiller.eval().observe(torch.zeros(1, 3, image_size, image_size, device=device))
    distiller.train(training)
    for handle in handles:
        handle.remove()
    for convolution in on_one_pixel:
        meets = torch.zeros(convolution.kernel_size, dtype=torch.bool, device=device)
        # Padding 0 means one of timm's convolutions that pad their input themselves, evenly.
        padding, kernel = np.array(convolution.padding), np.array(convolution.kernel_size)
        top, left = np.where(padding, padding, (kernel - 1) // 2)
        meets[top, left] = True
        convolution.weight.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient, m=meets: torch.where(m, gradient, 0.0)
        )


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Exclude depthwise convolutions from the CPU's autocast, in place.

    In bf16, their gradients take up to seven times as long as in float32, so a network with many of
    them would train more slowly.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.forward = partial(_in_float32, type(module).forward, module)  # type: ignore[method-assign]


def _in_float32(forward: Callable[..., Tensor], module: nn.Conv2d, images: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(module, images.float())
