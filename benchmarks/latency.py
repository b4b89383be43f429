"""Time a student in torch, as a plain export, and as int8 of the chain and of other quantizers."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from benchmarks.contenders.quantizers import quantize_by_peers
from benchmarks.results import Json
from models.errors import InputError
from models.networks.checkpoint import load_network
from stages.data.arrays import DATA_FOLDER, DataSet, ImageFile, load_data
from stages.devices.proof import DeviceError
from stages.devices.runner import open_session, time_runs
from stages.files import read_json, sha256
from stages.quantization.int8 import calibrate, quantize
from stages.runtimes.exported import Exported, load_exported

PRECISIONS = ("fp32", "fp16", "int8_u8s8", "int8_s8s8")
_WARM_UP_SECONDS = 0.5
#: Minimum runs and seconds of a turn; a turn lasts until both are reached.
_RUNS, _SECONDS = 20, 0.25
Array = npt.NDArray[Any]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Student:
    """The student of a project in which the chain ran to its stage ``validate``."""

    exported: Exported  # with verified checksums
    data: DataSet
    weights: Path  # that the models were exported from
    torch: Json  # its ``accuracy``, and the number of test ``images``
    validated: dict[str, Json]  # reports/validation.json on the whole test split, by precision


def read_student(folder: Path) -> Student:
    """Read the student of the project in ``folder``.

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
    data = load_data(folder / DATA_FOLDER)
    return Student(exported, data, weights, report["torch"], validated)


@dataclass(frozen=True)
class Way:
    """A way to run the student."""

    title: str
    session: Any  # an onnxruntime session, or an object with the same methods
    prepare: Callable[[Images], Array]  # from uint8 ``[N, H, W, 3]`` to the session's input
    size: int  # of its files in bytes

    def time(self, image: Images, seconds: float) -> list[float]:
        """Return the latency in ms of each run with one image, measured for ``seconds``."""
        feed = {self.session.get_inputs()[0].name: self.prepare(image)}
        return time_runs(self.session, feed, _RUNS, seconds, sys.maxsize)


class _Function:
    """A function of images with the interface of an onnxruntime session."""

    def __init__(self, answer: Callable[[Array], Array]) -> None:
        self.answer = answer

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images")]

    def run(self, _outputs: None, feed: Mapping[str, Array]) -> list[Array]:
        return [self.answer(feed["images"])]


def open_ways(student: Student, folder: Path) -> dict[str, Way]:
    """Open all ways to run a student, each with one thread.

    The keys are ``eager``, ``plain``, ``plain_bytes``, each precision for its static model,
    ``calibrated``, and those of :func:`benchmarks.contenders.quantizers.quantize_by_peers`. Models
    are created in ``folder``, which must be empty.

    Raises:
        InputError: onnxruntime cannot load a file.
    """
    network, description = load_network(student.weights), student.exported.description
    network.eval()
    path = folder / "plain/model.onnx"
    path.parent.mkdir()
    # The usual export with a dynamic batch size; torch would treat a batch of 1 as a constant.
    example = torch.zeros(2, 3, *[description["image_size"]] * 2)
    shapes = ({0: "batch"},)
    torch.onnx.export(network, (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    plain = _open(path)
    name = plain.get_inputs()[0].name
    mean, std = (np.array(description[key], np.float32) for key in ("mean", "std"))

    def pixels(images: Images) -> Array:
        """Normalise images to float32 ``[N, 3, H, W]`` for the bare network."""
        scaled = (images.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    @torch.inference_mode()
    def eager(images: Array) -> Array:
        logits: Array = network(torch.from_numpy(images)).numpy()
        return logits

    def from_bytes(images: Array) -> Array:
        logits: Array = plain.run(None, {name: pixels(images)})[0]
        return logits

    size = sum(file.stat().st_size for file in path.parent.iterdir())
    title = "onnxruntime, plain export"
    ways = {
        "eager": Way("torch, eager", _Function(eager), pixels, student.weights.stat().st_size),
        "plain": Way(title, plain, pixels, size),
        "plain_bytes": Way(f"{title}, from bytes", _Function(from_bytes), np.asarray, size),
    }
    files = {p: (f"static {p}", student.exported.file(p, "static")) for p in PRECISIONS}
    calibration = student.data.calibration_images(description["calibration"]["images"])
    # Without the search for operators that stay in float.
    files["calibrated"] = "static int8_u8s8, as calibrated", folder / "calibrated.onnx"
    float32 = onnx.load(files["fp32"][1])
    int8 = quantize(float32, "int8_u8s8", calibrate(float32, calibration))
    onnx.save(int8, files["calibrated"][1])
    for key, (title, path) in files.items():
        ways[key] = Way(title, _open(path), np.asarray, path.stat().st_size)
    for key, (title, path) in quantize_by_peers(network, pixels(calibration), folder).items():
        ways[key] = Way(title, _open(path), pixels, path.stat().st_size)
    return ways


def _open(path: Path) -> onnxruntime.InferenceSession:
    try:
        return open_session(path, threads=1)
    except DeviceError as error:
        raise InputError(str(error)) from None


def operator_times(model: Path, image: Images) -> dict[str, float]:
    """Return the time in ms per run of each kind of operator of a static model, largest first.

    Measured by onnxruntime's profiler, which itself slows down operators of a few microseconds.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/run"
        session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
        for _ in range(_RUNS):
            session.run(None, {session.get_inputs()[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_bytes())
    micros: Counter[str] = Counter()
    for event in events:
        if event["name"].endswith("_kernel_time"):
            micros[event["args"]["op_name"]] += event["dur"]
    return {operator: time / 1000 / _RUNS for operator, time in micros.most_common()}


def answers(way: Way, images: ImageFile) -> npt.NDArray[np.int64]:
    """Classify images ``[N, H, W, 3]`` one by one; return the classes, ``[N]``."""
    name = way.session.get_inputs()[0].name
    given = (way.prepare(images[n : n + 1]) for n in range(len(images)))
    return np.array([way.session.run(None, {name: image})[0].argmax() for image in given])


def time_in_turn(
    ways: Mapping[str, Way], image: Images, rounds: int
) -> dict[str, list[list[float]]]:
    """Return latencies in ms by way and round; each round times every way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # onnxruntime's sessions set their own number
    try:
        for way in ways.values():
            way.time(image, _WARM_UP_SECONDS)
        samples: dict[str, list[list[float]]] = {key: [] for key in ways}
        for _ in range(rounds):
            for key, way in ways.items():
                samples[key].append(way.time(image, _SECONDS))
        return samples
    finally:
        torch.set_num_threads(threads)
