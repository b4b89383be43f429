import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from stages.runtimes.base import Job, RuntimeFailureError
from stages.runtimes.onnx_runtime import OnnxRuntime


def test_batches_and_what_ran(tiny_exported):
    images = np.load(tiny_exported / "artifacts/data/test_images.npy")[:7]
    model = tiny_exported / "artifacts/onnx/fp32.dynamic.onnx"
    execution = OnnxRuntime().run(model, [Job(images, 3), Job(images[:2], 1)])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"images": images})[0]
    np.testing.assert_allclose(execution.logits[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(execution.logits[1], expected[:2], rtol=1e-4, atol=1e-5)
    assert execution.provider == "CPUExecutionProvider"
    assert execution.dtypes == ["float32"]
    assert OnnxRuntime().version() == onnxruntime.__version__
    int8 = OnnxRuntime().run(model.with_name("int8_u8s8.static.onnx"), [Job(images[:1], 1)])
    assert "int8" in int8.dtypes


def test_no_model_and_a_batch_that_does_not_fit_are_reasons(tiny_exported, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeFailureError, match=r"model\.onnx"):
        OnnxRuntime().run(tmp_path / "model.onnx", [])
    model = tiny_exported / "artifacts/onnx/fp32.static.onnx"
    with pytest.raises(RuntimeFailureError, match="images"):
        OnnxRuntime().run(model, [Job(np.zeros((2, 16, 16, 3), dtype=np.uint8), 2)])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_it_starts_no_more_threads_than_the_process_may_use_cores(tiny_exported):
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from stages.runtimes.onnx_runtime import OnnxRuntime\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "session, _ = OnnxRuntime()._load(Path(sys.argv[1]))\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    model = tiny_exported / "artifacts/onnx/fp32.static.onnx"
    done = subprocess.run([sys.executable, "-c", code, model], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr
