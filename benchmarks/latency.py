"""One finished student by several ways, timed in turn: torch, a plain export, and the chain's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from benchmarks.results import Json
from models.errors import InputError
from models.networks.backbone import Backbone
from models.networks.checkpoint import load_network
from stages.devices.browser.measurement import RUNTIME
from stages.devices.proof import DeviceError
from stages.devices.runner import open_session, time_runs
from stages.files import read_json, sha256
from stages.report_page.devices import current_rows
from stages.runtimes.exported import Exported, load_exported

PRECISIONS = ("fp32", "fp16", "int8_u8s8", "int8_s8s8")
_WARM_UP_SECONDS = 0.5
#: Of each way in a round: both are reached.
_RUNS, _SECONDS = 20, 0.25
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Student:
    """A project in which the chain ran to its stage validate.

    Attributes:
        exported: its models, proven unaltered.
        weights: the file of the network that they were exported from.
        torch: its ``accuracy`` on the test ``images``.
        validated: by precision, the row of ``reports/validation.json`` about the whole test split.
        browsers: by device, rows of browsers with one thread, of these models.
    """

    exported: Exported
    weights: Path
    torch: Json
    validated: dict[str, Json]
    browsers: dict[str, list[Json]]


def read_student(folder: Path) -> Student:
    """The student of the project in ``folder``.

    Raises:
        InputError: a file is missing, damaged or of another student, or a precision is missing.
    """
    exported = load_exported(folder / "artifacts/onnx")
    weights = folder / "artifacts/student/model.safetensors"
    if not weights.is_file() or sha256(weights) != exported.description["student_sha256"]:
        raise InputError(
            f"{weights}: not the student that {exported.folder} was exported from; run"
            f" `dvc repro validate` in {folder}"
        )
    report = read_json(folder / "reports/validation.json")
    validated = {
        row["precision"]: row
        for row in report["results"]
        if (row["runtime"], row["shape"]) == ("onnxruntime", "dynamic")
    }
    there = validated.keys() & set(exported.precisions)
    if missing := [precision for precision in PRECISIONS if precision not in there]:
        raise InputError(
            f"{folder}: has no validated {', '.join(missing)}; add to export.precisions in its"
            " params.yaml, and run `dvc repro validate` there"
        )
    browsers = {}
    for path in sorted((folder / "reports/devices").glob("*.json")):
        content = read_json(path)
        rows = [
            row
            for row in current_rows(content, exported.description["files"])
            if (row["runtime"], row["threads"]) == (RUNTIME, 1) and row["status"] != "skipped"
        ]
        if rows:
            browsers[content["device"]] = rows
    return Student(exported, weights, report["torch"], validated, browsers)


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
    images: Array
    size: int

    def time(self, seconds: float) -> list[float]:
        """Milliseconds of each run at batch 1, over so many seconds."""
        feed = {self.session.get_inputs()[0].name: self.images[:1]}
        return time_runs(self.session, feed, _RUNS, seconds, sys.maxsize)


class _Function:
    """A function of images, asked as onnxruntime's sessions are."""

    def __init__(self, answer: Callable[[Array], Array]) -> None:
        self.answer = answer

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images")]

    def run(self, _outputs: None, feed: Mapping[str, Array]) -> list[Array]:
        return [self.answer(feed["images"])]


def eager(network: Backbone) -> _Function:
    """A network in torch."""

    @torch.inference_mode()
    def answer(images: Array) -> Array:
        logits: Array = network(torch.from_numpy(images)).numpy()
        return logits

    return _Function(answer)


def open_ways(student: Student, folder: Path) -> dict[str, Way]:
    """``eager``, ``plain``, ``plain_bytes``, and each precision's static model; one thread each.

    Args:
        student: whose network and exports are taken.
        folder: an empty one, for the plain export.

    Raises:
        InputError: onnxruntime does not take a file.
    """
    network, description = load_network(student.weights), student.exported.description
    images, _ = student.exported.golden_batch()
    path = folder / "plain.onnx"
    # As a user does who asks torch for a dynamic batch; a batch of 1 would be taken for a constant.
    example = torch.zeros(2, 3, *[description["image_size"]] * 2)
    shapes = ({0: "batch"},)
    torch.onnx.export(network, (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    plain = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = plain.get_inputs()[0].name

    def from_bytes(images: Array) -> Array:
        logits: Array = plain.run(None, {name: normalise(images, description)})[0]
        return logits

    size = sum(file.stat().st_size for file in folder.iterdir())
    title, pixels = "onnxruntime, plain export", normalise(images, description)
    ways = {
        "eager": Way("torch, eager", eager(network), pixels, student.weights.stat().st_size),
        "plain": Way(title, plain, pixels, size),
        "plain_bytes": Way(f"{title}, from bytes", _Function(from_bytes), images, size),
    }
    for precision in PRECISIONS:
        path = student.exported.file(precision, "static")
        try:
            session = open_session(path, threads=1)
        except DeviceError as error:
            raise InputError(str(error)) from None
        ways[precision] = Way(f"static {precision}", session, images, path.stat().st_size)
    return ways


def normalise(images: npt.NDArray[np.uint8], description: Mapping[str, Any]) -> Array:
    """Images uint8 ``[G, H, W, 3]`` as the bare network takes them, float32 ``[G, 3, H, W]``."""
    mean, std = (np.array(description[key], np.float32) for key in ("mean", "std"))
    scaled = (images.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def time_in_turn(ways: Mapping[str, Way], rounds: int) -> dict[str, list[list[float]]]:
    """Milliseconds at batch 1, by way and round; in a round each way has its turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # onnxruntime's sessions have theirs
    try:
        for way in ways.values():
            way.time(_WARM_UP_SECONDS)
        samples: dict[str, list[list[float]]] = {key: [] for key in ways}
        for _ in range(rounds):
            for key, way in ways.items():
                samples[key].append(way.time(_SECONDS))
        return samples
    finally:
        torch.set_num_threads(threads)
