"""The weights of others: those that torchvision and timm publish, and files of the public codes."""

from __future__ import annotations

import argparse
import pathlib
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import InputError
from models.networks.backbone import Backbone
from models.networks.checkpoint import load_state, load_strictly

_IMAGENET_RESNETS = {f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
# Names that public codes give to what is the same: ResNets written for CIFAR, the DenseNets of
# torchvision's files, which are older than its code, and the two parts of MMPretrain's networks.
_RENAMES = (
    (r"(^|\.)shortcut\.", r"\1downsample."),
    (r"^linear\.", "fc."),
    (r"\.(norm|conv)\.([12])\.", r".\1\2."),
    (r"^(backbone|head)\.", ""),
)
#: What profilers register beside the weights.
_COUNTERS = ("total_ops", "total_params")
#: What training scripts leave beside the weights: data alone, which unpickling them cannot run.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    defaultdict,
    list,
    dict,
    np.ndarray,
    np.dtype,
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    *(
        (made.__reduce__()[0], f"numpy.{core}.multiarray.{name}")
        for name, made in (("scalar", np.float64(0)), ("_reconstruct", np.empty(0)))
        for core in ("core", "_core")
    ),
    *(
        (pathlib.PurePosixPath, f"{module}.{kind}Path")
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "Windows")
    ),
]


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


def load_checkpoint(path: Path, network: nn.Module) -> str:
    """Load the weights from elsewhere: safetensors, or a torch file read without unpickling code.

    They may lie under any keys and prefixes (``state_dict``, ``model_ema``, ``module.``): those
    under which most of the network's parameters are found are taken; of equal ones the averaged
    (EMA) ones, then the student's. Counters of profilers are left out, and BatchNorm's
    ``num_batches_tracked`` may be missing. What the public codes of ResNet for CIFAR call
    ``shortcut`` and ``linear`` becomes ``downsample`` and ``fc`` where the network has these.

    Returns:
        What was taken off and left out, for a line of output; empty where nothing was.

    Raises:
        InputError: the file cannot be read so, its parameters are not the network's, or are not
            finite.
    """
    path = path.expanduser()
    content = load_state(path)[0] if path.suffix == ".safetensors" else _read_torch(path)
    tensors = dict(_tensors(content))
    if not tensors:
        raise InputError(f"{path}: holds no state dict; expected parameter names and tensors")
    own = network.state_dict()
    prefix = _prefix(tensors, own)
    state, left_out = {}, []
    for name, tensor in tensors.items():
        if name.startswith(prefix) and name.rpartition(".")[2] not in _COUNTERS:
            state[_own_name(name.removeprefix(prefix), own)] = tensor
        else:
            left_out.append(name)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(
                f"{path}: {name} has values that are not finite; its training diverged, take an"
                " earlier checkpoint"
            )
    tracked = {name: t for name, t in own.items() if name.endswith("num_batches_tracked")}
    load_strictly(network, tracked | state, path)
    said = [f"weights are those under {prefix.rstrip('.')}"] if prefix else []
    if left_out:
        more = f" and {len(left_out) - 2} more" if len(left_out) > 2 else ""
        said.append(f"left out {', '.join(left_out[:2])}{more}")
    return "; ".join(said)


def _read_torch(path: Path) -> object:
    try:
        with path.open("rb") as handle:
            start = handle.read(200)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; correct the path of the checkpoint") from None
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's file can fail anywhere in torch
        # torch's own message advises to switch its protection off.
        refused = re.search(r"GLOBAL (\S+)", str(error))
    problem = "damaged or not a torch file; get it again, or correct the path"
    if zipfile.is_zipfile(path) and any(
        name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()
    ):
        problem = "a TorchScript program, expected a state dict; save its state_dict() alone"
    elif (
        start
        and start.isascii()
        and start.decode().replace("\n", "").replace("\r", "").isprintable()
    ):
        problem = f"a text file ({start[:40].decode()!r}), expected weights; get the file itself"
    elif refused:
        problem = (
            f"holds {refused[1]} besides tensors, which is not loaded because that could run code;"
            " save its state dict alone, best as safetensors"
        )
    raise InputError(f"{path}: {problem}")


def _tensors(content: object, prefix: str = "", levels: int = 8) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested mappings, under its keys joined by dots."""
    if isinstance(content, Mapping) and levels:
        for key, value in content.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{key}", value
            else:
                yield from _tensors(value, f"{prefix}{key}.", levels - 1)


def _prefix(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What stands before most names that are the network's; of equal ones see load_checkpoint."""
    votes: Counter[str] = Counter()
    for name, tensor in tensors.items():
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        for start in starts:
            if (fitting := _own_name(name[start:], own)) in own:
                votes[name[:start]] += 1 + (own[fitting].shape == tensor.shape)
                break
    if not votes:
        return ""
    return max(votes, key=lambda p: (votes[p], "ema" in p, "student" in p, -len(p)))


def _own_name(name: str, own: Mapping[str, Tensor]) -> str:
    """The network's name of a parameter; the given one where it has none."""
    candidates = (name, *(re.sub(pattern, new, name) for pattern, new in _RENAMES))
    return next((candidate for candidate in candidates if candidate in own), name)
