"""What ONNX operators compute, in torch: those that exported image classifiers are made of.

Each takes a node's inputs, None where an optional one is left out, and its attributes by name, and
is differentiable in what is float. The definitions are those of https://onnx.ai/onnx/operators at
opsets 18 and 20.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Inputs = Sequence[Any]
Attributes = dict[str, Any]
Operator = Callable[[Inputs, Attributes], Any]


def unknown(what: str) -> NotImplementedError:
    """That a graph has ``what``, and what to do about it."""
    return NotImplementedError(
        f"export.finetune: the network has {what}, which fine-tuning does not know; set"
        " export.finetune.when to never in params.yaml"
    )


def _conv(inputs: Inputs, attributes: Attributes) -> Tensor:
    images, weight, *bias = inputs
    padded, padding = _padding(images, attributes, 0.0)
    return F.conv2d(
        padded,
        weight,
        bias[0] if bias else None,
        stride=attributes.get("strides", [1, 1]),
        padding=padding,
        dilation=attributes.get("dilations", [1, 1]),
        groups=attributes.get("group", 1),
    )


def _padding(images: Tensor, attributes: Attributes, value: float) -> tuple[Tensor, list[int]]:
    """ONNX pads each side by itself; torch takes one number for two sides, or pads beforehand."""
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise unknown("auto_pad")
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) == (bottom, right):
        return images, [top, left]
    return F.pad(images, (left, right, top, bottom), value=value), [0, 0]


def _gemm(inputs: Inputs, attributes: Attributes) -> Tensor:
    a, b, *bias = inputs
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return product + attributes.get("beta", 1.0) * bias[0] if bias else product


def _max_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    padded, padding = _padding(inputs[0], attributes, float("-inf"))
    return F.max_pool2d(
        padded,
        attributes["kernel_shape"],
        attributes.get("strides", [1, 1]),
        padding,
        attributes.get("dilations", [1, 1]),
        bool(attributes.get("ceil_mode", 0)),
    )


def _average_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    counted = bool(attributes.get("count_include_pad", 0))
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise unknown("AveragePool with unequal pads")
    return F.avg_pool2d(
        inputs[0],
        attributes["kernel_shape"],
        attributes.get("strides", [1, 1]),
        [top, left],
        bool(attributes.get("ceil_mode", 0)),
        counted,
    )


def _batch_normalization(inputs: Inputs, attributes: Attributes) -> Tensor:
    images, weight, bias, mean, variance = inputs
    epsilon = attributes.get("epsilon", 1e-5)
    return F.batch_norm(images, mean, variance, weight, bias, training=False, eps=epsilon)


def _clip(inputs: Inputs, attributes: Attributes) -> Tensor:
    del attributes
    value, low, high = (*inputs, None, None)[:3]
    return torch.clamp(value, low, high)


def _range(inputs: Inputs, attributes: Attributes) -> Tensor:
    del attributes
    start, limit, delta = (value.item() for value in inputs)
    return torch.arange(start, limit, delta, dtype=inputs[0].dtype)


def _reduce_mean(inputs: Inputs, attributes: Attributes) -> Tensor:
    value, *axes = inputs
    over = axes[0].tolist() if axes and axes[0] is not None else list(range(value.dim()))
    mean: Tensor = value.mean(over, keepdim=bool(attributes.get("keepdims", 1)))
    return mean


def _reshape(inputs: Inputs, attributes: Attributes) -> Tensor:
    value, shape = inputs
    sizes = shape.tolist()
    if not attributes.get("allowzero", 0):
        sizes = [value.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    reshaped: Tensor = value.reshape(sizes)
    return reshaped


def _flatten(inputs: Inputs, attributes: Attributes) -> Tensor:
    value: Tensor = inputs[0]
    axis = attributes.get("axis", 1) % max(1, value.dim())
    return value.reshape(int(torch.Size(value.shape[:axis]).numel()), -1)


def _slice(inputs: Inputs, attributes: Attributes) -> Tensor:
    del attributes
    value, starts, ends, axes, steps = (*inputs, None, None)[:5]
    count = len(starts)
    over = range(count) if axes is None else axes.tolist()
    strides = [1] * count if steps is None else steps.tolist()
    for axis, start, end, step in zip(over, starts.tolist(), ends.tolist(), strides, strict=True):
        if step < 1:
            raise unknown("Slice backwards")
        index = [slice(None)] * value.dim()
        index[axis] = slice(start, end, step)
        value = value[tuple(index)]
    sliced: Tensor = value
    return sliced


def _squeeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    del attributes
    squeezed: Tensor = (
        inputs[0].squeeze(inputs[1].tolist()) if len(inputs) > 1 else inputs[0].squeeze()
    )
    return squeezed


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    del attributes
    value, axes = inputs
    rank = value.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes.tolist()):
        value = value.unsqueeze(axis)
    unsqueezed: Tensor = value
    return unsqueezed


def _gather(inputs: Inputs, attributes: Attributes) -> Tensor:
    value, indices = inputs
    axis = attributes.get("axis", 0) % value.dim()
    rows = (indices % value.shape[axis]).reshape(-1).to(value.device)
    taken: Tensor = value.index_select(axis, rows)
    return taken.reshape((*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :]))


def _shape(inputs: Inputs, attributes: Attributes) -> Tensor:
    sizes = inputs[0].shape[attributes.get("start", 0) : attributes.get("end")]
    return torch.tensor(list(sizes), dtype=torch.int64)


def _split(inputs: Inputs, attributes: Attributes) -> tuple[Tensor, ...]:
    value, *sizes = inputs
    axis = attributes.get("axis", 0)
    if sizes:
        return tuple(torch.split(value, sizes[0].tolist(), axis))
    return tuple(torch.chunk(value, attributes["num_outputs"], axis))


def _div(inputs: Inputs, attributes: Attributes) -> Tensor:
    del attributes
    whole = None if inputs[0].is_floating_point() else "trunc"
    return torch.div(inputs[0], inputs[1], rounding_mode=whole)


def _hard_sigmoid(inputs: Inputs, attributes: Attributes) -> Tensor:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return torch.clamp(alpha * inputs[0] + beta, 0, 1)


def _of_one(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda inputs, _: function(inputs[0])


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda inputs, _: function(inputs[0], inputs[1])


#: By the operator's name.
OPERATORS: dict[str, Operator] = {
    "Add": _of_two(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": lambda inputs, attributes: torch.cat(tuple(inputs), attributes["axis"]),
    "Conv": _conv,
    "Div": _div,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _of_one(lambda value: value.mean((2, 3), keepdim=True)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _of_one(F.hardswish),
    "Identity": _of_one(lambda value: value),
    "MatMul": _of_two(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _of_two(torch.mul),
    "Range": _range,
    "ReduceMean": _reduce_mean,
    "Relu": _of_one(F.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _of_one(torch.sigmoid),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _of_two(torch.sub),
    "Transpose": lambda inputs, attributes: inputs[0].permute(attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
