"""Distil, export and validate a student of each family that is common on phones."""

import sys
from pathlib import Path

import pytest
import torch

import models
from models.networks import zoo
from models.networks.checkpoint import save_network
from stages import distill, export_onnx, prune, validate
from stages.files import read_json
from stages.params import Params
from tests.shallow import build_shallow
from tests.stages.conftest import write_data
from tests.stages.test_training_stages import OWN_CODE


@pytest.fixture
def project(here, monkeypatch):
    """A project with images of three classes, a teacher and the user's own code."""
    write_data(Path("artifacts/data"), 64)
    Path("artifacts/proxy").mkdir()
    torch.manual_seed(0)
    teacher = models.build("timm:test_vit", 3)
    teacher.input_size = 160
    save_network(Path("artifacts/proxy/model.safetensors"), teacher)
    monkeypatch.setattr(zoo, "_build_timm", build_shallow)
    monkeypatch.setattr(zoo, "_trunks", {})  # of whole networks
    Path("own_student.py").write_text(OWN_CODE)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "network",
    [
        *("python:own_student:build", "timm:mobilenetv3_small_050", "timm:test_convnext"),
        *("timm:mobilenetv4_conv_small_035", "timm:tf_efficientnet_lite0", "timm:ghostnet_050"),
        "timm:repvit_m0_9",
    ],
)
def test_it_learns_from_a_transformer_and_is_exported(network):
    content = {
        "distill": {"network": network, "method": "kd", "epochs": 1, "batch_size": 8},
        "export": {"precisions": ["fp32", "int8_u8s8"], "calibration_images": 24},
        "validate": {"batch_sizes": [1, 3], "tensorrt": "off"},
    }
    params = Params.model_validate(content)
    for stage in (distill, prune, export_onnx, validate):  # fails if fp32 does
        stage.main(params)
    assert (read_json(prune.REPORT)["fused"] is not None) == ("repvit" in network)
    int8 = [row for row in read_json(validate.REPORT)["results"] if row["precision"] != "fp32"]
    assert len(int8) == 2
    # After six steps, rounding changes many predictions, but broken arithmetic changes far more.
    assert all(row["golden"]["cosine"] > 0.9 for row in int8)
