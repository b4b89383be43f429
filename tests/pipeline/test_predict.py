"""``ackd predict`` against torch, on picture files."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from models.networks.checkpoint import load_network
from stages.data.arrays import load_data
from stages.runtimes.torch_runtime import DeployedNetwork
from tests.bundles import changed
from tests.pipeline.conftest import ROOT, invoke
from tests.stages.conftest import CLASSES, exported


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with exports, and two test images as files, one rotated by EXIF."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported() / "artifacts", tmp_path / "artifacts")
    with changed(Path("artifacts/onnx/model.json")) as model:
        model["resize"] = model["image_size"] + 2
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    images = np.load("artifacts/data/test_images.npy")
    images = [ImageOps.expand(Image.fromarray(image), 1, "red") for image in images[:2]]
    images[0].save("straight.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    images[1].rotate(90).save("turned.png", exif=exif)
    with changed(Path("artifacts/data/manifest.json")) as manifest:  # of the next run
        manifest["classes"] = ["another", *manifest["classes"]]
    return tmp_path


def test_predictions_equal_torchs(project):
    code, output, error = invoke("predict", "straight.png", "turned.png")
    assert (code, error) == (0, "")
    data = load_data()
    network = load_network(Path("artifacts/student/model.safetensors"))
    deployed = DeployedNetwork(network, data.mean, data.std).eval()
    with torch.no_grad():
        odds = deployed(torch.from_numpy(np.array(data.split("test").images[:2]))).softmax(1)
    for name, row in zip(("straight.png", "turned.png"), odds.tolist(), strict=True):
        (line,) = [line for line in output.splitlines() if line.startswith(f"{name}: ")]
        answers = re.findall(r"(\S+) (\d+\.\d+) ?%", line)
        expected = sorted(zip(row, CLASSES, strict=True), reverse=True)
        assert [answer[0] for answer in answers] == [name for _, name in expected]
        for (_, shown), (probability, _) in zip(answers, expected, strict=True):
            assert float(shown) == pytest.approx(100 * probability, abs=0.01)


def test_unreadable_pictures_are_named(project):
    Path("text.jpg").write_text("no picture")
    code, output, error = invoke("predict", "straight.png", "text.jpg", "absent.jpg")
    assert (code, output) == (1, "")
    assert error.startswith("error: cannot read text.jpg (not an image), absent.jpg (")
    assert error.endswith("; give readable pictures\n")
    assert error.count("\n") == 1


def test_a_precision_that_was_not_exported(project):
    code, output, error = invoke("predict", "straight.png", "--precision", "int4")
    assert (code, output) == (1, "")
    assert error.startswith("error: --precision int4: not exported; use one of fp32, ")
