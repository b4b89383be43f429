"""Quantize to int8 with quantise-dequantise pairs, for two kinds of hardware.

``int8_u8s8`` has asymmetric uint8 activations, the fastest on x86 and in WebAssembly;
``int8_s8s8`` is symmetric throughout, as TensorRT requires. Both have int8 weights per output
channel, which no processor's kernels saturate, and float32 preprocessing and logits.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    TensorsData,
    create_calibrator,
    quantize_static,
    save_tensors_data,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from stages.quantization.hard_activations import hard_activations_in_uint8

_OPTIONS: dict[str, dict[str, Any]] = {
    "int8_u8s8": {"ActivationSymmetric": False},
    # The defaults violate TensorRT's rules: int32 bias, zero points other than 0, shared pairs.
    "int8_s8s8": {"ActivationSymmetric": True, "QuantizeBias": False, "DedicatedQDQPair": True},
}
_ACTIVATIONS = {"int8_u8s8": QuantType.QUInt8, "int8_s8s8": QuantType.QInt8}
_PART = 16

FIRST = "first Conv"
_PLAIN = {"Add", "Gemm", "GlobalAveragePool", "MatMul", "Mul"}
_FUNCTIONS = {"LayerNormalization", "Sigmoid", "Softmax"}

#: The range of activations: all values, all but the outermost 0.001 %, or the range that loses the
#: least information (KL divergence of the histograms).
_METHODS: dict[str, tuple[CalibrationMethod, dict[str, Any]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"num_bins": 2048, "percentile": 99.999}),
    # By default onnxruntime has as many bins as quantization steps, which allows only one range.
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 1024, "num_quantized_bins": 128}),
}


def calibrate(
    model: onnx.ModelProto, images: npt.NDArray[np.uint8], method: str = "minmax"
) -> TensorsData:
    """Calibrate the range of every activation on images ``[N, H, W, 3]``, for any precision."""
    (kind, options), name = _METHODS[method], model.graph.input[0].name
    # onnxruntime prints a line for each part.
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, quiet:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            sorted(QLinearOpsRegistry.keys() | QDQRegistry.keys()),  # as in quantize_static
            augmented_model_path=str(Path(folder, "augmented.onnx")),
            calibrate_method=kind,
            extra_options=options,
        )
        # In parts, because histograms keep all activations of a part in memory.
        for start in range(0, len(images), _PART):
            # One by one, as most devices run the models.
            feeds = iter([{name: image[None]} for image in images[start : start + _PART]])
            calibrator.collect_data(SimpleNamespace(get_next=partial(next, feeds, None)))
        return calibrator.compute_data()


def quantize(
    model: onnx.ModelProto, precision: str, ranges: TensorsData, in_float: Iterable[str] = ()
) -> onnx.ModelProto:
    """Quantize an fp32 model whose graph begins with the preprocessing.

    Args:
        ranges: from :func:`calibrate`, for this graph or for the same one with another batch.
        in_float: keys of :func:`kinds` to leave in float.
    """
    source, nodes = onnx.ModelProto(), kinds(model.graph)
    source.CopyFrom(model)
    left_out = [name for kind in in_float for name in nodes[kind]]
    # onnxruntime requires folded BatchNorms and inferred shapes, which the exporter provides.
    add_pre_process_metadata(source)
    with tempfile.TemporaryDirectory() as folder:
        target, kept = Path(folder, "quantized.onnx"), Path(folder, "ranges.json")
        save_tensors_data(ranges, kept)
        quantize_static(
            source,
            target,
            None,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=_ACTIVATIONS[precision],
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*preprocessing_nodes(model.graph), *_norms(model.graph), *left_out],
            calibrate_method=ranges.calibration_method,
            calibration_cache_path=kept,
            extra_options={
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
                "TensorQuantOverrides": _weight_ranges(model.graph),
                **_OPTIONS[precision],
            },
        )
        quantized = onnx.load(target)
    if precision == "int8_u8s8":
        hard_activations_in_uint8(quantized.graph)
    elif problems := tensorrt_violations(quantized.graph):
        raise AssertionError(f"not symmetric int8: {'; '.join(problems)}")
    return quantized


def _weight_ranges(graph: onnx.GraphProto) -> dict[str, list[dict[str, Any]]]:
    """Return for each output channel the range of weights that kernels cannot saturate.

    x86 kernels without VNNI add the products of two neighbouring weights with uint8 activations
    (s8s8's are converted) in int16. So two neighbours of the same sign must not exceed 128
    together, which most channels need only a little wider range for.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, list[dict[str, Any]]] = {}
    for node in graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"} or node.input[1] not in constants:
            continue
        weights = onnx.numpy_helper.to_array(constants[node.input[1]])
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        if node.op_type == "Conv":
            if weights.shape[1] == 1:
                continue  # depthwise: other kernels
            weights = np.moveaxis(weights, 1, -1)  # channels last, as in the kernels
        rows = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
        pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)
        sums = [np.maximum(sign * pairs, 0).sum(2).max(1) for sign in (1, -1)]
        limits = np.maximum(np.abs(rows).max(1), np.maximum(*sums))
        found[node.input[1]] = [{"axis": axis, "rmin": -limit, "rmax": limit} for limit in limits]
    return found


def preprocessing_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the nodes from the images to the transpose that ends the preprocessing."""
    names = []
    for node in graph.node:
        names.append(node.name)
        if node.op_type == "Transpose":
            return names
    raise AssertionError("no Transpose: the exporter changed the preprocessing")


def kinds(graph: onnx.GraphProto) -> dict[str, list[str]]:
    """Return by kind the nodes that may stay in float for accuracy.

    Of convolutions, only the first is included. An int8 model with most convolutions in float would
    be no faster, and onnxruntime quantizes those between quantized activations itself, with one
    range for all channels, which is worst for depthwise ones.
    """
    found: dict[str, list[str]] = {}
    preprocessing = set(preprocessing_nodes(graph))
    for node in graph.node:
        kind = node.op_type
        if kind == "Conv" and FIRST not in found:
            found[FIRST] = [node.name]
        elif kind in _PLAIN | _FUNCTIONS and node.name not in preprocessing:
            found.setdefault(kind, []).append(node.name)
    return found


def _norms(graph: onnx.GraphProto) -> list[str]:
    """Return BatchNorms that could not be folded, and parts of GroupNorms, which no runtime
    computes in int8."""
    kinds = {"BatchNormalization", "InstanceNormalization"}
    return [node.name for node in graph.node if node.op_type in kinds]


def tensorrt_violations(graph: onnx.GraphProto) -> list[str]:
    """List where a graph violates TensorRT's rules for int8.

    Every quantise and dequantise node must be int8 with zero point 0 and a positive constant scale,
    and every quantised activation must have its own dequantise node.
    """
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    problems = []
    for node in graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        scale, zero = (constants.get(name) for name in node.input[1:3])
        if scale is None or not (scale > 0).all():
            problems.append(f"{node.name} has no positive constant scale")
        if zero is None or zero.dtype != np.int8 or zero.any():
            problems.append(f"{node.name} has a zero point other than int8 0")
        if node.op_type == "QuantizeLinear":
            following = [reader.op_type for reader in readers.get(node.output[0], [])]
            if following != ["DequantizeLinear"]:
                problems.append(f"{node.name} feeds {following or 'nothing'}")
    return problems
