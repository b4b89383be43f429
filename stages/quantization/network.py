"""An int8 ONNX model as a torch module whose weights can be trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from stages.quantization.operators import OPERATORS, unknown

Arrays = dict[str, npt.NDArray[np.float32]]

#: Where an operator takes what is trained: its weights and its bias.
_TRAINED_INPUTS = {"Conv": (1, 2), "Gemm": (1, 2), "MatMul": (1,)}
_QUANTIZED = "_quantized"  # what onnxruntime appends to the name of a weight
_RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127)}
# Symmetric weights leave out -128.
_WEIGHT_LIMIT = 127


@dataclass(frozen=True)
class Step:
    """A node of the graph, and the values that no later node reads."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    last_read: list[str]


class QuantizedNetwork(nn.Module):
    """What an int8 model computes, with its weights in float32.

    The graph is that of the file, quantise and dequantise nodes and all: weights are rounded to
    int8 per output channel by their greatest magnitude, and activations with the scales and zero
    points of the file. Rounding passes gradients on as they are; what lies outside the range of an
    activation gets none (Jacob et al. 2018; Krishnamoorthi 2018). BatchNorm is folded into the
    weights, as in the file, and stays as it is where it follows no convolution.

    Args:
        model: the fp32 model that the int8 one was made of; the weights begin as its.
        quantized: the int8 model.
        device: where it computes.

    Raises:
        NotImplementedError: the graph has an operator that is not in
            :data:`stages.quantization.operators.OPERATORS`.
    """

    def __init__(
        self, model: onnx.ModelProto, quantized: onnx.ModelProto, device: torch.device
    ) -> None:
        super().__init__()
        known = OPERATORS.keys() | {"QuantizeLinear", "DequantizeLinear"}
        start, nodes = _after_preprocessing(quantized.graph)
        if others := sorted({node.op_type for node in nodes} - known):
            raise unknown(", ".join(others))
        floats = {tensor.name: tensor for tensor in model.graph.initializer}
        self.names = [name for name in trained_names(model.graph) if name in floats]
        self.values = nn.ParameterList(
            nn.Parameter(torch.from_numpy(onnx.numpy_helper.to_array(floats[name]).copy()))
            for name in self.names
        )
        self.start, self.end = start, quantized.graph.output[0].name
        self.bytes = quantized.graph.input[0].name
        self.constants = {
            tensor.name: _constant(tensor, device) for tensor in quantized.graph.initializer
        }
        self.steps = list(_steps(nodes, keep=self.end))
        self.roundings = self._bias_roundings()
        self.to(device)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``[B, 3, H, W]`` to logits ``[B, K]``."""
        trained = dict(zip(self.names, self.values, strict=True))
        values: dict[str, Any] = {self.start: images} | trained
        # Of the bytes that the file takes, nothing but their shape is read after the preprocessing.
        values[self.bytes] = images.permute(0, 2, 3, 1)
        for step in self.steps:
            values |= self.run_step(step, values, trained)
            for name in step.last_read:
                values.pop(name, None)
        logits: Tensor = values[self.end]
        return logits

    def run_step(
        self, step: Step, values: dict[str, Any], trained: dict[str, nn.Parameter]
    ) -> dict[str, Any]:
        """The outputs of one node, by name."""
        if step.operator == "DequantizeLinear":
            outputs = self._dequantized(step, values, trained)
        elif step.operator == "QuantizeLinear":
            # Rounded by the node that reads it: what is between the two is an integer.
            outputs = values[step.inputs[0]]
        else:
            inputs = [self._value(name, values) for name in step.inputs]
            outputs = OPERATORS[step.operator](inputs, step.attributes)
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        return dict(zip(step.outputs, several, strict=True))

    def _value(self, name: str, values: dict[str, Any]) -> Any:
        if not name:  # an optional input that is left out
            return None
        return values[name] if name in values else self.constants[name]

    def _dequantized(
        self, step: Step, values: dict[str, Any], trained: dict[str, nn.Parameter]
    ) -> Tensor:
        source, scale_name, zero_name = step.inputs
        scale, zero = self.constants[scale_name], self.constants[zero_name]
        parameter = trained.get(source.removesuffix(_QUANTIZED))
        if source in values:
            low, high = _RANGES[zero.dtype]
            rounded: Tensor = torch.fake_quantize_per_tensor_affine(
                values[source], float(scale), int(zero), low, high
            )
            return rounded
        if parameter is None:
            return (self.constants[source].float() - zero.float()) * scale
        if zero.dtype == torch.int32:
            weight_name, axis, input_scale = self.roundings[step.outputs[0]]
            return rounded_bias(parameter, input_scale * weight_scale(trained[weight_name], axis))
        return rounded_weight(parameter, step.attributes.get("axis", 1) % parameter.dim())

    def _bias_roundings(self) -> dict[str, tuple[str, int, Tensor]]:
        """For each bias that is rounded: its weight's name and axis, and the scale of its input.

        Its own scale is the product of the input's and the weight's, which changes with the weight.
        """
        made = {step.outputs[0]: step for step in self.steps if step.operator == "DequantizeLinear"}
        dimensions = {n: v.dim() for n, v in zip(self.names, self.values, strict=True)}
        found = {}
        for step in self.steps:
            if step.operator in _TRAINED_INPUTS and len(step.inputs) > 2:
                weight, bias = (made.get(name) for name in step.inputs[1:3])
                if weight is not None and bias is not None:
                    scale = self.constants[bias.inputs[1]] / self.constants[weight.inputs[1]]
                    name = weight.inputs[0].removesuffix(_QUANTIZED)
                    axis = weight.attributes.get("axis", 1) % dimensions[name]
                    found[bias.outputs[0]] = (name, axis, scale)
        return found

    def trained(self) -> Arrays:
        """The weights and biases as they are now, by their names in the fp32 model."""
        return {
            name: value.detach().cpu().numpy().copy()
            for name, value in zip(self.names, self.values, strict=True)
        }


@torch.no_grad()
def weight_scale(weight: Tensor, axis: int) -> Tensor:
    """The step of each index of ``axis``: the greatest magnitude is 127 of them."""
    scale = weight.abs().amax([other for other in range(weight.dim()) if other != axis])
    return torch.where(scale > 0, scale / _WEIGHT_LIMIT, torch.ones_like(scale))


def rounded_weight(weight: Tensor, axis: int) -> Tensor:
    """``weight`` as int8 can hold it, with a scale for each index of ``axis``."""
    scale = weight_scale(weight, axis)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    rounded: Tensor = torch.fake_quantize_per_channel_affine(
        weight, scale, zero, axis, -_WEIGHT_LIMIT, _WEIGHT_LIMIT
    )
    return rounded


def rounded_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """``bias`` as int32 can hold it, which has room for any."""
    return bias + (torch.round(bias / scale) * scale - bias).detach()


def trained_names(graph: onnx.GraphProto) -> list[str]:
    """The inputs that :data:`_TRAINED_INPUTS` names, each once, in the order of the graph."""
    names = [
        node.input[place]
        for node in graph.node
        for place in _TRAINED_INPUTS.get(node.op_type, ())
        if place < len(node.input)
    ]
    return list(dict.fromkeys(names))


def with_weights(model: onnx.ModelProto, weights: Arrays) -> onnx.ModelProto:
    """A copy of an fp32 model that has these of its weights replaced."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    replaced = set()
    for tensor in changed.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
            replaced.add(tensor.name)
    if missing := weights.keys() - replaced:
        raise AssertionError(f"not among the weights of this model: {', '.join(sorted(missing))}")
    return changed


def _after_preprocessing(graph: onnx.GraphProto) -> tuple[str, list[onnx.NodeProto]]:
    """The normalised images' name, and the nodes that they are not made by."""
    end: str = next(node for node in graph.node if node.op_type == "Transpose").output[0]
    needed, made = {end}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            made.append(node.name)
    return end, [node for node in graph.node if node.name not in made]


def _steps(nodes: list[onnx.NodeProto], keep: str) -> Iterator[Step]:
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        last |= dict.fromkeys([*node.input, *node.output], index)
    for index, node in enumerate(nodes):
        names = dict.fromkeys([*node.input, *node.output])
        yield Step(
            node.op_type,
            list(node.input),
            list(node.output),
            {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
            [name for name in names if last[name] == index and name != keep],
        )


def _constant(tensor: onnx.TensorProto, device: torch.device) -> Tensor:
    value = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
    # Shapes and axes are read as numbers, which a GPU would have to be waited for.
    return value if value.dtype == torch.int64 else value.to(device)
