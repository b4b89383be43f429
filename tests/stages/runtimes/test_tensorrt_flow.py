"""From an export to its row in the report, with the real process and a stand-in for TensorRT.

The stand-in computes on the CPU; test_tensorrt_types.py compares it with the real bindings.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from models.errors import InputError
from stages import validate
from stages.files import read_json
from stages.params import Params
from stages.runtimes.base import Job, RuntimeFailureError
from stages.runtimes.tensorrt_runtime import TensorRtRuntime
from stages.sections.export import Profile
from tests.bundles import changed
from tests.stages.runtimes.stand_in import engine_on_cpu

REPOSITORY = Path(__file__).parents[3]
COMMAND = (sys.executable, engine_on_cpu.__file__)
TIMING = Profile(warmup_runs=2, warmup_seconds=0.0, min_runs=20, min_seconds=0.01, max_runs=20)
VERSIONS = ("10.16.1.11", "11.4.0.106")


@pytest.fixture
def tensorrt(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("STAND_IN_TENSORRT", VERSIONS[-1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    return TensorRtRuntime(COMMAND, TIMING)


@pytest.mark.parametrize(
    ("version", "precision", "shape", "dtype"),
    [(VERSIONS[0], "fp16", "static", "float16"), (VERSIONS[1], "int8_s8s8", "dynamic", "int8")],
)
def test_an_engine_keeps_the_precision_of_its_file(
    tensorrt, tiny_exported, monkeypatch, version, precision, shape, dtype
):
    monkeypatch.setenv("STAND_IN_TENSORRT", version)
    model = tiny_exported / f"artifacts/onnx/{precision}.{shape}.onnx"
    with np.load(model.with_name("golden.npz")) as golden:
        images, logits = golden["images"], golden["logits"]
    sizes = (1, 3) if shape == "dynamic" else (1,)
    execution = tensorrt.run(model, [Job(images, size) for size in sizes])
    assert execution.provider == "a stand-in for a GPU"
    assert execution.dtypes == [dtype]
    layers = execution.layers
    nodes = onnx.load(model).graph.node
    # The preprocessing's casts have no weights, so their output type counts.
    assert set(layers) == {dtype, "float32"}
    assert layers[dtype] == [node.name for node in nodes if node.op_type in ("Conv", "Gemm")]
    assert layers["float32"] == [node.name for node in nodes if node.op_type == "Cast"]
    for found in execution.logits:
        assert np.abs(found - logits).max() < 0.05 * np.abs(logits).max()
    if shape == "dynamic":
        assert execution.times is None
    else:
        assert len(execution.times.gpu_ms) == len(execution.times.wall_ms) == 20
        # The host's time includes the GPU's, and what precedes and follows it.
        pairs = zip(execution.times.gpu_ms, execution.times.wall_ms, strict=True)
        assert all(0 < gpu < wall for gpu, wall in pairs)


@pytest.mark.usefixtures("project")
def test_a_required_tensorrt_is_judged_like_the_others(tensorrt, monkeypatch):
    with changed(Path("artifacts/onnx/model.json")) as description:
        description["files"] = {"fp32": description["files"]["fp32"]}  # to save time
    monkeypatch.setattr(tensorrt, "unavailable", lambda: None)
    monkeypatch.setattr(validate, "TensorRtRuntime", lambda: tensorrt)
    settings = {"batch_sizes": [1, 3, 8], "tensorrt": "required"}
    validate.main(Params.model_validate({"validate": settings}))
    rows: dict[str, dict[str, Any]] = {"onnxruntime": {}, "tensorrt": {}}
    for row in read_json(validate.REPORT)["results"]:
        rows[row["runtime"]][row["file"]] = row
    assert len(rows["tensorrt"]) == 2
    for file, row in rows["tensorrt"].items():
        other = rows["onnxruntime"][file]
        assert (row["status"], row["reason"]) == ("passed", None)
        # The stand-in also computes with onnxruntime.
        assert (row["accuracy"], row["images"]) == (other["accuracy"], other["images"])
        assert row["golden"] == other["golden"]
        assert (row["latency"] is None) == (row["shape"] == "dynamic")
        assert other["layers"] is other["latency"] is None
    latency = rows["tensorrt"]["fp32.static.onnx"]["latency"]
    assert latency["batch_size"] == 1
    assert latency["gpu"]["n"] == latency["wall"]["n"] == 20


def test_a_model_that_the_parser_refuses_is_a_reason(tensorrt, tiny_exported, tmp_path):
    model = onnx.load(tiny_exported / "artifacts/onnx/fp32.static.onnx")
    # Bytes are permuted before the cast.
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    cast.op_type = "Identity"
    del cast.attribute[:]
    onnx.save(model, tmp_path / "bytes.onnx")
    with pytest.raises(RuntimeFailureError) as caught:
        tensorrt.run(tmp_path / "bytes.onnx", [Job(np.zeros((1, 16, 16, 3), dtype=np.uint8), 1)])
    reason = "UINT8 is taken by a Cast alone"
    assert str(caught.value) == (
        "ended with status 1: the ONNX parser rejects the model: In node -1 (parseGraph):"
        f" {reason}; [TRT] [E] ModelImporter: {reason}"
    )


def test_a_required_tensorrt_that_does_not_start_fails_first(tensorrt, here, monkeypatch):
    monkeypatch.setenv("STAND_IN_TENSORRT", "8.6.1")
    monkeypatch.setattr(validate, "TensorRtRuntime", lambda: tensorrt)
    with pytest.raises(InputError) as caught:
        validate.main(Params.model_validate({"validate": {"tensorrt": "required"}}))
    assert str(caught.value) == (
        "params.yaml: validate.tensorrt is required, but TensorRT does not start: its process ended"
        " with status 1: TensorRT 8.6.1 is installed; 10.3 to 11 are supported; set it to auto or"
        " off"
    )
    assert not list(here.iterdir())


def test_tensorrt_itself(tiny_exported):
    if (absent := TensorRtRuntime().unavailable()) is not None:
        pytest.skip(absent)
    model = tiny_exported / "artifacts/onnx/fp32.static.onnx"
    with np.load(model.with_name("golden.npz")) as golden:
        images, logits = golden["images"], golden["logits"]
    execution = TensorRtRuntime(timing=TIMING).run(model, [Job(images, 1)])
    assert np.abs(execution.logits[0] - logits).max() <= 1e-4 * np.abs(logits).max()
    assert execution.dtypes == ["float32"]
    assert min(execution.times.gpu_ms) > 0
