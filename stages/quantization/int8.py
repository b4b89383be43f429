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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
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
from stages.quantization.weights import Array, rounding_shifts, shift_biases, weight_limits
from stages.runtimes.onnx_runtime import session_options

_OPTIONS: dict[str, dict[str, Any]] = {
    "int8_u8s8": {"ActivationSymmetric": False},
    # The defaults violate TensorRT's rules: int32 bias, zero points other than 0, shared pairs.
    "int8_s8s8": {"ActivationSymmetric": True, "QuantizeBias": False, "DedicatedQDQPair": True},
}
_ACTIVATIONS = {"int8_u8s8": QuantType.QUInt8, "int8_s8s8": QuantType.QInt8}
_PART = 16

FIRST = "first Conv"
_KINDS = {
    *("Add", "Gemm", "GlobalAveragePool", "MatMul", "Mul"),
    *("LayerNormalization", "Sigmoid", "Softmax"),
}
# BatchNorms that could not be folded, and parts of GroupNorms; no runtime computes them in int8.
_NORMS = {"BatchNormalization", "InstanceNormalization"}

#: The range of activations: all values, all but the outermost 0.01 %, or the range that loses the
#: least information (KL divergence of the histograms).
_METHODS: dict[str, tuple[CalibrationMethod, dict[str, Any]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"num_bins": 2048, "percentile": 99.99}),
    # By default onnxruntime has as many bins as quantization steps, which allows only one range.
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 1024, "num_quantized_bins": 128}),
}


class Calibration(NamedTuple):
    ranges: TensorsData  # of activations
    shifts: dict[str, Array]  # of biases; see rounding_shifts


def calibrate(
    model: onnx.ModelProto, images: npt.NDArray[np.uint8], method: str = "minmax"
) -> Calibration:
    """Calibrate a model in floats on images ``[N, H, W, 3]``, for any precision."""
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
        own = session_options()  # by default, a thread for each core of the machine
        own.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        calibrator.infer_session = onnxruntime.InferenceSession(
            calibrator.augmented_model_path, own, providers=["CPUExecutionProvider"]
        )
        # In parts, because histograms keep all activations of a part in memory.
        for start in range(0, len(images), _PART):
            # One by one, as most devices run the models.
            feeds = iter([{name: image[None]} for image in images[start : start + _PART]])
            calibrator.collect_data(SimpleNamespace(get_next=partial(next, feeds, None)))
        return Calibration(calibrator.compute_data(), rounding_shifts(model, images))


def quantize(
    model: onnx.ModelProto, precision: str, calibration: Calibration, in_float: Iterable[str] = ()
) -> onnx.ModelProto:
    """Quantize an fp32 model whose graph begins with the preprocessing.

    Args:
        calibration: of this graph or of the same one with another batch.
        in_float: keys of :func:`kinds` to leave in float.
    """
    source, nodes = onnx.ModelProto(), kinds(model.graph)
    source.CopyFrom(model)
    left_out = {name for kind in in_float for name in nodes[kind]}
    norms = [node.name for node in model.graph.node if node.op_type in _NORMS]
    rounded = {node.output[0] for node in model.graph.node if node.name not in left_out}
    shift_biases(source.graph, {n: s for n, s in calibration.shifts.items() if n in rounded})
    weight_ranges = {
        name: [{"axis": axis, "rmin": -limit, "rmax": limit} for limit in limits]
        for name, (axis, limits) in weight_limits(model.graph).items()
    }
    # onnxruntime requires folded BatchNorms and inferred shapes, which the exporter provides.
    add_pre_process_metadata(source)
    with tempfile.TemporaryDirectory() as folder:
        target, kept = Path(folder, "quantized.onnx"), Path(folder, "ranges.json")
        save_tensors_data(calibration.ranges, kept)
        quantize_static(
            source,
            target,
            None,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=_ACTIVATIONS[precision],
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*preprocessing_nodes(model.graph), *norms, *left_out],
            calibrate_method=calibration.ranges.calibration_method,
            calibration_cache_path=kept,
            extra_options={
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
                "TensorQuantOverrides": weight_ranges,
                **_OPTIONS[precision],
            },
        )
        quantized = onnx.load(target)
    if precision == "int8_u8s8":
        hard_activations_in_uint8(quantized.graph)
    elif problems := tensorrt_violations(quantized.graph):
        raise AssertionError(f"not symmetric int8: {'; '.join(problems)}")
    return quantized


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
        elif kind in _KINDS and node.name not in preprocessing:
            found.setdefault(kind, []).append(node.name)
    return found


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
