"""What the CIFAR networks of the public zoos have in common."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def blocks(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    channels: int,
    count: int,
    stride: int,
) -> nn.Sequential:
    """``count`` blocks in a row, of which the first changes the channels and the resolution.

    Args:
        block: makes one of its input's channels, its output's, and its stride.
        in_channels: of the first one's input.
        channels: of what each gives.
        count: how many.
        stride: of the first one.
    """
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(count - 1)))


def draw_convolutions(network: nn.Module) -> None:
    """Draw the convolutions' weights anew, each by its fan-out (He et al. 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
