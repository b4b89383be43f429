from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import models
from stages.data.feed.normalize import Normalize
from stages.export_onnx import export_network
from stages.quantization.network import QuantizedNetwork, rounded_weight, with_weights
from stages.quantize import calibrate, quantize
from stages.runtimes.torch_runtime import DeployedNetwork

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
NETWORKS = [  # with the size of their images
    ("resnet8", 16),
    ("wrn_10_1", 16),
    ("mobilenet_v2_0.5", 32),
    ("shufflenet_v1", 32),
    ("torchvision:mobilenet_v3_small", 32),
    ("timm:test_efficientnet", 32),
]


def exported(name: str, size: int, shape: str = "dynamic") -> onnx.ModelProto:
    """A network whose BatchNorm is no identity."""
    torch.manual_seed(0)
    network = models.build(name, 3)
    for _ in range(20):  # moves the running statistics all the way
        network(torch.randn(8, 3, size, size))
    return export_network(DeployedNetwork(network.eval(), MEAN, STD), size, 18, shape)


def pictures(size: int, count: int = 8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def int8(model: onnx.ModelProto, precision: str = "int8_u8s8") -> onnx.ModelProto:
    return quantize(model, precision, calibrate(model, pictures(16, 4)))


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every value by name, the logits last, node by node as the file has them."""
    shown = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value for value in shown.graph.value_info}
    produced = [name for node in model.graph.node for name in node.output]
    shown.graph.output.extend(types[name] for name in produced if name in types)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def answer(network: QuantizedNetwork, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(Normalize(MEAN, STD, CPU)(images)).numpy()


@pytest.mark.parametrize(("name", "size"), NETWORKS)
def test_it_computes_what_onnxruntime_does(name: str, size: int) -> None:
    model, images = exported(name, size), pictures(size)
    # Without anything rounded it is the fp32 model itself.
    wanted = run(model, images)["logits"]
    found = answer(QuantizedNetwork(model, model, CPU), images)
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    ranges = calibrate(model, pictures(size, 4))
    for precision in ("int8_u8s8", "int8_s8s8"):
        quantized = quantize(model, precision, ranges)
        network = QuantizedNetwork(model, quantized, CPU)
        compare_steps(network, quantized, images)


def compare_steps(network: QuantizedNetwork, model: onnx.ModelProto, images: np.ndarray) -> None:
    """Each node is given what onnxruntime's had: what one processor sums in another order than the
    next goes to the other side of a rounding here and there, and would widen from node to node."""
    theirs = {name: torch.from_numpy(value.copy()) for name, value in run(model, images).items()}
    trained = dict(zip(network.names, network.values, strict=True))
    values: dict[str, Any] = theirs | trained | {"images": torch.from_numpy(images)}
    for step in network.steps:
        if step.operator == "QuantizeLinear":  # rounded by the node that reads it
            values[step.outputs[0]] = values[step.inputs[0]]
            continue
        with torch.no_grad():
            outputs = network.run_step(step, values, trained)
        for name, found in outputs.items():
            wanted = theirs[name]
            far = (found - wanted).abs() > 1e-4 * wanted.abs().max()
            if far.any() and step.operator == "DequantizeLinear":
                # Halfway between two steps it may be either.
                source = step.inputs[0]
                exact = values[source if source in values else source.removesuffix("_quantized")]
                scale = network.constants[step.inputs[1]]
                if scale.dim():  # one for each index of an axis
                    axis = step.attributes["axis"] % exact.dim()
                    scale = scale.view([-1 if d == axis else 1 for d in range(exact.dim())])
                steps = exact / scale
                halfway = (steps - steps.floor() - 0.5).abs() < 1e-3
                far &= ~halfway | ((found - wanted).abs() > 1.01 * scale)
            assert not far.any(), (step.operator, name)


def test_trained_weights_go_back_into_the_model_and_out_again() -> None:
    model = exported("resnet8", 16)
    network = QuantizedNetwork(model, int8(model), CPU)
    weights = network.trained()
    assert len(weights) == 2 * 10  # nine convolutions and the classifier, each with its bias
    assert with_weights(model, weights) == model
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(1.5)
    changed = with_weights(model, network.trained())
    network = QuantizedNetwork(changed, int8(changed), CPU)
    for name, value in network.trained().items():
        np.testing.assert_array_equal(value, np.float32(1.5) * weights[name])
    with pytest.raises(AssertionError, match="not among the weights of this model: elsewhere"):
        with_weights(model, {"elsewhere": np.zeros(1, np.float32)})


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_are_rounded_as_the_file_has_them(axis: int) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    weight[0] = weight[:, 0] = 0  # a channel of nothing stays nothing
    greatest = np.abs(weight).max(1 - axis, keepdims=True)
    scale = np.where(greatest > 0, greatest, 127) / 127
    expected = np.rint(weight / scale) * scale
    found = rounded_weight(torch.from_numpy(weight), axis).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_gradients_reach_every_weight_and_stop_outside_of_a_range() -> None:
    model = exported("resnet8", 16)
    quantized = int8(model, "int8_s8s8")
    network = QuantizedNetwork(model, quantized, CPU)
    images = Normalize(MEAN, STD, CPU)(pictures(16)).requires_grad_()
    network(images).square().sum().backward()
    assert all(value.grad is not None for value in network.parameters())
    assert all(torch.any(value.grad != 0) for value in network.parameters())
    first = next(node for node in quantized.graph.node if node.op_type == "QuantizeLinear")
    scale = next(t for t in quantized.graph.initializer if t.name == first.input[1])
    limit = 128 * float(onnx.numpy_helper.to_array(scale))
    # Far outside, another brightness makes no difference any more.
    bright = (images.detach() + 100 * limit).requires_grad_()
    network(bright).square().sum().backward()
    assert bright.grad is not None
    assert not torch.any(bright.grad)


def test_batch_norm_is_frozen_where_it_is_not_folded() -> None:
    model = exported("wrn_10_1", 16)
    network = QuantizedNetwork(model, int8(model), CPU)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert norms
    assert not {name for node in norms for name in node.input[1:]} & set(network.names)


def test_an_operator_that_is_not_known_is_named() -> None:
    model = exported("resnet8", 16)
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = "Softplus"
    with pytest.raises(NotImplementedError, match="has Softplus, which fine-tuning does not know"):
        QuantizedNetwork(model, model, CPU)


def test_percentiles_leave_out_what_is_far_from_all_else() -> None:
    # One bright pixel in 153,600 values is less than 0.001 % of them.
    random = np.random.default_rng(0)
    images = random.exponential(12, (200, 16, 16, 3)).clip(0, 120).astype(np.uint8)
    images[0, 0, 0, 0] = 255
    network = DeployedNetwork(models.build("resnet8", 3), [0.0] * 3, [1.0] * 3)
    model = export_network(network, 16, 18, "static")

    def greatest(method: str) -> float:
        """That the model's input can be, in pixels."""
        graph = quantize(model, "int8_u8s8", calibrate(model, images, method)).graph
        node = next(node for node in graph.node if node.op_type == "QuantizeLinear")
        constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        scale, zero = (constants[name] for name in node.input[1:])
        return float((255 - int(zero)) * scale) * 255

    assert greatest("minmax") == pytest.approx(255, rel=1e-3)
    assert greatest("percentile") == pytest.approx(120, rel=0.02)
    assert 20 < greatest("entropy") < 250


def test_ranges_stay_where_weights_change() -> None:
    model = exported("resnet8", 16)
    ranges = calibrate(model, pictures(16, 4))
    weights = QuantizedNetwork(model, model, CPU).trained()
    changed = with_weights(model, {name: 2 * value for name, value in weights.items()})

    def scales(quantized: onnx.ModelProto) -> list[float]:
        """Of the activations."""
        constants = {t.name: onnx.numpy_helper.to_array(t) for t in quantized.graph.initializer}
        nodes = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
        return [float(constants[node.input[1]]) for node in nodes]

    for precision in ("int8_u8s8", "int8_s8s8"):
        kept = scales(quantize(changed, precision, ranges))
        assert kept == scales(quantize(model, precision, ranges))
        assert kept != scales(quantize(changed, precision, calibrate(changed, pictures(16, 4))))


def test_ranges_are_those_of_all_images_together() -> None:
    model, images = exported("resnet8", 16), pictures(16, 40)
    found = calibrate(model, images)
    relu = next(node for node in model.graph.node if node.op_type == "Relu").output[0]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(next(v for v in model.graph.value_info if v.name == relu))
    session = onnxruntime.InferenceSession(shown.SerializeToString())
    (values,) = session.run([relu], {"images": images})
    low, high = (np.asarray(value).item() for value in found[relu].range_value)
    assert (low, high) == (0, pytest.approx(values.max(), rel=1e-5))
