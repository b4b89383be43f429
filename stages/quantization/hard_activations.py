"""Compute HardSwish and HardSigmoid in uint8.

onnxruntime has no int8 kernels for them and would convert activations to float and back. In uint8,
x + 3 in the range from 0 to 6 is relu6(x + 3). Read with a sixth of its scale it is HardSigmoid(x),
whose product with x is HardSwish(x).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.helper import make_node

_STEP = 1 / 255
_ZERO = "hard/zero_point"
_CONSTANTS: dict[str, npt.NDArray[Any]] = {
    "hard/three": np.array(255, np.uint8),
    "hard/three/scale": np.array(3 * _STEP, np.float32),
    "hard/sum/scale": np.array(6 * _STEP, np.float32),
    "hard/scale": np.array(_STEP, np.float32),
    _ZERO: np.array(0, np.uint8),
}


def hard_activations_in_uint8(graph: onnx.GraphProto) -> None:
    """Replace, in place, the activations between a dequantization and a quantization."""
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    changed: dict[str, list[onnx.NodeProto]] = {}  # by the first output of the former node
    for node in graph.node:
        if not _is_hard(node):
            continue
        (given,), (result,) = node.input, node.output
        producer, following = producers[given], readers.get(result, [])
        if producer.op_type != "DequantizeLinear" or [n.op_type for n in following] != [
            "QuantizeLinear"
        ]:
            continue
        three, total, quantized = f"{result}/three", f"{result}/sum", f"{result}/quantized"
        changed[result] = [
            make_node("DequantizeLinear", ["hard/three", "hard/three/scale", _ZERO], [three]),
            make_node("Add", [given, three], [total]),
            make_node("QuantizeLinear", [total, "hard/sum/scale", _ZERO], [quantized]),
        ]
        read = [quantized, "hard/scale", _ZERO]
        if node.op_type == "HardSwish":
            gate = f"{result}/gate"
            changed[result].append(make_node("DequantizeLinear", read, [gate]))
            changed[result].append(make_node("Mul", [given, gate], [result]))
        else:  # without a second quantization
            changed[following[0].output[0]] = []
            for reader in readers[following[0].output[0]]:
                changed[reader.output[0]] = [
                    make_node("DequantizeLinear", read, [reader.output[0]])
                ]
    if changed:
        nodes = [new for node in graph.node for new in changed.get(node.output[0], [node])]
        for new in nodes:
            new.name = new.name or new.output[0]
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(
            onnx.numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items()
        )


def _is_hard(node: onnx.NodeProto) -> bool:
    """Whether it is HardSwish, or torch's HardSigmoid, relu6(x + 3) / 6."""
    slopes = [attribute.f for attribute in node.attribute if attribute.name == "alpha"]
    return node.op_type == "HardSwish" or (
        node.op_type == "HardSigmoid" and np.allclose(slopes or [0.2], 1 / 6)
    )
