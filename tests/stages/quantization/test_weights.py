import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array
from torch import nn
from torch.nn import functional as F

from stages.export_onnx import export_network
from stages.quantization.int8 import FIRST, calibrate, quantize
from stages.runtimes.torch_runtime import DeployedNetwork

IMAGES = np.random.default_rng(1).integers(0, 256, (24, 9, 9, 3), dtype=np.uint8)


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    second = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    with torch.no_grad():
        second.weight[2] = 0
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *pool, nn.Linear(8, 5)).eval()


def parameters(graph: onnx.GraphProto) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the weights and biases that the layers of a quantized graph compute with."""
    constants = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}

    def value(name: str) -> torch.Tensor:
        if name in constants:
            return torch.from_numpy(constants[name].astype(np.float64))
        quantized, scale, _ = (constants[each].astype(np.float64) for each in producers[name].input)
        scale = scale.reshape([-1] + [1] * (quantized.ndim - 1))
        return torch.from_numpy(quantized * scale)

    return [
        (value(node.input[1]), value(node.input[2]) if len(node.input) > 2 else torch.zeros(8))
        for node in graph.node
        if node.op_type in {"Conv", "Gemm"}
    ]


@pytest.mark.parametrize("precision", ["int8_u8s8", "int8_s8s8"])
def test_biases_make_up_for_rounded_weights(precision):
    network = layers()
    model = export_network(DeployedNetwork(network, [0.0] * 3, [1.0] * 3), 9, 18)
    calibration = calibrate(model, IMAGES)
    found = parameters(quantize(model, precision, calibration).graph)
    in_float = parameters(quantize(model, precision, calibration, [FIRST]).graph)
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).double() / 255
    checked = 0
    for layer in network.double():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weights, bias = found[checked]
            lost = layer.weight - weights
            assert 0 < lost.abs().max() < 0.01
            if isinstance(layer, nn.Conv2d):
                error = F.conv2d(x, lost, None, layer.stride, layer.padding, 1, layer.groups)
                error = error.mean((0, 2, 3))
            else:
                error = F.linear(x, lost).mean(0)
            before = torch.zeros(8) if layer.bias is None else layer.bias
            torch.testing.assert_close(bias, before + error, rtol=0, atol=1e-5)
            assert (bias - before).abs().max() > 5e-5
            checked += 1
        x = layer(x)
    assert checked == len(found) == 3
    torch.testing.assert_close(in_float[0][0], network[0].weight, rtol=0, atol=1e-7)
    assert not in_float[0][1].any(), "a layer in float has no rounded weights"
    torch.testing.assert_close(in_float[1:], found[1:])
