"""Networks on disk: safetensors that say what they hold, and the state dicts of the public zoos."""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

import models
from models.errors import InputError
from models.networks.backbone import Backbone

# All metadata go under one key: safetensors keeps its metadata in a hash map, whose order is not
# reproducible, and equal networks shall give equal bytes.
_KEY = "ackd"
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


def save_state(path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Tensors with a JSON-able description in the file's header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # Not safetensors' own save_file: its error hides that the disk is full.
    path.write_bytes(save(tensors, {_KEY: json.dumps(header, sort_keys=True)}))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description that :func:`save_state` wrote.

    Raises:
        InputError: the file is missing, truncated, or holds no description.
    """
    try:
        with safe_open(path, "pt") as handle:
            header = (handle.metadata() or {}).get(_KEY)
        state = load_file(path)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(
            f"{path}: no such file; run `dvc repro` to make it, or correct the path"
        ) from None
    except SafetensorError as error:
        raise InputError(
            f"{path}: damaged or not a safetensors file ({error}); make or get it again"
        ) from None
    return state, json.loads(header) if header else {}


def save_network(path: Path, network: Backbone) -> None:
    """A network with its name, number of classes and what :meth:`Backbone.set_input` was told."""
    header: dict[str, Any] = {"network": network.name, "num_classes": network.num_classes}
    if network.input_scale is not None and network.input_shift is not None:
        header["input_scale"] = network.input_scale.flatten().tolist()
        header["input_shift"] = network.input_shift.flatten().tolist()
    save_state(path, network.state_dict(), header)


def load_network(path: Path) -> Backbone:
    """The network that :func:`save_network` wrote, in eval mode.

    Raises:
        InputError: the file is missing, damaged, or does not fit the network that it names.
    """
    state, header = load_state(path)
    if "network" not in header:
        raise InputError(
            f"{path}: does not say which network it holds; expected a file that a stage wrote"
        )
    network = models.build(header["network"], header["num_classes"])
    load_strictly(network, state, path)
    if "input_scale" in header:
        network.set_input(header["input_scale"], header["input_shift"])
    return network.eval()


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


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load ``state``, refusing any difference in names or shapes.

    Raises:
        InputError: names the first few parameters that are missing, unknown or of another shape.
    """
    own = network.state_dict()
    differences = [f"{name} is missing" for name in own if name not in state]
    differences += [f"{name} is unknown" for name in state if name not in own]
    differences += [
        f"{name} is {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        kind = getattr(network, "name", type(network).__name__)
        raise InputError(
            f"{path}: not a checkpoint of {kind}: {', '.join(differences[:4])}{more};"
            " name the network that it belongs to"
        )
    network.load_state_dict(dict(state))
