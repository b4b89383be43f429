"""CIFAR MobileNetV2 ``mobilenet_v2_<width factor>`` (Sandler et al. 2018).

Parameter names are those of the public CIFAR-100 model zoos, whose network differs from
torchvision's: ReLU instead of ReLU6, an expansion convolution also in the first block, widths
truncated to integers instead of rounded to multiples of eight, strides for small images, and no
dropout. Stage features are the linear bottlenecks before a change of resolution; the last 1x1
convolution belongs to the head.
"""

import re
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from models.networks.backbone import Backbone
from models.networks.layers import blocks, draw_convolutions

# Expansion, channels at width 1, number of blocks, and stride of the first block (table 2).
_SETTINGS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, and a shortcut if the shape is unchanged."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.has_shortcut else out


class MobileNetV2(Backbone):
    """Seventeen blocks in four resolutions; ``width`` scales the channels.

    The embedding has at least 1280 dimensions.
    """

    stem_parts: ClassVar[tuple[str, ...]] = ("conv1",)
    stage_parts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("blocks.0", "blocks.1"),
        ("blocks.2",),
        ("blocks.3", "blocks.4"),
        ("blocks.5", "blocks.6"),
    )
    classifier_part: ClassVar[str] = "classifier"

    def __init__(self, width: float, num_classes: int) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = _conv_bn_relu(3, channels, 3, stride=2)
        stages = []
        for expansion, base, count, stride in _SETTINGS:
            before, channels = channels, int(base * width)
            block = partial(InvertedResidual, expansion=expansion)
            stages.append(blocks(block, before, channels, count, stride))
        self.blocks = nn.ModuleList(stages)
        embedding = int(1280 * max(1.0, width))
        self.conv2 = _conv_bn_relu(channels, embedding, 1, stride=1)
        linear = nn.Linear(embedding, num_classes)
        self.classifier = nn.Sequential(linear)
        draw_convolutions(self)
        nn.init.normal_(linear.weight, 0.0, 0.01)
        nn.init.zeros_(linear.bias)

    def embed(self, last_map: Tensor) -> Tensor:
        embedding: Tensor = self.conv2(last_map).mean((2, 3))
        return embedding


def _conv_bn_relu(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def match(name: str, num_classes: int) -> MobileNetV2 | None:
    """Build the network called ``mobilenet_v2_<width factor>`` (at least 1/16), or return None."""
    found = re.fullmatch(r"mobilenet_v2_(\d+(?:\.\d+)?)", name)
    if found is None or int(16 * float(found[1])) < 1:
        return None
    return MobileNetV2(float(found[1]), num_classes)
