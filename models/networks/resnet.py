"""CIFAR residual networks, resnet8 to resnet110 (He et al. 2016, section 4.2).

Shortcuts are 1x1 convolutions with BatchNorm (option B). Parameter names are those of the public
CIFAR-100 model zoos, so their checkpoints load unchanged. Stage features are taken after the ReLU.
"""

import re
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.backbone import Backbone
from models.networks.layers import blocks, draw_convolutions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut)


class ResNet(Backbone):
    """A residual network with ``depth = 6 n + 2`` layers; ``channels`` of the stem and 3 stages."""

    stem_parts: ClassVar[tuple[str, ...]] = ("conv1", "bn1")
    stage_parts: ClassVar[tuple[tuple[str, ...], ...]] = (("layer1",), ("layer2",), ("layer3",))

    def __init__(self, depth: int, channels: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        count = (depth - 2) // 6
        stem, *widths = channels
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = blocks(BasicBlock, stem, widths[0], count, stride=1)
        self.layer2 = blocks(BasicBlock, widths[0], widths[1], count, stride=2)
        self.layer3 = blocks(BasicBlock, widths[1], widths[2], count, stride=2)
        self.fc = nn.Linear(widths[2], num_classes)
        draw_convolutions(self)

    def stem(self, images: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(images)))


def match(name: str, num_classes: int) -> ResNet | None:
    """Build ``resnet<depth>`` or, four times as wide, ``resnet<depth>x4``, or return None."""
    found = re.fullmatch(r"resnet(\d+)(x4)?", name)
    if found is None or int(found[1]) < 8 or (int(found[1]) - 2) % 6:
        return None
    channels = (32, 64, 128, 256) if found[2] else (16, 16, 32, 64)
    return ResNet(int(found[1]), channels, num_classes)
