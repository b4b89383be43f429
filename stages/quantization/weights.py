"""The ranges of int8 weights, and biases that make up for their rounding."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx.helper import make_node, make_tensor_value_info
from onnx.numpy_helper import from_array, to_array

from stages.runtimes.onnx_runtime import session_options

_LARGEST = 127  # int8 weight; symmetric

Array = npt.NDArray[np.float32]


def weight_limits(graph: onnx.GraphProto) -> dict[str, tuple[int, Array]]:
    """Return for all weights the axis of output channels, and each channel's range.

    x86 kernels without VNNI add the products of two neighbouring weights with uint8 activations
    (s8s8's are converted) in int16. So two neighbours of the same sign must not exceed 128
    together, which most channels need only a little wider range for.
    """
    found = {}
    for node, weights in _with_weights(graph):
        attributes = {each.name: each.i for each in node.attribute}
        axis = 0 if node.op_type == "Conv" or attributes.get("transB") else 1
        rows = np.moveaxis(weights, axis, 0)
        limits = np.abs(rows).reshape(len(rows), -1).max(1)
        depthwise = weights.shape[1] == 1 and attributes.get("group") == len(weights)
        if not depthwise:  # depthwise kernels do not saturate
            if node.op_type == "Conv":
                rows = np.moveaxis(rows, 1, -1)  # channels last, as in the kernels
            rows = rows.reshape(len(rows), -1)
            pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)
            for sign in (1, -1):
                limits = np.maximum(limits, np.maximum(sign * pairs, 0).sum(2).max(1))
        # onnxruntime would round the bias of a channel without weights to steps of its input.
        found[node.input[1]] = axis, np.where(limits, limits, limits.max() or 1)
    return found


def rounding_shifts(model: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> dict[str, Array]:
    """Return how much rounding its weights lowers each layer's output, by channel, on average.

    A layer adds the same error to all its outputs of a channel, and later layers do not average it
    out, so adding the shift to the bias undoes much of the loss (Nagel et al. 2019, *Data-Free
    Quantization Through Weight Equalization and Bias Correction*, section 4.2, with the mean
    measured on images).

    Args:
        images: ``[N, H, W, 3]``.

    Returns:
        Shifts ``[C]`` by the name of the layer's output.
    """
    probe, limits = onnx.ModelProto(), weight_limits(model.graph)
    probe.CopyFrom(model)
    del probe.graph.output[:]
    names = []
    for node, weights in _with_weights(model.graph):
        if node.op_type == "MatMul":  # has no bias
            continue
        axis, limit = limits[node.input[1]]
        steps = (limit / np.float32(_LARGEST)).reshape(
            [-1 if each == axis else 1 for each in range(weights.ndim)]
        )
        names.append(node.output[0])
        lost, error, mean = (f"{names[-1]}/{part}" for part in ("lost", "error", "mean"))
        probe.graph.initializer.append(
            from_array(weights - np.round(weights / steps) * steps, lost)
        )
        layer = onnx.NodeProto()
        layer.CopyFrom(node)
        layer.name = error
        layer.input[:], layer.output[:] = [node.input[0], lost], [error]
        axes = [0, 2, 3] if node.op_type == "Conv" else [0]
        probe.graph.initializer.append(from_array(np.array(axes), f"{mean}/axes"))
        average = make_node("ReduceMean", [error, f"{mean}/axes"], [mean], mean, keepdims=0)
        probe.graph.node.extend([layer, average])
        probe.graph.output.append(make_tensor_value_info(mean, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )
    feed = model.graph.input[0].name
    means = [session.run(None, {feed: image[None]}) for image in images]
    return {
        name: np.stack(found).mean(0, dtype=np.float64).astype(np.float32)
        for name, found in zip(names, zip(*means, strict=True), strict=True)
    }


def shift_biases(graph: onnx.GraphProto, shifts: dict[str, Array]) -> None:
    """Add the shifts to the biases of these layers, in place."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.output[0] not in shifts:
            continue
        bias: Any = shifts[node.output[0]]
        if len(node.input) > 2:
            bias = bias + to_array(constants[node.input.pop()])
        node.input.append(f"{node.output[0]}/bias")  # its own, as layers may share a bias
        graph.initializer.append(from_array(bias, node.input[2]))


def _with_weights(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, Array]]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in {"Conv", "Gemm", "MatMul"} and node.input[1] in constants:
            yield node, to_array(constants[node.input[1]])
