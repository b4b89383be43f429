from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from scipy.special import log_softmax

from models.errors import InputError
from models.networks.checkpoint import load_network, save_network
from stages import export_onnx
from stages.data.arrays import load_data
from stages.data.feed.base import FeedPlan
from stages.data.feed.memory import MemoryFeed
from stages.files import sha256
from stages.params import Params
from stages.quantization.finetune import finetune
from stages.quantization.network import QuantizedNetwork
from stages.quantize import calibrate, quantize, tensorrt_violations
from stages.runtimes.torch_runtime import DeployedNetwork
from stages.sections.data import Augmentation
from stages.sections.export import Finetune
from tests.stages.conftest import made_once, train_student, write_data

CPU = torch.device("cpu")
ONNX = Path("artifacts/onnx")
REPOSITORY = Path(__file__).parents[3]
EXPORT: dict[str, Any] = {"calibration_images": 24, "golden_images": 8}
AUTO = {"when": "auto", "max_drop": 0.0, "epochs": 6, "batch_size": 16, "learning_rate": 3e-3}


# Blocks that end in a sum, and who reads it.
LOUD = 200.0
_ENDS = {"layer2.0": ["layer3.0.conv1", "layer3.0.downsample.0"], "layer3.0": ["fc"]}


def write_hard() -> None:
    """A project whose student is right in fp32 and wrong in int8.

    Behind a ReLU a channel can be scaled up, and down again where it is read: the network computes
    the same, but one scale for all channels does not fit them any more.
    """
    write_data(Path("artifacts/data"))
    student = train_student(Path("artifacts/data"))
    with torch.no_grad():
        for end, readers in _ENDS.items():
            norms = [student.get_submodule(f"{end}.{name}") for name in ("bn2", "downsample.1")]
            factor = torch.ones(len(norms[0].weight))
            factor[0] = LOUD
            for norm in norms:
                norm.weight *= factor
                norm.bias *= factor
            for reader in readers:
                weight = student.get_submodule(reader).weight
                weight /= factor.reshape((1, -1) + (1,) * (weight.dim() - 2))
    Path("artifacts/student").mkdir()
    save_network(Path("artifacts/student/model.safetensors"), student)


@pytest.fixture(scope="session")
def hard() -> Path:
    return made_once("hard", write_hard)


@pytest.fixture(scope="session")
def calibrated(hard: Path) -> Path:
    """As ``hard``, exported without fine-tuning; not to be written to."""
    # The batch is more than there is, which nothing reads.
    return made_once("calibrated", lambda: export(when="never", batch_size=49), hard)


@pytest.fixture(scope="session")
def finetuned(hard: Path) -> Path:
    """As ``hard``, exported with fine-tuning, and what that said; not to be written to."""

    def make() -> None:
        with Path("said").open("w") as said, contextlib.redirect_stdout(said):
            export()

    return made_once("finetuned", make, hard)


@pytest.fixture
def project(hard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(hard / "artifacts", tmp_path / "artifacts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(*precisions: str, **finetune: Any) -> dict[str, Any]:
    """The description after an export with these settings; all precisions if none is named."""
    content = EXPORT | {"finetune": AUTO | finetune}
    if precisions:
        content |= {"precisions": ["fp32", *precisions]}
    export_onnx.main(Params.model_validate({"export": content}))
    return described(Path())


def described(root: Path) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((root / ONNX / "model.json").read_text())
    return description


def sums(root: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in (root / ONNX).iterdir()}


def accuracy(root: Path, name: str, split: str) -> float:
    session = onnxruntime.InferenceSession(root / ONNX / name, providers=["CPUExecutionProvider"])
    images, labels = (
        np.load(root / f"artifacts/data/{split}_{kind}.npy") for kind in ("images", "labels")
    )
    return float((session.run(None, {"images": images})[0].argmax(1) == labels).mean())


def network_and_feed(root: Path, batch_size: int) -> tuple[QuantizedNetwork, Any, MemoryFeed]:
    data = load_data(root / "artifacts/data")
    student = load_network(root / "artifacts/student/model.safetensors")
    deployed = DeployedNetwork(student, data.mean, data.std)
    model = export_onnx.export_network(deployed, data.image_size, 18, "dynamic")
    ranges = calibrate(model, data.split("train").images[:24])
    quantized = quantize(model, "int8_u8s8", ranges)
    feed = MemoryFeed(FeedPlan(data, Augmentation(), batch_size, CPU))
    return QuantizedNetwork(model, quantized, CPU), student, feed


def test_the_loss_is_the_divergence_from_the_student_on_the_augmented_images(hard: Path) -> None:
    network, student, feed = network_and_feed(hard, 20)  # the last batch is a smaller one
    wanted = []
    with torch.no_grad():
        for shard in feed.epoch(0):
            images = shard.batch.images
            q, p = (log_softmax(f(images).double().numpy(), 1) for f in (student, network))
            wanted += (np.exp(q) * (q - p)).sum(1).tolist()
    assert len(wanted) == 48
    seen: list[tuple[int, float]] = []
    still = Finetune(epochs=1, batch_size=20, learning_rate=1e-12)
    finetune(network, student, feed, still, lambda *told: seen.append(told))
    assert seen == [(1, pytest.approx(np.mean(wanted), rel=1e-4))]


def test_training_brings_the_answers_nearer_to_the_students(hard: Path) -> None:
    network, student, feed = network_and_feed(hard, 16)
    losses = []
    settings = Finetune(epochs=4, batch_size=16, learning_rate=3e-3)
    before = network.trained()
    finetune(network, student, feed, settings, lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.5 * losses[0]
    after = network.trained()
    assert all(not np.array_equal(before[name], after[name]) for name in before)


def test_a_loss_that_is_not_finite_is_told_with_what_to_do(hard: Path) -> None:
    network, student, feed = network_and_feed(hard, 16)
    wild = Finetune(epochs=9, batch_size=16, learning_rate=3e38)
    with pytest.raises(FloatingPointError, match=r"a smaller export\.finetune\.learning_rate"):
        finetune(network, student, feed, wild, lambda *_: None)


def test_what_calibration_loses_is_won_back(calibrated: Path, finetuned: Path) -> None:
    made = described(calibrated)["quantization"]
    assert {precision["made_by"] for precision in made.values()} == {"calibration"}
    assert made["int8_u8s8"]["decided_on"] is None
    names = ("fp32", "int8_u8s8", "int8_s8s8")
    lost = {p: accuracy(calibrated, f"{p}.dynamic.onnx", "val") for p in names}
    for precision in ("int8_u8s8", "int8_s8s8"):
        made = described(finetuned)["quantization"][precision]
        assert made["made_by"] == "fine-tuning"
        assert made["calibration"] == {"method": "minmax", "images": 24}
        found = accuracy(finetuned, f"{precision}.dynamic.onnx", "val")
        assert made["decided_on"] == {
            "split": "val",
            "images": 12,
            "fp32": lost["fp32"],
            "calibrated": lost[precision],
            "finetuned": found,
        }
        assert found > lost[precision]
        for shape in ("dynamic", "static"):
            model = onnx.load(finetuned / ONNX / f"{precision}.{shape}.onnx")
            assert {p.key: p.value for p in model.metadata_props}["made_by"] == "fine-tuning"
            assert bool(tensorrt_violations(model.graph)) == (precision == "int8_u8s8")
    # Nothing but the int8 files and their description is another one.
    before = sums(calibrated)
    changed = {name for name, digest in sums(finetuned).items() if before[name] != digest}
    assert changed == {"model.json"} | {
        f"{p}.{s}.onnx" for p in ("int8_u8s8", "int8_s8s8") for s in ("dynamic", "static")
    }
    said = (finetuned / "said").read_text()
    assert "export: int8_u8s8: calibrated, " in said
    assert "is more than export.finetune.max_drop, 0.00" in said
    assert "export: int8_u8s8: fine-tuning, epoch 6 of 6: loss 0." in said
    recovered = 100 * (accuracy(finetuned, "int8_u8s8.dynamic.onnx", "val") - lost["int8_u8s8"])
    assert f"recovered {recovered:+.2f} of {100 * (lost['fp32'] - lost['int8_u8s8']):.2f}" in said


def test_dynamic_and_static_models_are_the_same_network(finetuned: Path) -> None:
    images = np.load(finetuned / "artifacts/data/test_images.npy")
    logits = []
    for shape, batches in (("dynamic", [images]), ("static", np.split(images, len(images)))):
        session = onnxruntime.InferenceSession(finetuned / ONNX / f"int8_u8s8.{shape}.onnx")
        logits.append(np.concatenate([session.run(None, {"images": b})[0] for b in batches]))
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4 * np.abs(logits[0]).max())


def test_another_process_writes_the_same_bytes(finetuned: Path, project: Path) -> None:
    Path("params.yaml").write_text(json.dumps({"export": EXPORT | {"finetune": AUTO}}))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-m", "stages.export_onnx"]
    subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True)
    assert sums(project) == sums(finetuned)


@pytest.mark.usefixtures("project")
def test_a_drop_within_the_margin_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    description = export("int8_s8s8", max_drop=1.0)
    assert "is within export.finetune.max_drop, 100.00" in capsys.readouterr().out
    for made in description["quantization"].values():
        assert made["made_by"] == "calibration"
        assert made["decided_on"]["finetuned"] is None
        assert made["decided_on"]["calibrated"] < made["decided_on"]["fp32"]


@pytest.mark.usefixtures("project")
def test_a_fine_tuning_that_is_no_better_is_not_taken(
    calibrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One step of such a size leaves nothing of what the network knew.
    description = export("int8_u8s8", epochs=1, batch_size=48, learning_rate=1e4)
    assert "no better, so the calibrated model is kept" in capsys.readouterr().out
    made = description["quantization"]["int8_u8s8"]
    assert made["made_by"] == "calibration"
    assert made["decided_on"]["finetuned"] <= made["decided_on"]["calibrated"]
    name = "int8_u8s8.dynamic.onnx"
    assert sums(Path())[name] == sums(calibrated)[name]


def test_test_images_decide_nothing(project: Path) -> None:
    # As with data.val_fraction: 0, where validation has the images of the test.
    folder = project / "artifacts/data"
    for kind in ("images", "labels"):
        shutil.copyfile(folder / f"test_{kind}.npy", folder / f"val_{kind}.npy")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["val"] = manifest["splits"]["test"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    made = export("int8_s8s8")["quantization"]["int8_s8s8"]
    assert (made["decided_on"]["split"], made["decided_on"]["images"]) == ("train", 48)
    assert made["decided_on"]["finetuned"] == accuracy(project, "int8_s8s8.dynamic.onnx", "train")


@pytest.mark.usefixtures("project")
def test_a_batch_that_the_training_images_do_not_fill() -> None:
    with pytest.raises(InputError, match="batch_size is 49, but there are 48 training images"):
        export("int8_s8s8", batch_size=49)
    assert not ONNX.exists()
