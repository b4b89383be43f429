"""The runtime that starts TensorRT's process and interprets its output."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.data.arrays import ImageFile
from stages.runtimes.base import Job, RuntimeFailureError
from stages.runtimes.tensorrt_runtime import TensorRtRuntime, layers_by_dtype, weight_dtypes

JOBS = [Job(np.full((5, 2, 2, 3), value, dtype=np.uint8), 2) for value in (3, 7)]


def runtime(program: str) -> TensorRtRuntime:
    return TensorRtRuntime([sys.executable, "-c", program])


def test_a_crash_is_a_reason():
    # TensorRT logs to the standard output.
    crash = "import os, signal; print('[11/25/2026-12:00:00] [TRT] [E] CUDA error 35', flush=True);"
    crash += "print('going down', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"
    with pytest.raises(RuntimeFailureError) as caught:
        runtime(crash).run(Path("some.onnx"), JOBS)
    assert str(caught.value) == "crashed with SIGSEGV: going down; [TRT] [E] CUDA error 35"


def test_images_in_a_file_are_not_copied(tiny_exported):
    images = ImageFile(tiny_exported / "artifacts/data/test_images.npy")
    program = "import os, sys; sys.exit(' '.join(sorted(os.listdir(sys.argv[1]))))"
    with pytest.raises(RuntimeFailureError, match=r"status 1: images0\.npy request\.json$"):
        runtime(program).run(Path("some.onnx"), [JOBS[0], Job(images, 2)])


def test_the_gpu_is_looked_for_first_then_the_extra_and_then_it_is_started(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    find = "importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: pytest.fail("looked for TensorRT first"))
    assert TensorRtRuntime().unavailable() == "no NVIDIA GPU that torch can use"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(find, lambda name: None)
    missing = "TensorRT is not installed (pip install 'ackd[tensorrt]')"
    assert TensorRtRuntime().unavailable() == missing
    monkeypatch.setattr(find, lambda name: True)
    assert runtime("import sys; assert not sys.argv[1:]").unavailable() is None


INT8 = {"Name": "conv", "Weights": {"Type": "Int8"}, "Outputs": [{"Datatype": "Float"}]}
FLOAT = {"Name": "gemm", "Weights": {"Type": "Float"}}
FUSED = {"Name": "kgen", "Outputs": [{"Format/Datatype": "Row major linear FP16 format"}]}
INT8_FORMAT = "Thirty-two wide channel vectorized row major Int8 format"
WIDE = {"Name": "a", "Outputs": [{"Format/Datatype": INT8_FORMAT}, {"Format/Datatype": "Float"}]}


@pytest.mark.parametrize(
    ("layers", "weights", "by_dtype"),
    [
        (["conv1 + relu", "conv2"], [], {"unknown": ["conv1 + relu", "conv2"]}),
        ([INT8, FLOAT], ["float32", "int8"], {"float32": ["gemm"], "int8": ["conv"]}),
        ([FUSED, FLOAT], ["float32"], {"float16": ["kgen"], "float32": ["gemm"]}),
        ([{"Weights": {}, "Outputs": [{"Datatype": "BF16"}]}], ["bfloat16"], {"bfloat16": [""]}),
        ([WIDE], ["float32", "int8"], {"float32, int8": ["a"]}),
    ],
)
def test_dtypes_come_from_the_inspector(layers, weights, by_dtype):
    assert weight_dtypes(layers) == weights
    assert layers_by_dtype(layers) == by_dtype
