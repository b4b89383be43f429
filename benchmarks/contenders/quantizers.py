"""int8 models of other quantizers, made as in their guides: onnxruntime's and NNCF's defaults."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxruntime.quantization import quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.networks.backbone import Backbone

_INPUT = "images"
Array = npt.NDArray[np.float32]


def quantize_by_peers(
    network: Backbone, images: Array, folder: Path
) -> dict[str, tuple[str, Path]]:
    """Quantize a network with each peer that is installed.

    Both get a graph from torch's TorchScript exporter with batch size 1, because NNCF 3.4 breaks
    graphs of the newer exporter (MobileNetV3 then fails in onnxruntime). ``images`` are normalised
    calibration images, ``[N, 3, H, W]``; ``folder`` must be empty.

    Returns:
        Title and file, by key.
    """
    plain = folder / "torchscript.onnx"
    example = torch.from_numpy(images[:1])
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        torch.onnx.export(
            network, (example,), plain, dynamo=False, input_names=[_INPUT], opset_version=17
        )
    peers: dict[str, tuple[str, Callable[[Path, Array, Path], None]]] = {
        "onnxruntime": ("onnxruntime's quantize_static, defaults", _by_onnxruntime)
    }
    if importlib.util.find_spec("nncf") is not None:
        peers["nncf"] = ("NNCF's quantize, defaults", _by_nncf)
    found = {}
    for key, (title, make) in peers.items():
        found[key] = title, folder / f"{key}.onnx"
        make(plain, images, found[key][1])
    return found


def _by_onnxruntime(plain: Path, images: Array, target: Path) -> None:
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(plain, prepared)
    feeds = iter([{_INPUT: image[None]} for image in images])
    quantize_static(prepared, target, SimpleNamespace(get_next=lambda: next(feeds, None)))


def _by_nncf(plain: Path, images: Array, target: Path) -> None:
    import nncf

    dataset = nncf.Dataset(list(images), lambda image: {_INPUT: image[None]})
    model: Any = nncf.quantize(onnx.load(plain), dataset, subset_size=len(images))
    onnx.save(model, target)
