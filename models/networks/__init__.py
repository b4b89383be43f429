"""Build networks by name. torch is imported only when a network is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.errors import InputError

if TYPE_CHECKING:
    from models.networks.backbone import Backbone


def build(name: str, num_classes: int) -> Backbone:
    """Build a network by name, initialised from torch's global random state.

    ``resnet50`` and ``resnet152`` are the ImageNet networks, although both depths are 6 n + 2.

    Raises:
        InputError: no family of networks has this name.
    """
    from models.networks import (
        imagenet_resnet,
        mobilenet_v2,
        resnet,
        shufflenet_v1,
        wide_resnet,
        zoo,
    )

    for family in (imagenet_resnet, resnet, wide_resnet, mobilenet_v2, shufflenet_v1, zoo):
        network: Backbone | None = family.match(name, num_classes)
        if network is not None:
            network.name, network.num_classes = name, num_classes
            return network
    raise InputError(
        f"network {name!r} is not known: use resnet<6n+2>, resnet<6n+2>x4, wrn_<6n+4>_<width> or"
        " mobilenet_v2_<width>, for example resnet20, resnet8x4, wrn_40_2 or mobilenet_v2_0.5;"
        " shufflenet_v1; resnet18, 34, 50, 101 or 152, the first three also as resnet18_cifar"
        " and so on; torchvision:<name> or timm:<name> for a network of these libraries; or"
        " python:<module>:<function> for one of your own code"
    )
