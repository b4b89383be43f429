"""Helpers shared by the CIFAR networks."""

from collections.abc import Callable

from torch import nn


def blocks(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    channels: int,
    count: int,
    stride: int,
) -> nn.Sequential:
    """Build a sequence of blocks, the first of which changes channels and resolution.

    ``block`` is called with input channels, output channels and stride.
    """
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(count - 1)))


def draw_convolutions(network: nn.Module) -> None:
    """Initialise the weights of all convolutions by their fan-out (He et al. 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
