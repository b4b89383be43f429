"""ImageNet residual networks, resnet18 to resnet152 (He et al. 2016, table 1), with two stems.

Layers and parameter names are torchvision's, so its checkpoints load unchanged.
``resnet18_cifar``, ``resnet34_cifar`` and ``resnet50_cifar`` begin with a 3x3 convolution of
stride 1 and no pooling, as is usual for images of 32 to 64 pixels; all other names stay the same.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.backbone import Backbone

# Basic blocks up to 34 layers, bottlenecks from 50 on.
_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_NAMES = {f"resnet{depth}": (depth, False) for depth in _BLOCKS}
_NAMES |= {f"resnet{depth}_cifar": (depth, True) for depth in (18, 34, 50)}


class ImageNetResNet(Backbone):
    """A residual network with four stages.

    ``cifar_stem`` is 3x3 with stride 1 instead of 7x7 with stride 2 and max pooling.
    """

    stem_parts: ClassVar[tuple[str, ...]] = ("conv1", "bn1")
    stage_parts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("layer1",),
        ("layer2",),
        ("layer3",),
        ("layer4",),
    )

    def __init__(self, depth: int, cifar_stem: bool, num_classes: int) -> None:
        super().__init__()
        # Importing torchvision takes a second, and other networks do not need it.
        from torchvision.models import resnet

        block = resnet.BasicBlock if depth < 50 else resnet.Bottleneck
        layers = resnet.ResNet(block, list(_BLOCKS[depth]), num_classes)
        self.cifar_stem = cifar_stem
        self.conv1 = layers.conv1
        if cifar_stem:
            self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = layers.bn1
        self.layer1, self.layer2 = layers.layer1, layers.layer2
        self.layer3, self.layer4 = layers.layer3, layers.layer4
        self.fc = layers.fc

    def stem(self, images: Tensor) -> Tensor:
        feature_map = F.relu(self.bn1(self.conv1(images)))
        return feature_map if self.cifar_stem else F.max_pool2d(feature_map, 3, 2, padding=1)


def match(name: str, num_classes: int) -> ImageNetResNet | None:
    """Build the network called ``resnet<depth>`` or ``resnet<depth>_cifar``, or return None."""
    if name not in _NAMES:
        return None
    depth, cifar_stem = _NAMES[name]
    return ImageNetResNet(depth, cifar_stem, num_classes)
