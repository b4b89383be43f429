"""Networks of other code: ``torchvision:NAME``, ``timm:NAME`` and ``python:MODULE:FUNCTION``.

Parameter names are the library's own, so its checkpoints load unchanged. If the stages of a network
can be found (see ``trunk.py``), all methods and auxiliary learners work with it. Otherwise, as for
transformers, it has no stages, and only methods that use logits and embeddings work with it.

In-place operations are disabled, because they would change maps that learners branch off. GoogLeNet
and Inception are built without auxiliary classifiers, and transform their input as torchvision's
weights require.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import InputError, did_you_mean
from models.networks.backbone import Backbone, Features
from models.networks.own import build_own
from models.networks.pooling import average_pool
from models.networks.trunk import Trunk, find_trunk

# Image size for finding stages; it can be halved five times and the sizes still differ.
_PROBE_SIZE = 128
# Children that torchvision's networks run after the last map.
_TORCHVISION_HEAD = ("avgpool", "classifier", "fc", "head", "heads", "norm", "permute", "dropout")


class ZooNetwork(Backbone):
    """A library's network with known stages; it registers the same parameters as that network."""

    network: nn.Module

    def __init__(self, network: nn.Module, trunk: Trunk) -> None:
        super().__init__()
        # Share the network's dictionaries instead of registering it as a child, which would add a
        # prefix to all names.
        self.__dict__["network"] = network
        for kind in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            registered = getattr(network, kind)
            registered.update(getattr(self, kind))
            self.__dict__[kind] = registered
        self.stem_parts, self.stage_parts = trunk  # type: ignore[misc]

    # A library's child may have the name of a method here, such as ``features``.
    def get_submodule(self, target: str) -> nn.Module:
        return self.network.get_submodule(target)

    def set_submodule(self, target: str, module: nn.Module, strict: bool = False) -> None:
        self.network.set_submodule(target, module, strict)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.network.training = self.training
        return self

    def fuse_branches(self) -> bool:
        """Fuse with timm's ``reparameterize_model`` (MobileOne, RepVGG, RepViT and others)."""
        from timm.utils.model import reparameterize_model

        self.eval()  # some networks can only be fused in this mode
        before = self.state_dict().keys()
        reparameterize_model(self.network, inplace=True)
        self.is_fused = self.state_dict().keys() != before
        return self.is_fused

    def probe(self, image_size: int) -> Features:
        """Probe like :meth:`Backbone.probe`.

        Raises:
            InputError: the network rejects the size, has no embedding or another number of logits.
        """
        try:
            features = super().probe(image_size)
        except InputError:
            raise
        except Exception as error:  # another library may raise anything
            reason = str(error).strip().partition("\n")[0]
            config = getattr(self.network, "pretrained_cfg", None) or {}
            fixed = config.get("input_size") if config.get("fixed_input_size") else None
            takes = f"{fixed[1]} pixels, the only size that it takes" if fixed else "one that fits"
            raise InputError(
                f"network {self.name!r} cannot take images of {self.input_size or image_size}"
                f" pixels ({reason}); set data.image_size, or for a teacher teacher.image_size, to"
                f" {takes}, or choose another network"
            ) from None
        if features.logits.shape != (1, self.num_classes):
            raise InputError(
                f"network {self.name!r} gives logits {list(features.logits.shape)} for an image,"
                f" expected {[1, self.num_classes]}; correct its code or choose another network"
            )
        return features


class TorchvisionNetwork(ZooNetwork):
    """A torchvision network: pooling, flattening, and a classifier with a linear last layer."""

    def embed(self, last_map: Tensor) -> Tensor:
        from torchvision.models import DenseNet

        if isinstance(self.network, DenseNet):
            last_map = F.relu(last_map)
        pool = getattr(self.network, "avgpool", None)
        sides: Any = getattr(pool, "output_size", 1)
        trained_on_gpu = torch.is_grad_enabled() and next(self.parameters()).is_cuda
        if pool is None:
            embedding = F.adaptive_avg_pool2d(last_map, 1)
        elif trained_on_gpu and sides not in (1, (1, 1)):
            # The pooling of AlexNet and VGG has no deterministic gradient there.
            embedding = average_pool(last_map, *sides)
        else:
            embedding = pool(last_map)
        *before, _ = self._head_layers()
        if not any(isinstance(layer, nn.Flatten) for layer in before):
            embedding = embedding.flatten(1)
        for layer in before:
            embedding = layer(embedding)
        return embedding

    def last_layer(self) -> nn.Module:
        return self._head_layers()[-1]

    def _head_layers(self) -> list[nn.Module]:
        _, last = list(self.network.named_children())[-1]
        return list(last) if isinstance(last, nn.Sequential) else [last]


class TimmNetwork(ZooNetwork):
    """A timm network, with timm's own split of the head into pooling and classifier."""

    def embed(self, last_map: Tensor) -> Tensor:
        network: Any = self.network
        embedding: Tensor = network.forward_head(last_map, pre_logits=True)
        return embedding.flatten(1)

    def last_layer(self) -> nn.Module:
        network: Any = self.network
        found: nn.Module = network.get_classifier()
        return found

    def classify(self, embedding: Tensor) -> Tensor:
        classifier = self.last_layer()
        if isinstance(classifier, nn.Conv2d):
            embedding = embedding[:, :, None, None]
        logits: Tensor = classifier(embedding)
        return logits.flatten(1)


class WholeNetwork(ZooNetwork):
    """A library's network without known stages.

    Its embedding is the input of its last layer, averaged over positions if there are any.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, Trunk((), ()))

    def features_from(self, entry: Tensor, stage: int) -> Features:
        seen: list[Tensor] = []
        handle = self.last_layer().register_forward_pre_hook(lambda _, given: seen.extend(given))
        try:
            logits = self.network.forward(entry)
        finally:
            handle.remove()
        embedding = seen[-1]
        if embedding.ndim == 4:
            embedding = embedding.mean((2, 3))
        elif embedding.ndim == 3:
            embedding = embedding.mean(1)
        return Features(entry, (), embedding, logits)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network.forward(self.renormalize(images))
        return logits

    def last_layers(self) -> nn.ModuleList:
        heads = getattr(self.network, "get_classifier", lambda: None)()
        if isinstance(heads, tuple | nn.ModuleList):  # such as one for a teacher's labels
            return nn.ModuleList(heads)
        layers = super().last_layers()
        if isinstance(of_patches := getattr(self.network, "aux_head", None), nn.Linear):  # VOLO's
            layers.append(of_patches)
        return layers

    def last_layer(self) -> nn.Module:
        for layer in reversed(list(self.network.modules())):
            if isinstance(layer, nn.Linear | nn.Conv2d) and len(layer.weight) == self.num_classes:
                return layer
        raise InputError(
            f"network {self.name!r} has no embedding: no linear layer or convolution gives the"
            f" {self.num_classes} logits; correct its code or choose another network"
        )


# Cached by name, because a network with learners is built several times in a row.
_trunks: dict[str, Trunk | None] = {}


def match(name: str, num_classes: int) -> Backbone | None:
    """Build ``torchvision:NAME``, ``timm:NAME`` or ``python:MODULE:FUNCTION``, or return None.

    Raises:
        InputError: there is no classification network of this name.
    """
    library, colon, own_name = name.partition(":")
    builders = {"timm": _build_timm, "torchvision": _build_torchvision, "python": build_own}
    if not colon or library not in builders:
        return None
    network = builders[library](own_name, num_classes)
    if isinstance(network, Backbone):  # own code that declares its stages
        return network
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.__dict__["inplace"] = False
    kind: type[ZooNetwork] = TimmNetwork if library == "timm" else TorchvisionNetwork
    network.eval()
    if name not in _trunks:
        _trunks[name] = _verified_trunk(network, kind)
    trunk = _trunks[name]
    found = WholeNetwork(network) if trunk is None else kind(network, trunk)
    return found.train()


@torch.no_grad()
def _verified_trunk(network: Any, kind: type[ZooNetwork]) -> Trunk | None:
    """Return the trunk if it reproduces the logits of the library's code exactly, else None."""
    # Constant images would hide many mistakes; the global random state must not change.
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, _PROBE_SIZE, _PROBE_SIZE, generator=generator)
    try:
        if kind is TimmNetwork:
            trunk = find_trunk(network, network.forward_features, images, head=())
        else:
            trunk = find_trunk(network, network, images, _TORCHVISION_HEAD)
        if trunk is not None and torch.equal(kind(network, trunk)(images), network(images)):
            return trunk
    except Exception:  # the library's code may not support this use
        return None
    return None


def _build_torchvision(name: str, num_classes: int) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    options: dict[str, Any] = {}
    if name in {"googlenet", "inception_v3"}:
        options = {"aux_logits": False, "transform_input": True, "init_weights": True}
    network: nn.Module = torchvision.models.get_model(name, num_classes=num_classes, **options)
    return network


def _build_timm(name: str, num_classes: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    try:
        network: nn.Module = timm.create_model(name, num_classes=num_classes)
    except (RuntimeError, ValueError) as error:  # unknown tag
        raise InputError(
            f"network 'timm:{name}' cannot be built: {error}; correct its name"
        ) from None
    return network


def _unknown(library: str, name: str, known: list[str]) -> InputError:
    hint = did_you_mean(name, known, "see its documentation for a list")
    hint = hint.replace(" '", f" '{library}:")
    return InputError(
        f"network '{library}:{name}' is not known: {library} has no classification network of this"
        f" name; {hint}"
    )
