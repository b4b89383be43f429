import collections

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from stages.export_onnx import export_network
from stages.quantization.hard_activations import hard_activations_in_uint8
from stages.quantization.int8 import calibrate, quantize
from stages.runtimes.torch_runtime import DeployedNetwork

IMAGES = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.end = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        self.stem.weight.data *= 4  # to reach the constant parts, too
        self.gate.weight.data *= 9

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.hardswish(self.stem(x))
        gate = nn.functional.hardsigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.end((x * gate).mean((2, 3)))


def exported() -> onnx.ModelProto:
    torch.manual_seed(0)
    return export_network(DeployedNetwork(SqueezeExcite(), [0.5] * 3, [0.25] * 3), 16, 18)


def operators(model: onnx.ModelProto) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in model.graph.node)


def logits(model: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"images": IMAGES})[0]


def test_they_keep_their_values_and_never_leave_uint8(monkeypatch, tmp_path):
    model = exported()
    ranges = calibrate(model, IMAGES)
    quantized = quantize(model, "int8_u8s8", ranges)
    with monkeypatch.context() as patch:
        patch.setattr("stages.quantization.int8.hard_activations_in_uint8", lambda graph: None)
        in_float = quantize(model, "int8_u8s8", ranges)
    hard = {"HardSwish": 1, "HardSigmoid": 1}
    assert operators(in_float) & collections.Counter(hard) == hard
    assert not operators(quantized) & collections.Counter(hard)

    wanted = logits(model)
    errors = [abs(logits(found) - wanted).max() for found in (in_float, quantized)]
    steps = np.ptp(wanted) / 255
    assert errors[1] < errors[0] + 2 * steps
    assert errors[1] < 8 * steps

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(quantized.SerializeToString(), options)
    fused = operators(onnx.load(tmp_path / "fused.onnx"))
    assert fused["QuantizeLinear"] == 1, "only of the images"
    assert fused["DequantizeLinear"] == 0
    assert (fused["QLinearAdd"], fused["QLinearMul"]) == (2, 2)


def test_other_slopes_and_float_activations_stay():
    model = exported()
    ranges = calibrate(model, IMAGES)
    for node in model.graph.node:
        if node.op_type == "HardSigmoid":
            next(a for a in node.attribute if a.name == "alpha").f = 0.2
    found = operators(quantize(model, "int8_u8s8", ranges))
    assert (found["HardSigmoid"], found["HardSwish"]) == (1, 0)
    before = operators(model)
    hard_activations_in_uint8(model.graph)
    assert operators(model) == before
