"""One student by several ways, timed in turn: torch, a plain export, and the chain's exports."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from benchmarks.students import PRECISIONS, Student
from models.errors import InputError
from models.networks.backbone import Backbone
from models.networks.checkpoint import load_network
from stages.devices.proof import DeviceError
from stages.devices.runner import open_session, time_runs

_WARM_UP_SECONDS = 0.5
#: Of each way in a round: both are reached.
_RUNS, _SECONDS = 20, 0.25


@dataclass(frozen=True)
class Way:
    """A way to the student's answers.

    Attributes:
        title: for the table.
        session: onnxruntime's, or what is asked as one.
        images: the golden batch as the way takes it, ``[G, ...]``.
        size: of its files, in bytes.
    """

    title: str
    session: Any
    images: npt.NDArray[Any]
    size: int

    def time(self, runs: int, seconds: float) -> list[float]:
        """Milliseconds of each of at least so many runs at batch 1, over so many seconds."""
        feed = {self.session.get_inputs()[0].name: self.images[:1]}
        return time_runs(self.session, feed, runs, seconds, sys.maxsize)


class _Eager:
    """A network in torch, asked as onnxruntime's sessions are."""

    def __init__(self, network: Backbone) -> None:
        self.network = network

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images")]

    @torch.inference_mode()
    def run(self, _outputs: None, feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        return [self.network(torch.from_numpy(feed["images"])).numpy()]


class _FromBytes:
    """A plain export behind the preprocessing that the chain's exports hold, done by numpy."""

    def __init__(self, session: Any, description: Mapping[str, Any]) -> None:
        self.session, self.description = session, description
        self.name = session.get_inputs()[0].name

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images")]

    def run(self, outputs: None, feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        pixels = normalise(feed["images"], self.description)
        logits: list[npt.NDArray[Any]] = self.session.run(outputs, {self.name: pixels})
        return logits


def open_ways(student: Student, folder: Path) -> dict[str, Way]:
    """``eager``, ``plain``, ``plain_bytes``, and each precision's static model; one thread each.

    Args:
        student: whose network and exports are taken.
        folder: an empty one, for the plain export.

    Raises:
        InputError: onnxruntime does not take a file.
    """
    network = load_network(student.weights)
    description = student.exported.description
    images, _ = student.exported.golden_batch()
    pixels = normalise(images, description)
    path = folder / "plain.onnx"
    export_plainly(network, description["image_size"], path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    plain = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    size = sum(file.stat().st_size for file in folder.iterdir())
    title = "onnxruntime, plain export"
    ways = {
        "eager": Way("torch, eager", _Eager(network), pixels, student.weights.stat().st_size),
        "plain": Way(title, plain, pixels, size),
        "plain_bytes": Way(f"{title}, from bytes", _FromBytes(plain, description), images, size),
    }
    for precision in PRECISIONS:
        path = student.exported.file(precision, "static")
        made_by = student.exported.made_by(precision)
        title = f"static {precision}{f' by {made_by}' if made_by else ''}"
        try:
            session = open_session(path, threads=1)
        except DeviceError as error:
            raise InputError(str(error)) from None
        ways[precision] = Way(title, session, images, path.stat().st_size)
    return ways


def normalise(
    images: npt.NDArray[np.uint8], description: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    """Images uint8 ``[G, H, W, 3]`` as the bare network takes them, ``[G, 3, H, W]``."""
    mean, std = (np.array(description[key], np.float32) for key in ("mean", "std"))
    scaled = (images.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def export_plainly(network: Backbone, image_size: int, path: Path) -> None:
    """As a user does who asks torch for a dynamic batch, and for nothing else."""
    # A batch of 1 would be taken for a constant.
    example = torch.zeros(2, 3, image_size, image_size)
    shapes = ({0: "batch"},)
    torch.onnx.export(network, (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)


def time_in_turn(ways: Mapping[str, Way], rounds: int) -> dict[str, list[list[float]]]:
    """Milliseconds at batch 1, by way and round; in a round each way has its turn."""
    with _one_thread():
        for way in ways.values():
            way.time(_RUNS, _WARM_UP_SECONDS)
        samples: dict[str, list[list[float]]] = {key: [] for key in ways}
        for _ in range(rounds):
            for key, way in ways.items():
                samples[key].append(way.time(_RUNS, _SECONDS))
    return samples


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """For torch; onnxruntime's sessions have theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
