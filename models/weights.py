"""Load third-party weights: those published by torchvision and timm, and checkpoint files."""

import argparse
import hashlib
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

_HUBS = ("hf-hub:", "local-dir:")
_IMAGENET_RESNETS = {f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
# Other names of the same parameters: in ResNets written for CIFAR, in torchvision's files of
# DenseNets, which are older than its code, and in the two parts of MMPretrain's networks.
_RENAMES = (
    (r"(^|\.)shortcut\.", r"\1downsample."),
    (r"^linear\.", "fc."),
    (r"\.(norm|conv)\.([12])\.", r".\1\2."),
    (r"^(backbone|head)\.", ""),
)
#: Buffers that profilers register beside the weights.
_COUNTERS = ("total_ops", "total_params")
#: Auxiliary classifiers of GoogLeNet and Inception, which are built without.
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
#: Types that training scripts store beside the weights and that are safe to unpickle.
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
    """Mean and standard deviation per channel, of images scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Origin(NamedTuple):
    source: str  # the file, or the library and its name for the weights
    sha256: str  # the checksum of the file, or of the published tensors
    licence: str | None  # the licence stated by the publisher, if any
    normalization: Normalization | None
    """The normalisation the weights were trained with, if published."""
    notes: list[str]  # changes made while loading, for a line of output


def load_weights(network: Backbone, weights: str, *, new_classifier: bool = True) -> Origin:
    """Load the weights that a training starts from.

    Args:
        network: the network to load them into.
        weights: ``pretrained`` for the weights that the network's library publishes, downloaded
            once; ``hf-hub:`` or ``local-dir:`` as in timm; or a file, see :func:`load_checkpoint`.
        new_classifier: keep the network's own classifier if the weights have none, or one for other
            classes.

    Raises:
        InputError: the weights do not exist, cannot be downloaded, or do not fit the network.
    """
    if weights != "pretrained" and not weights.startswith(_HUBS):
        path = Path(weights).expanduser()
        notes = load_checkpoint(path, network, new_classifier=new_classifier)
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        return Origin(path.name, digest, None, None, notes)
    if weights == "pretrained":
        check_published(network.name)
    scheme, _, place = weights.partition(":")
    if scheme == "local-dir":
        place = str(Path(place).expanduser())
        if not Path(place).is_dir():
            raise InputError(f"weights: {weights}: no such folder; correct the path")
    library, _, name = network.name.rpartition(":")
    if weights.startswith(_HUBS):
        _, state, licence, normalization = _from_timm(f"{scheme}:{place}")
        source = weights
    elif library == "timm":
        source, state, licence, normalization = _from_timm(name)
    else:
        source, state, licence, normalization = _from_torchvision(name)
    notes = _load(network, state, source, new_classifier)
    return Origin(source, state_sha256(state), licence, normalization, notes)


def check_published(name: str) -> None:
    """Raise InputError if no library publishes weights for a network; works offline."""
    library, _, own_name = name.rpartition(":")
    if library == "timm":
        import timm

        published = timm.get_pretrained_cfg(own_name)
        if published is None or not published.has_weights:
            raise InputError(
                f"weights: pretrained: timm publishes none for {own_name}; name a file"
            )
    elif library != "torchvision" and name not in _IMAGENET_RESNETS:
        raise InputError(
            f"weights: pretrained: none are published for {name}; there are some for"
            " networks torchvision:<name> and timm:<name>, and for resnet18 to resnet152"
        )


def download(name: str, weights: str) -> str | None:
    """Describe what :func:`load_weights` would download for a network, with size and licence.

    Return None if nothing would be downloaded. Works offline, and so gives no size and licence for
    ``hf-hub:`` names. Published weights must exist (:func:`check_published`).
    """
    library, _, own_name = name.rpartition(":")
    if weights.startswith("hf-hub:"):
        return None if _is_cached(weights.removeprefix("hf-hub:")) else weights
    if weights != "pretrained":
        return None
    return _download_of_timm(own_name) if library == "timm" else _download_of_torchvision(own_name)


def _download_of_timm(name: str) -> str | None:
    import timm

    published: Any = timm.get_pretrained_cfg(name)
    if published.hf_hub_id and _is_cached(published.hf_hub_id):
        return None
    with torch.device("meta"):  # allocates no memory
        state = timm.create_model(name).state_dict()
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values()) / 1e6
    source = f"timm:{published.architecture}.{published.tag}"
    return f"{source} (about {size:.0f} MB, {published.license or 'no licence stated'})"


def _download_of_torchvision(name: str) -> str | None:
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    if Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name).exists():
        return None
    size = weights.meta["_file_size"] * 2**20 / 1e6
    return f"torchvision:{name} {weights.name} ({size:.0f} MB, no licence stated)"


def _is_cached(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repository.partition("@")
    files = ("model.safetensors", "pytorch_model.bin")
    return any(
        isinstance(try_to_load_from_cache(name, file, revision=revision or None), str)
        for file in files
    )


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the checksum of all names, types, shapes and values of a state dict."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


_Published = tuple[str, dict[str, Tensor], str | None, Normalization]


def _from_torchvision(name: str) -> _Published:
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        network = torchvision.models.get_model(name, weights=weights, progress=False)
    except (OSError, RuntimeError) as error:  # RuntimeError: the download is damaged
        raise _unreachable(f"torchvision:{name}", error) from None
    transforms = weights.transforms()
    normalization = Normalization(tuple(transforms.mean), tuple(transforms.std))
    return f"torchvision:{name} {weights.name}", network.state_dict(), None, normalization


def _from_timm(name: str) -> _Published:
    import timm

    try:
        network: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # the download client may raise anything
        raise _unreachable(name, error) from None
    config = network.pretrained_cfg
    normalization = Normalization(tuple(config["mean"]), tuple(config["std"]))
    source = f"timm:{config.get('architecture')}.{config.get('tag')}"
    return source, network.state_dict(), config.get("license"), normalization


def _unreachable(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"the weights of {name} cannot be downloaded ({reason:.200}); go online once, or get the"
        " file elsewhere and set weights to its path"
    )


def _load(
    network: nn.Module, state: dict[str, Tensor], source: str | Path, new_classifier: bool
) -> list[str]:
    """Load a state dict, keeping the network's own classifier if theirs does not fit.

    Returns:
        Notes for :class:`Origin`.
    """
    own, notes, others, theirs = network.state_dict(), [], list[str](), ""
    state = {n: t for n, t in state.items() if n in own or not n.startswith(_AUXILIARY)}
    if isinstance(network, Backbone):
        classifier = {id(parameter) for parameter in network.last_layers().parameters()}
        others = [
            name
            for name, parameter in network.named_parameters()
            if id(parameter) in classifier
            and (name not in state or state[name].shape != parameter.shape)
        ]
        theirs = next((f"{len(state[name])}" for name in others if name in state), "no")
        if others and new_classifier:
            network.reset_classifier()
            notes.append(f"a new classifier of {network.num_classes} classes (was {theirs})")
        state = state | {name: own[name] for name in others}
    load_strictly(network, state, source)
    if others and not new_classifier:
        raise InputError(
            f"{source}: the classifier is of {theirs} classes, expected {network.num_classes};"
            " train a new one (teacher.train: head, or all), or use other weights"
        )
    return notes


def load_checkpoint(path: Path, network: nn.Module, *, new_classifier: bool = False) -> list[str]:
    """Load weights from a safetensors file, or from a torch file without unpickling code.

    The weights may be under any keys and prefixes (``state_dict``, ``model_ema``, ``module.``); the
    prefix with the most of the network's parameters is used. Averaged (EMA) weights win a tie, then
    the student's. Profiler counters are ignored, and BatchNorm's ``num_batches_tracked`` may be
    missing. Names of other ResNet implementations for CIFAR, ``shortcut`` and ``linear``, are
    translated to ``downsample`` and ``fc``. A file of this project also has the scale and shift of
    the images and, used without a new classifier, their size.

    Returns:
        Notes on prefixes, ignored tensors and a new classifier, if any.

    Raises:
        InputError: the file cannot be read, or its parameters do not fit the network or are not
            finite.
    """
    content, header = load_state(path) if path.suffix == ".safetensors" else (_read_torch(path), {})
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
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise InputError(
                f"{path}: {name} is sparse, quantized or without values; save it as a dense tensor"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(
                f"{path}: {name} has values that are not finite; its training diverged, take an"
                " earlier checkpoint"
            )
    tracked = {name: t for name, t in own.items() if name.endswith("num_batches_tracked")}
    notes = [f"weights are those under {prefix.rstrip('.')}"] if prefix else []
    if left_out:
        more = f" and {len(left_out) - 2} more" if len(left_out) > 2 else ""
        notes.append(f"left out {', '.join(left_out[:2])}{more}")
    if isinstance(network, Backbone) and "input_scale" in header:
        network.set_input(header["input_scale"], header["input_shift"])
        notes.append("images are scaled and shifted as the file says")
    if isinstance(network, Backbone) and not new_classifier:
        network.input_size = network.input_size or header.get("input_size")
    return notes + _load(network, tracked | state, path, new_classifier)


def _read_torch(path: Path) -> object:
    try:
        with path.open("rb") as handle:
            start = handle.read(200)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; correct the path of the checkpoint") from None
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an arbitrary file can fail anywhere in torch
        # torch's own message suggests disabling its protection.
        refused = re.search(r"GLOBAL (\S+)", str(error))
    problem = "damaged or not a torch file; get it again, or correct the path"
    if zipfile.is_zipfile(path) and any(
        name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()
    ):
        problem = "a TorchScript program, expected a state dict; save its state_dict() alone"
    elif re.fullmatch(rb"[\r\n -~]+", start):
        problem = f"a text file ({start[:40].decode()!r}), expected weights; get the file itself"
    elif refused:
        problem = (
            f"holds {refused[1]} besides tensors, which is not loaded because that could run code;"
            " save its state dict alone, best as safetensors"
        )
    raise InputError(f"{path}: {problem}")


def _tensors(content: object, prefix: str = "", levels: int = 8) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of nested mappings, named by its keys joined by dots."""
    if isinstance(content, Mapping) and levels:
        for key, value in content.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{key}", value
            else:
                yield from _tensors(value, f"{prefix}{key}.", levels - 1)


def _prefix(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Return the prefix of most of the network's parameters; ties as in load_checkpoint."""
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
    """Return the network's name of a parameter, or the given name if it has no such parameter."""
    candidates = (name, *(re.sub(pattern, new, name) for pattern, new in _RENAMES))
    return next((candidate for candidate in candidates if candidate in own), name)
