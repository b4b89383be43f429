"""The flow around TensorRT. The engine itself needs an NVIDIA GPU and is not run here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.runtimes.base import Job, RuntimeFailureError
from stages.runtimes.tensorrt_runtime import TensorRtRuntime, layer_dtypes

JOBS = [Job(np.full((5, 2, 2, 3), value, dtype=np.uint8), 2) for value in (3, 7)]

# Keeps to the protocol of stages.runtimes.tensorrt_engine: the logits are the sums of the images.
STAND_IN = """
import json, sys
import numpy as np
model, folder, *sizes = sys.argv[1:]
assert model == "some.onnx" and sizes == ["2", "2"]
for index in range(len(sizes)):
    images = np.load(f"{folder}/images{index}.npy").astype(np.float32)
    np.save(f"{folder}/logits{index}.npy", images.sum((1, 2)))
layers = [{"Name": "conv", "Weights": {"Type": "Half", "Count": 432}}]
with open(f"{folder}/execution.json", "w") as handle:
    json.dump({"provider": "a GPU", "layers": layers}, handle)
"""


def runtime(program: str) -> TensorRtRuntime:
    return TensorRtRuntime([sys.executable, "-c", program])


def test_the_engine_process_gives_logits_and_what_ran() -> None:
    execution = runtime(STAND_IN).run(Path("some.onnx"), JOBS)
    assert (execution.provider, execution.dtypes) == ("a GPU", ["float16"])
    for job, logits in zip(JOBS, execution.logits, strict=True):
        np.testing.assert_array_equal(logits, np.full((5, 3), 4 * job.images[0, 0, 0, 0]))


def test_a_crash_is_a_reason() -> None:
    crash = "import os, signal, sys; print('[TRT] CUDA error 35', file=sys.stderr, flush=True);"
    crash += "os.kill(os.getpid(), signal.SIGSEGV)"
    with pytest.raises(RuntimeFailureError, match=r"crashed with SIGSEGV: \[TRT\] CUDA error 35"):
        runtime(crash).run(Path("some.onnx"), JOBS)


def test_a_refused_model_is_a_reason() -> None:
    with pytest.raises(
        RuntimeFailureError, match="ended with status 1: the builder made no engine"
    ):
        runtime("import sys; sys.exit('the builder made no engine')").run(Path("some.onnx"), JOBS)


def test_without_a_gpu_tensorrt_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: pytest.fail("looked for TensorRT first")
    )
    assert TensorRtRuntime().unavailable() == "no NVIDIA GPU that torch can use"


def test_with_a_gpu_the_extra_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert (
        TensorRtRuntime().unavailable()
        == "TensorRT is not installed (pip install 'ackd[tensorrt]')"
    )


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["conv1 + relu", "conv2"], []),
        ([{"Weights": {"Type": "Int8"}}, {"Weights": {"Type": "Float"}}], ["float32", "int8"]),
        ([{"Outputs": [{"Format/Datatype": "Row major linear FP16 format"}]}], ["float16"]),
        ([{"Weights": {}, "Outputs": [{"Datatype": "BF16"}]}], ["bfloat16"]),
    ],
)
def test_dtypes_are_those_that_the_inspector_names(
    layers: list[object], expected: list[str]
) -> None:
    assert layer_dtypes(layers) == expected
