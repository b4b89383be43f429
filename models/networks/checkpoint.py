"""Save and load networks as safetensors files with a description in the header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

import models
from models.errors import InputError
from models.networks.backbone import Backbone

# All metadata go under one key, because safetensors keeps metadata in a hash map with random order,
# and equal networks must give equal bytes.
_KEY = "ackd"


def save_state(path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Save tensors with a JSON-serialisable description in the file's header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # safetensors' own save_file hides that the disk is full.
    path.write_bytes(save(tensors, {_KEY: json.dumps(header, sort_keys=True)}))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load what :func:`save_state` wrote; raises InputError if it is missing or damaged."""
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
            f"{path}: damaged or not a safetensors file ({error}); create or download it again"
        ) from None
    return state, json.loads(header) if header else {}


def describe(network: Backbone) -> dict[str, Any]:
    """Return a header with a network's name, number of classes and changes since it was built."""
    header: dict[str, Any] = {"network": network.name, "num_classes": network.num_classes}
    if network.input_size is not None:
        header["input_size"] = network.input_size
    if network.is_fused:
        header["fused"] = True
    if network.input_scale is not None and network.input_shift is not None:
        header["input_scale"] = network.input_scale.flatten().tolist()
        header["input_shift"] = network.input_shift.flatten().tolist()
    return header


def build_described(header: Mapping[str, Any]) -> Backbone:
    """Build a network from the header returned by :func:`describe`, without its weights."""
    network = models.build(header["network"], header["num_classes"])
    network.input_size = header.get("input_size")
    if header.get("fused"):
        network.fuse_branches()
    if "input_scale" in header:
        network.set_input(header["input_scale"], header["input_shift"])
    return network


def copied(network: Backbone) -> Backbone:
    """Return a copy of a network in eval mode on the CPU, as if it had been saved and loaded."""
    copy = build_described(describe(network))
    copy.load_state_dict(network.state_dict())
    return copy.eval()


def save_network(path: Path, network: Backbone) -> None:
    save_state(path, network.state_dict(), describe(network))


def load_network(path: Path) -> Backbone:
    """Load the network that :func:`save_network` wrote, in eval mode.

    Raises:
        InputError: the file is missing, damaged, or does not fit the network that it names.
    """
    state, header = load_state(path)
    if "network" not in header:
        raise InputError(
            f"{path}: does not say which network it holds; expected a file that a stage wrote"
        )
    network = build_described(header)
    load_strictly(network, state, path)
    return network.eval()


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Load a state dict, rejecting any difference in names or shapes.

    Raises:
        InputError: names the first parameters that are missing, unknown or have another shape.
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
