"""The weights that torchvision and timm publish for their networks."""

from __future__ import annotations

from typing import Any, NamedTuple

from models.errors import InputError
from models.networks.backbone import Backbone

_IMAGENET_RESNETS = {f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}


class Normalization(NamedTuple):
    """Per channel, of images scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_pretrained(network: Backbone) -> Normalization:
    """Load the library's own weights; they are downloaded once, to the library's cache.

    Of several that a network has, those are taken that the library takes by default; timm's names
    can name others, as in ``timm:resnet18.tv_in1k``. Their parameters must be the network's, the
    classifier's among them.

    Args:
        network: ``torchvision:NAME``, ``timm:NAME``, or ``resnet18`` to ``resnet152``, for which
            torchvision has weights.

    Returns:
        The normalisation that they were trained with.

    Raises:
        InputError: the network has no such weights, they tell another number of classes apart, or
            they cannot be had from here.
    """
    library, _, name = network.name.rpartition(":")
    source = _from_timm if library == "timm" else _from_torchvision
    return source(name, network)


def _from_torchvision(name: str, network: Backbone) -> Normalization:
    import torchvision

    if ":" not in network.name and network.name not in _IMAGENET_RESNETS:
        raise _none_published(network)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    _require_classes(network, len(weights.meta["categories"]))
    try:
        library_network = torchvision.models.get_model(name, weights=weights, progress=False)
    except (OSError, RuntimeError) as error:  # the second where what came is damaged
        raise _unreachable(network, error) from None
    network.load_state_dict(library_network.state_dict())
    transforms = weights.transforms()
    return Normalization(tuple(transforms.mean), tuple(transforms.std))


def _from_timm(name: str, network: Backbone) -> Normalization:
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        raise _none_published(network)
    _require_classes(network, published.num_classes)
    try:
        library_network: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # of whichever client the weights come by
        raise _unreachable(network, error) from None
    network.load_state_dict(library_network.state_dict())
    return Normalization(tuple(published.mean), tuple(published.std))


def _require_classes(network: Backbone, published: int) -> None:
    if published != network.num_classes:
        raise InputError(
            f"teacher.checkpoint is pretrained, but the weights of {network.name} tell"
            f" {published} classes apart and the data have {network.num_classes}; name a checkpoint"
            " that was trained on these classes, or null to train one"
        )


def _none_published(network: Backbone) -> InputError:
    return InputError(
        f"teacher.checkpoint is pretrained, but no weights are published for {network.name}; there"
        " are some for networks torchvision:<name> and timm:<name>, and for resnet18 to resnet152"
    )


def _unreachable(network: Backbone, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"teacher.checkpoint is pretrained, but the weights of {network.name} cannot be downloaded"
        f" ({reason:.200}); go online once, or get the file elsewhere and name it as the checkpoint"
    )
