import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from stages.export_onnx import export_network
from stages.quantization.int8 import calibrate, quantize
from stages.runtimes.torch_runtime import DeployedNetwork


def exported(size: int) -> onnx.ModelProto:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = DeployedNetwork(nn.Sequential(*layers, nn.Linear(4, 3)), [0.0] * 3, [1.0] * 3)
    return export_network(network, size, 18)


def test_percentiles_ignore_outliers():
    # One bright pixel of 153,600 values is less than 0.01 %.
    random = np.random.default_rng(0)
    images = random.exponential(12, (50, 32, 32, 3)).clip(0, 80).astype(np.uint8)
    images[0, 0, 0, 0] = 255
    model = exported(32)

    def greatest(method: str) -> float:
        """Return the largest value of the model's input, in pixels."""
        graph = quantize(model, "int8_u8s8", calibrate(model, images, method)).graph
        node = next(node for node in graph.node if node.op_type == "QuantizeLinear")
        constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        scale, zero = (constants[name] for name in node.input[1:])
        return float((255 - int(zero)) * scale) * 255

    assert greatest("minmax") == pytest.approx(255, rel=1e-3)
    assert greatest("percentile") == pytest.approx(80, rel=0.02)
    assert 20 < greatest("entropy") < 250


def test_ranges_cover_all_images():
    model = exported(16)
    images = np.random.default_rng(1).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    found = calibrate(model, images)
    relu = next(node for node in model.graph.node if node.op_type == "Relu").output[0]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(next(v for v in model.graph.value_info if v.name == relu))
    session = onnxruntime.InferenceSession(shown.SerializeToString())
    values = [session.run([relu], {"images": image[None]})[0].max() for image in images]
    low, high = (np.asarray(value).item() for value in found.ranges[relu].range_value)
    assert (low, high) == (0, pytest.approx(max(values), rel=1e-5))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_calibration_starts_no_more_threads_than_the_process_may_use_cores(tmp_path):
    onnx.save(exported(16), tmp_path / "model.onnx")
    code = (
        "import os, sys\n"
        "import numpy, onnx, onnxruntime\n"
        "from stages.quantization.int8 import calibrate\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "run, found = onnxruntime.InferenceSession.run, set()\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "def counted(*arguments):\n"
        "    found.add(len(os.listdir('/proc/self/task')) - before)\n"
        "    return run(*arguments)\n"
        "onnxruntime.InferenceSession.run = counted\n"
        "calibrate(onnx.load(sys.argv[1]), numpy.zeros((2, 16, 16, 3), numpy.uint8))\n"
        "print(*found)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "model.onnx"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("precision", ["int8_u8s8", "int8_s8s8"])
def test_two_neighbouring_products_fit_into_int16(precision):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU()]
    # Not depthwise for onnxruntime: more output channels than groups.
    layers += [nn.Conv2d(8, 16, 3, groups=8), nn.ReLU(), nn.Conv2d(16, 1, 1), nn.ReLU()]
    layers += [nn.Conv2d(1, 8, 2), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.ReLU()]
    network = nn.Sequential(*layers, Product())
    with torch.no_grad():
        for weights in network.parameters():
            weights.clamp_(min=0.1)  # all of one sign: any two of the largest would saturate
        network[0].weight[0] = 0
    images = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    model = export_network(DeployedNetwork(network, [0.0] * 3, [1.0] * 3), 8, 18)
    graph = quantize(model, precision, calibrate(model, images)).graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    checked = []
    for node in graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            continue
        weights = constants[producers[node.input[1]].input[0]].astype(int)
        if node.op_type == "Conv":  # [O, I, H, W]; kernels read channels last
            rows = weights.transpose(0, 2, 3, 1).reshape(len(weights), -1)
        else:
            rows = weights.T if node.op_type == "MatMul" else weights
        for row in rows:
            first, second = row[0::2], row[1::2]
            assert abs(first[: len(second)] + second).max() <= 128
        assert rows.max() >= 63, "more than one bit is lost"
        checked.append(node.op_type)
    assert checked == ["Conv"] * 5 + ["Gemm", "MatMul"]


class Product(nn.Module):
    """A matrix product without a bias, which is exported as MatMul."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight
