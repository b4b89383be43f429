"""Networks on disk: safetensors that say what they hold, and the state dicts of the public zoos."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

import models
from models.backbone import Backbone
from models.errors import InputError

# All metadata go under one key: safetensors keeps its metadata in a hash map, whose order is not
# reproducible, and equal networks shall give equal bytes.
_KEY = "ackd"
_WRAPPERS = ("model", "state_dict", "student", "net")
_PREFIXES = ("module.", "_orig_mod.", "student.", "architecture.")
# Names that public codes give to what is the same: ResNets written for CIFAR, and the DenseNets of
# torchvision's files, which are older than its code.
_RENAMES = (
    (r"(^|\.)shortcut\.", r"\1downsample."),
    (r"^linear\.", "fc."),
    (r"\.(norm|conv)\.([12])\.", r".\1\2."),
)


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


def load_checkpoint(path: Path, network: nn.Module) -> None:
    """Load a state dict from elsewhere: safetensors, or a torch file read without unpickling code.

    The usual wrappers (``model``, ``state_dict``, ``student``, ``net``) and prefixes (``module.``,
    ``_orig_mod.``, ``student.``, ``architecture.``) are taken off, and of a file that holds student
    and teacher the student is taken. What the public codes of ResNet for CIFAR call ``shortcut``
    and ``linear`` becomes ``downsample`` and ``fc`` where the network has these.

    Raises:
        InputError: the file cannot be read so, or its parameters are not the network's.
    """
    if path.suffix == ".safetensors":
        state: Any = load_state(path)[0]
    else:
        try:
            # Many training scripts leave their arguments beside the weights; they are data alone.
            with torch.serialization.safe_globals([argparse.Namespace]):
                state = torch.load(path, map_location="cpu", weights_only=True)
        except (FileNotFoundError, IsADirectoryError):
            raise InputError(f"{path}: no such file; correct the path of the checkpoint") from None
        except pickle.UnpicklingError:
            # torch's message advises to switch this protection off.
            raise InputError(
                f"{path}: damaged, or holds more than tensors, which is not loaded because that"
                " could run code; save its state dict alone, best as safetensors"
            ) from None
        except (RuntimeError, EOFError, OSError):
            raise InputError(
                f"{path}: damaged or not a torch file; get it again, or correct the path"
            ) from None
    load_strictly(network, _renamed(_unwrapped(state, path), network), path)


def _unwrapped(state: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise InputError(f"{path}: holds no state dict; expected parameter names and tensors")
    names = dict(state)
    for prefix in _PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix): value for name, value in names.items()}
    of_student = {name: value for name, value in names.items() if name.startswith("student.")}
    return {name.removeprefix("student."): v for name, v in of_student.items()} or names


def _renamed(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    own = network.state_dict().keys()
    renamed = {}
    for name, tensor in state.items():
        candidates = (re.sub(pattern, new, name) for pattern, new in _RENAMES)
        fitting = name if name in own else next((c for c in candidates if c in own), name)
        renamed[fitting] = tensor
    return renamed


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
