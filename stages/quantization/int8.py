"""int8 by quantise-dequantise pairs, for two kinds of hardware.

``int8_u8s8`` has asymmetric uint8 activations, which x86 and WebAssembly multiply fastest;
``int8_s8s8`` is symmetric throughout, as TensorRT demands. Weights are int8 per output channel in
both. The preprocessing stays in float32, and so do the logits.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
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

_OPTIONS: dict[str, dict[str, Any]] = {
    "int8_u8s8": {"ActivationSymmetric": False},
    # The defaults break TensorRT's rules: an int32 bias, zero points other than zero, shared pairs.
    "int8_s8s8": {"ActivationSymmetric": True, "QuantizeBias": False, "DedicatedQDQPair": True},
}
_ACTIVATIONS = {"int8_u8s8": QuantType.QUInt8, "int8_s8s8": QuantType.QInt8}
_PART = 16

#: How ranges are taken from what calibration sees: all of it, all but the outermost 0.001 %, or
#: what loses the least information (KL divergence of the histograms).
_METHODS: dict[str, tuple[CalibrationMethod, dict[str, Any]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"num_bins": 2048, "percentile": 99.999}),
    # By default onnxruntime has as many bins as steps, which leaves it no range to choose from.
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 1024, "num_quantized_bins": 128}),
}


def calibrate(
    model: onnx.ModelProto, images: npt.NDArray[np.uint8], method: str = "minmax"
) -> TensorsData:
    """The range of every activation, for :func:`quantize`; every precision has the same.

    Args:
        model: as :func:`stages.export_onnx.export_network` makes it.
        images: training images ``[N, H, W, 3]``.
        method: ``minmax``, ``percentile`` or ``entropy``.
    """
    kind, options = _METHODS[method]
    # onnxruntime prints a line for each part of the images.
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, quiet:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            sorted(QLinearOpsRegistry.keys() | QDQRegistry.keys()),  # those of quantize_static
            augmented_model_path=str(Path(folder, "augmented.onnx")),
            calibrate_method=kind,
            extra_options=options,
        )
        # In parts, as histograms want every activation of all images of a part in memory.
        for start in range(0, len(images), _PART):
            part = images[start : start + _PART]
            calibrator.collect_data(_Reader(model.graph.input[0].name, part))
        return calibrator.compute_data()


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds the images one by one, so that a dynamic and a static model see the same numbers."""

    def __init__(self, input_name: str, images: npt.NDArray[np.uint8]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter(
            [{input_name: image[None]} for image in images]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def quantize(model: onnx.ModelProto, precision: str, ranges: TensorsData) -> onnx.ModelProto:
    """The int8 version of an fp32 model whose graph begins with the preprocessing.

    Args:
        model: as :func:`stages.export_onnx.export_network` makes it; stays as it is.
        precision: ``int8_u8s8`` or ``int8_s8s8``.
        ranges: by :func:`calibrate`, of this graph.
    """
    source = onnx.ModelProto()
    source.CopyFrom(model)
    # The exporter has folded BatchNorm and inferred the shapes, which is what onnxruntime asks for.
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
            nodes_to_exclude=[*preprocessing_nodes(model.graph), *_norms(model.graph)],
            calibrate_method=ranges.calibration_method,
            calibration_cache_path=kept,
            extra_options={
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
                **_OPTIONS[precision],
            },
        )
        quantized = onnx.load(target)
    if precision == "int8_s8s8" and (problems := tensorrt_violations(quantized.graph)):
        raise AssertionError(f"not symmetric int8: {'; '.join(problems)}")
    return quantized


def preprocessing_nodes(graph: onnx.GraphProto) -> list[str]:
    """The nodes from the images to the transposition that ends the preprocessing."""
    names = []
    for node in graph.node:
        names.append(node.name)
        if node.op_type == "Transpose":
            return names
    raise AssertionError("no Transpose: the preprocessing was not exported as it is written")


def _norms(graph: onnx.GraphProto) -> list[str]:
    """BatchNorm that follows no convolution to be folded into, and GroupNorm in its parts: no
    runtime computes them in int8."""
    kinds = {"BatchNormalization", "InstanceNormalization"}
    return [node.name for node in graph.node if node.op_type in kinds]


def tensorrt_violations(graph: onnx.GraphProto) -> list[str]:
    """Where a graph breaks TensorRT's rules for int8; empty where it keeps them.

    Every quantise and dequantise node must be int8 with zero points of 0 and positive constant
    scales, and every quantised activation must have a dequantise node of its own.
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
