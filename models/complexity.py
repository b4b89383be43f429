"""What a network costs: parameters and multiply-adds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, image_size: int) -> int:
    """Multiply-adds of convolutions and linear layers for one image of ``image_size`` squared.

    BatchNorm, ReLU and biases are not counted, as the field does. The network's running statistics
    are left as they are.
    """
    total = 0

    def add(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel = (
                module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            )
            total += output[0].numel() * kernel
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features

    handles = [module.register_forward_hook(add) for module in network.modules()]
    training = network.training
    try:
        with torch.no_grad():
            parameter = next(network.parameters())
            network.eval()(torch.zeros(1, 3, image_size, image_size, device=parameter.device))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return total
