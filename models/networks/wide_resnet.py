"""Wide residual networks ``wrn_<depth>_<width>`` (Zagoruyko & Komodakis 2016).

Pre-activation blocks without dropout. Parameter names are those of the public CIFAR-100 model zoos.
Stage features are the sums before the next BatchNorm and ReLU; the final ``bn1`` belongs to the
head.
"""

import re
from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.backbone import Backbone
from models.networks.layers import blocks, draw_convolutions


class WideBlock(nn.Module):
    """BatchNorm, ReLU and 3x3 convolution, twice; the shortcut reads the activated input."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.convShortcut: nn.Module | None = None
        if in_channels != channels:
            self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        summed: Tensor = out + shortcut
        return summed


class WideResNet(Backbone):
    """A network with ``depth = 6 n + 4`` layers and ``width`` times 16, 32 and 64 channels."""

    stem_parts: ClassVar[tuple[str, ...]] = ("conv1",)
    stage_parts: ClassVar[tuple[tuple[str, ...], ...]] = (("block1",), ("block2",), ("block3",))

    def __init__(self, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        count = (depth - 4) // 6
        widths = [16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = _stage(16, widths[0], count, stride=1)
        self.block2 = _stage(widths[0], widths[1], count, stride=2)
        self.block3 = _stage(widths[1], widths[2], count, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        draw_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def embed(self, last_map: Tensor) -> Tensor:
        return F.relu(self.bn1(last_map)).mean((2, 3))


def _stage(in_channels: int, channels: int, count: int, stride: int) -> nn.Sequential:
    layer = blocks(WideBlock, in_channels, channels, count, stride)
    return nn.Sequential(OrderedDict(layer=layer))  # for the names block1.layer.0 and so on


def match(name: str, num_classes: int) -> WideResNet | None:
    """Build the network called ``wrn_<depth>_<width>``, or return None."""
    found = re.fullmatch(r"wrn_(\d+)_(\d+)", name)
    if found is None or int(found[1]) < 10 or (int(found[1]) - 4) % 6 or int(found[2]) < 1:
        return None
    return WideResNet(int(found[1]), int(found[2]), num_classes)
