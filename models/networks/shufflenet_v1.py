"""CIFAR ShuffleNet ``shufflenet_v1`` (Zhang et al. 2018) with three groups.

Parameter names are those of the public CIFAR-100 model zoos, whose network differs from the
paper's: a 1x1 stem with stride 1 and no pooling, and a ReLU after the depthwise convolution. Stage
features are taken after the ReLU.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.backbone import Backbone
from models.networks.layers import blocks

_GROUPS = 3
_STEM = 24


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolution, channel shuffle, 3x3 depthwise and grouped 1x1 convolution.

    The first unit of a stage halves the resolution, and concatenates the pooled input with its
    result instead of adding it.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        branch = channels if stride == 1 else channels - in_channels
        hidden = branch // 4
        # The stem has too few channels for groups (section 3.2).
        self.groups = 1 if in_channels == _STEM else _GROUPS
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, branch, 1, groups=_GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = torch.unflatten(out, 1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return F.relu(out + x)
        return F.relu(torch.cat([out, F.avg_pool2d(x, 3, self.stride, padding=1)], 1))


class ShuffleNetV1(Backbone):
    """Stages of 4, 8 and 4 units with 240, 480 and 960 channels."""

    stem_parts: ClassVar[tuple[str, ...]] = ("conv1", "bn1")
    stage_parts: ClassVar[tuple[tuple[str, ...], ...]] = (("layer1",), ("layer2",), ("layer3",))
    classifier_part: ClassVar[str] = "linear"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.layer1 = blocks(ShuffleUnit, _STEM, 240, 4, stride=2)
        self.layer2 = blocks(ShuffleUnit, 240, 480, 8, stride=2)
        self.layer3 = blocks(ShuffleUnit, 480, 960, 4, stride=2)
        self.linear = nn.Linear(960, num_classes)

    def stem(self, images: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(images)))


def match(name: str, num_classes: int) -> ShuffleNetV1 | None:
    """Build the network called ``shufflenet_v1``, or return None."""
    return ShuffleNetV1(num_classes) if name == "shufflenet_v1" else None
