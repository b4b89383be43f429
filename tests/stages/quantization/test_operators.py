"""Every operator against the reference implementation of ONNX itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from stages.quantization.operators import OPERATORS

random = np.random.default_rng(0)


def real(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


MAP = real(2, 4, 7, 6)
Case = tuple[str, list[np.ndarray | None], dict[str, Any]]
CASES: list[Case] = [
    ("Add", [MAP, real(4, 1, 1)], {}),
    ("AveragePool", [MAP], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("AveragePool", [MAP], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    (
        "AveragePool",
        [MAP],
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    ("BatchNormalization", [MAP, real(4), real(4), real(4), real(4) ** 2], {"epsilon": 1e-3}),
    ("Clip", [MAP, np.float32(0), np.float32(0.5)], {}),
    ("Clip", [MAP, None, np.float32(0.5)], {}),
    ("Clip", [MAP, np.float32(0)], {}),
    ("Concat", [MAP, real(2, 3, 7, 6)], {"axis": 1}),
    ("Conv", [MAP, real(8, 4, 3, 3), real(8)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", [MAP, real(4, 1, 3, 3)], {"group": 4, "dilations": [2, 2]}),
    ("Conv", [MAP, real(8, 4, 3, 3), real(8)], {"pads": [0, 1, 1, 2], "auto_pad": "NOTSET"}),
    ("Div", [MAP, real(4, 1, 1)], {}),
    ("Div", [whole(7, 9), whole(2, 4)], {}),
    ("Flatten", [MAP], {}),
    ("Flatten", [MAP], {"axis": 2}),
    ("Gather", [MAP, whole(3, 0, -1)], {"axis": 1}),
    ("Gather", [whole(5, 6, 7), np.array(1)], {"axis": 0}),
    ("Gemm", [real(2, 5), real(3, 5), real(3)], {"transB": 1}),
    ("Gemm", [real(5, 2), real(5, 3), real(3)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [real(2, 5), real(5, 3)], {}),
    ("GlobalAveragePool", [MAP], {}),
    ("HardSigmoid", [4 * MAP], {}),
    ("HardSigmoid", [4 * MAP], {"alpha": 1 / 6}),
    ("HardSwish", [4 * MAP], {}),
    ("Identity", [MAP], {}),
    ("MatMul", [real(2, 5), real(5, 3)], {}),
    ("MaxPool", [MAP], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [MAP], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("Mul", [MAP, np.float32(2)], {}),
    ("Range", [np.array(1), np.array(8), np.array(3)], {}),
    ("ReduceMean", [MAP, whole(2, 3)], {"keepdims": 0}),
    ("ReduceMean", [MAP, whole(-1)], {}),
    ("ReduceMean", [MAP], {}),
    ("Relu", [MAP], {}),
    ("Reshape", [MAP, whole(0, 2, -1)], {}),
    ("Reshape", [MAP, whole(2, -1)], {"allowzero": 1}),
    ("Shape", [MAP], {}),
    ("Shape", [MAP], {"start": 0, "end": 1}),
    ("Sigmoid", [MAP], {}),
    ("Slice", [MAP, whole(1), whole(3), whole(1)], {}),
    ("Slice", [MAP, whole(0, 1), whole(9, -1), whole(2, 3), whole(2, 1)], {}),
    ("Slice", [MAP, whole(1), whole(2)], {}),
    ("Split", [MAP, whole(1, 3)], {"axis": 1}),
    ("Split", [MAP], {"axis": 1, "num_outputs": 2}),
    ("Squeeze", [real(2, 1, 3, 1), whole(1, -1)], {}),
    ("Squeeze", [real(2, 1, 3, 1)], {}),
    ("Sub", [MAP, real(4, 1, 1)], {}),
    ("Transpose", [MAP], {"perm": [0, 2, 3, 1]}),
    ("Unsqueeze", [MAP, whole(0, -1)], {}),
]


def by_onnx(name: str, inputs: list[np.ndarray | None], attributes: dict[str, Any]) -> list[Any]:
    names = ["" if value is None else f"x{n}" for n, value in enumerate(inputs)]
    outputs = ["y0", "y1"] if name == "Split" else ["y0"]
    node = helper.make_node(name, names, outputs, **attributes)
    given = {key: value for key, value in zip(names, inputs, strict=True) if key}
    infos = [
        helper.make_tensor_value_info(
            key, helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype), None
        )
        for key, value in given.items()
    ]
    results = [
        helper.make_tensor_value_info(key, onnx.TensorProto.UNDEFINED, None) for key in outputs
    ]
    graph = helper.make_graph([node], "one", infos, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return list(ReferenceEvaluator(model).run(None, given))


@pytest.mark.parametrize(("name", "inputs", "attributes"), CASES)
def test_an_operator_computes_what_onnx_says(
    name: str, inputs: list[np.ndarray | None], attributes: dict[str, Any]
) -> None:
    # As they are read from a file, where texts are bytes.
    read = {k: v.encode() if isinstance(v, str) else v for k, v in attributes.items()}
    tensors = [None if value is None else torch.from_numpy(np.array(value)) for value in inputs]
    found = OPERATORS[name](tensors, read)
    several = found if isinstance(found, tuple) else (found,)
    for ours, theirs in zip(several, by_onnx(name, inputs, attributes), strict=True):
        assert ours.numpy().dtype == theirs.dtype
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


def test_every_operator_is_tried() -> None:
    assert {name for name, *_ in CASES} == set(OPERATORS)


@pytest.mark.parametrize(
    ("name", "inputs", "attributes"),
    [
        ("Conv", [MAP, real(8, 4, 3, 3)], {"auto_pad": b"SAME_UPPER"}),
        ("AveragePool", [MAP], {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1]}),
        ("Slice", [MAP, whole(3), whole(0), whole(1), whole(-1)], {}),
    ],
)
def test_what_is_not_known_is_refused(name: str, inputs: list[Any], attributes: Any) -> None:
    tensors = [torch.from_numpy(value) for value in inputs]
    with pytest.raises(NotImplementedError, match=r"set export\.finetune\.when to never"):
        OPERATORS[name](tensors, attributes)
