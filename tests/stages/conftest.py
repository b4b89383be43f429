"""A small project for the stages after training: data, a student, and its exports."""

import os
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

import models
from models.networks.backbone import Backbone
from models.networks.checkpoint import save_network
from stages import export_onnx
from stages.data.arrays import load_data
from stages.data.feed.normalize import Normalize
from stages.files import read_json, sha256, write_json
from stages.params import Params
from tests.once import once
from tests.splits import write_splits
from tests.stages import chain_files, html_page

CLASSES = ["blue", "green", "red"]


@pytest.fixture(autouse=True)
def _flows_leave_no_exit_handlers(monkeypatch):
    """Keep a loader's worker, a fork of this process, from running the exit handlers of flows.

    They would fail without the flows' threads. Stages never run in a flow's process.
    """
    monkeypatch.setattr(threading, "_threading_atexits", [])


PARAMS = Params.model_validate(
    {
        "export": {"calibration_images": 24, "golden_images": 8},
        "validate": {"batch_sizes": [1, 3, 8]},
        "profile": {"threads": [1], "warmup_runs": 2, "warmup_seconds": 0.0}
        | {"min_runs": 20, "min_seconds": 0.05},
    }
)


@pytest.fixture(scope="session")
def tiny_params():
    """Return the default parameters, scaled down."""
    return PARAMS


def write_data(folder: Path, size: int = 16) -> None:
    """Write square images of three classes, each brightest in its own channel."""
    generator = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 48), ("val", 12), ("test", 30)):
        images = generator.integers(0, 160, (count, size, size, 3), dtype=np.uint8)
        images[np.arange(count), :, :, 2 - np.arange(count) % 3] += 80
        splits[name] = images
    scaled = splits["train"] / 255
    mean, std = scaled.mean((0, 1, 2)).tolist(), scaled.std((0, 1, 2)).tolist()
    write_splits(folder, splits, CLASSES, mean, std)


def write_unlabeled() -> None:
    """Add 20 unlabelled images to ``artifacts/data``."""
    path = Path("artifacts/data/unlabeled_images.npy")
    manifest = path.with_name("manifest.json")
    np.save(path, np.random.default_rng(1).integers(0, 240, (20, 16, 16, 3), dtype=np.uint8))
    made = {"source": "made", "count": 20, "left_out": 0, "images_sha256": sha256(path)}
    write_json(manifest, read_json(manifest) | {"unlabeled": made})


def normalized(images: np.ndarray, mean: npt.ArrayLike, std: npt.ArrayLike) -> torch.Tensor:
    """Normalize images ``[N, H, W, 3]`` in numpy; return them as ``[N, 3, H, W]``."""
    return torch.tensor((images / 255 - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)


def normalized_test_images() -> torch.Tensor:
    """Return the test images in the current folder like the stages, ``[N, 3, H, W]``."""
    data = load_data()
    return Normalize(data.mean, data.std, torch.device("cpu"))(data.split("test").images[:])


def train_student(folder: Path) -> Backbone:
    """Train a resnet8 for a few steps, so that its BatchNorm and its logits are realistic."""
    manifest = read_json(folder / "manifest.json")
    images = np.load(folder / "train_images.npy")
    pixels = normalized(images, manifest["mean"], manifest["std"])
    labels = torch.from_numpy(np.load(folder / "train_labels.npy"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.build("resnet8", len(CLASSES))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(network(pixels), labels).backward()
        optimizer.step()
    return network.eval()


def made_once(name: str, make: Callable[[], object], origin: Path | None = None) -> Path:
    """Return a folder made once a session: a copy of ``origin`` that ``make`` fills from within."""

    def make_there(folder: Path) -> None:
        if origin is not None:
            shutil.copytree(origin, folder, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            make()

    return once(f"stages-{name}", make_there)


def write_origin() -> None:
    data, student = Path("artifacts/data"), Path("artifacts/student")
    write_data(data)
    student.mkdir()
    save_network(student / "model.safetensors", train_student(data))


def exported() -> Path:
    """See :func:`tiny_exported`."""
    origin = made_once("origin", write_origin)
    return made_once("exported", lambda: export_onnx.main(PARAMS), origin)


@pytest.fixture(scope="session")
def tiny_origin():
    """A project with ``artifacts/data`` and ``artifacts/student``; read-only."""
    return made_once("origin", write_origin)


@pytest.fixture(scope="session")
def tiny_exported():
    """Like :func:`tiny_origin`, with ``artifacts/onnx``; read-only."""
    return exported()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def student_project(tiny_origin, here):
    """The current folder, a writable copy of :func:`tiny_origin`."""
    return shutil.copytree(tiny_origin, here, dirs_exist_ok=True)


@pytest.fixture
def project(tiny_exported, here):
    """The current folder, a writable copy of :func:`tiny_exported`."""
    return shutil.copytree(tiny_exported, here, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def finished():
    """A folder with the results of all stages before the report; read-only."""
    return made_once("finished", chain_files.write_chain)


@pytest.fixture(scope="session")
def reported(finished):
    """Like :func:`finished`, with its report; read-only."""
    return made_once("reported", lambda: html_page.made(drawn=True), finished)


@pytest.fixture
def chain(finished, here):
    """A writable copy of a finished chain."""
    shutil.copytree(finished, here, dirs_exist_ok=True)


def write_distillable(origin: Path) -> None:
    """Write the data of ``origin`` and an untrained resnet14 as teacher to the current folder."""
    shutil.copytree(origin / "artifacts/data", "artifacts/data")
    Path("artifacts/proxy").mkdir()
    torch.manual_seed(3)
    save_network(Path("artifacts/proxy/model.safetensors"), models.build("resnet14", 3))


@pytest.fixture
def distillable(tiny_origin, here, monkeypatch):
    """The current folder, a writable project for distilling a student."""
    write_distillable(tiny_origin)
    monkeypatch.setenv("ACKD_LOGITS", str(here / "logits"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return here


def imported_by(stage: str, folder: Path, *modules: str) -> str:
    """Run a stage in a process; return the list of these modules that it has imported."""
    program = f"import runpy, sys; runpy.run_module('stages.{stage}', run_name='__main__');"
    program += f"print(sorted({set(modules)!r} & set(sys.modules)))"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program]
    return subprocess.check_output(command, cwd=folder, env=env, text=True)


def exit_of(stage: str) -> object:
    """Return the exit status of ``python -m stages.STAGE``, without starting a process."""
    name = f"stages.{stage}"
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, name, raising=False)
        with pytest.raises(SystemExit) as caught:
            runpy.run_module(name, run_name="__main__")
    return caught.value.code
