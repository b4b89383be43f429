from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import models
from models.errors import InputError
from models.networks.checkpoint import load_network, save_network
from stages import validate
from stages.analysis.calibration import calibration
from stages.files import read_json, sha256
from stages.params import Params
from stages.runtimes import parity
from tests.bundles import changed, flip_byte
from tests.stages.conftest import normalized_test_images

pytestmark = pytest.mark.usefixtures("project")
ONNX = Path("artifacts/onnx")


def params(required: tuple[str, ...] = ("fp32",), **changes: Any) -> Params:
    settings = {"batch_sizes": [1, 3, 8]} | changes
    return Params.model_validate({"export": {"required": [*required]}, "validate": settings})


def replace(name: str, weight: float) -> None:
    """Replace the bias of an export's classifier, and its checksum in model.json."""
    path = ONNX / name
    model = onnx.load(path)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == gemm.input[2])
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] = weight
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, path)
    precision, shape, _ = name.split(".")
    with changed(ONNX / "model.json") as description:
        description["files"][precision][shape]["sha256"] = sha256(path)


def rows(runtime: str = "onnxruntime") -> list[dict[str, Any]]:
    return [row for row in read_json(validate.REPORT)["results"] if row["runtime"] == runtime]


def test_every_export_passes(monkeypatch):
    monkeypatch.setattr(validate, "STATIC_IMAGES", 20)
    validate.main(params(tensorrt="off", batch_sizes=[1, 3, 9, 16]))  # the golden batch has 8
    assert read_json(validate.REPORT)["torch"] == {"accuracy": 1.0, "images": 30}
    assert [(row["precision"], row["shape"]) for row in rows()] == [
        (precision, shape)
        for precision in ("fp32", "fp16", "int8_u8s8", "int8_s8s8")
        for shape in ("dynamic", "static")
    ]
    for row in rows():
        assert (row["status"], row["reason"]) == ("passed", None)
        assert row["images"] == (30 if row["shape"] == "dynamic" else 20)
        assert row["golden"]["batch_sizes"] == ([1, 3, 8] if row["shape"] == "dynamic" else [1])
        assert row["golden"]["max_relative_error"] < 0.1
        assert row["provider"] == "CPUExecutionProvider"
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]
    assert [row["reason"] for row in rows("tensorrt")] == ["validate.tensorrt is off"] * 6
    assert {row["status"] for row in rows("tensorrt")} == {"skipped"}
    assert rows("tensorrt")[0]["accuracy"] is None


def test_figures_against_an_independent_calculation():
    # Class 0 is no longer predicted: a third of the test images is lost.
    replace("int8_s8s8.dynamic.onnx", -1e6)
    validate.main(params(tensorrt="off"))
    (row,) = (row for row in rows() if row["file"] == "int8_s8s8.dynamic.onnx")
    assert row["accuracy"] == pytest.approx(20 / 30)
    assert row["drop"] == pytest.approx(10 / 30)
    # Agresti and Min: add one half to each cell of the table; 10 images are lost and none gained.
    centre = (10.5 - 0.5) / 32
    half = 1.959964 * np.sqrt((11 - 10**2 / 32) / 32**2)
    assert (row["drop_low"], row["drop_high"]) == pytest.approx((centre - half, centre + half))
    assert row["agreement"] == pytest.approx(20 / 30)
    reference = np.load(ONNX / "golden.npz")["logits"].astype(np.float64)
    largest = np.abs(reference).max()
    assert row["golden"]["max_relative_error"] == pytest.approx(1e6 / largest, rel=1e-3)
    # Only the two other classes have probability, so confidence comes from their logits.
    with torch.no_grad():
        logits = load_network(parity.STUDENT)(normalized_test_images())
    others = logits.double().numpy()[:, 1:]
    claimed = np.exp(others).max(1) / np.exp(others).sum(1)
    right = (others.argmax(1) + 1) == np.load("artifacts/data/test_labels.npy")
    error = calibration(claimed, right)["error"]
    assert (row["balanced_accuracy"], row["top5_accuracy"]) == (pytest.approx(20 / 30), None)
    assert row["calibration_error"] == pytest.approx(error, abs=0.02)  # of int8 logits
    assert row["golden"]["top1_agreement"] == np.mean(reference.argmax(1) != 0)


def test_a_precision_that_fails_is_left_out_or_where_required_ends_the_chain(capsys):
    replace("fp16.static.onnx", -6e4)
    replace("int8_s8s8.dynamic.onnx", -1e6)
    validate.main(params())
    failed = {row["file"]: row["reason"] for row in rows() if row["status"] == "failed"}
    assert list(failed) == ["fp16.static.onnx", "int8_s8s8.dynamic.onnx"]
    assert failed["fp16.static.onnx"] == "agreement with torch 0.667 is below 0.95"
    assert failed["int8_s8s8.dynamic.onnx"] == "agreement with torch 0.667 is below 0.9"
    fp16, int8 = capsys.readouterr().out.splitlines()
    assert fp16.startswith("validate: fp16 is left out: fp16.static.onnx in onnxruntime (agreement")
    assert int8.startswith("validate: int8_s8s8 is left out: int8_s8s8.dynamic.onnx in onnxrunt")
    with pytest.raises(InputError) as caught:
        validate.main(params(("fp32", "int8_s8s8"), tensorrt="off"))
    assert "1 of 14 failed: int8_s8s8.dynamic.onnx in onnxruntime (agree" in str(caught.value)
    assert "export.required needs fp32, int8_s8s8: change that" in str(caught.value)


def test_a_required_precision_that_was_not_exported_is_named_at_once():
    with changed(ONNX / "model.json") as description:
        del description["files"]["fp16"]
        description["failed"] = {"fp16": "not exported (why)"}
    validate.main(params())
    validate.REPORT.unlink()
    with pytest.raises(InputError, match=r"required names fp16, which was not exported \(why\)"):
        validate.main(params(("fp32", "fp16")))
    assert not validate.REPORT.exists()


def test_int8_that_no_device_would_take_and_logits_that_are_not_finite_fail():
    replace("int8_s8s8.static.onnx", -1e6)
    validate.main(params(min_agreement_int8=0.5))
    (row,) = (row for row in rows() if row["status"] == "failed")
    assert row["file"] == "int8_s8s8.static.onnx"
    assert row["reason"].endswith("on the golden batch, so devices would refuse it")
    replace("fp32.dynamic.onnx", float("nan"))
    with pytest.raises(InputError, match=r"fp32\.dynamic\.onnx in onnxruntime .*not finite"):
        validate.main(params())
    assert rows()[0]["golden"]["max_relative_error"] is None
    assert rows()[0]["accuracy"] is None


def test_what_is_not_the_export_is_refused_before_any_work(project):
    path = project / ONNX / "int8_u8s8.static.onnx"
    flip_byte(path)
    with pytest.raises(InputError, match=r"int8_u8s8\.static\.onnx: altered since its export"):
        validate.main(params())
    path.rename(genuine := path.with_suffix(".away"))
    with pytest.raises(InputError, match=r"artifacts/onnx/int8_u8s8\.static\.onnx: no such file"):
        validate.main(params())
    flip_byte(genuine)
    genuine.rename(path)
    save_network(parity.STUDENT, models.build("resnet8", 3))
    with pytest.raises(InputError, match="not the exported student"):
        validate.main(params())
    assert not (project / "reports").exists()
