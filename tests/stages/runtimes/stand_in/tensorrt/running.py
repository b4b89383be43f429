"""From a plan to answers."""

import ctypes
import json
import math

import numpy as np
import onnx
import onnxruntime

from .names import (
    DataType,
    Dims,
    ILogger,
    LayerInformationFormat,
    TensorIOMode,
    described,
)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine":
        return ICudaEngine(json.loads(serialized_engine), self._logger)


class ICudaEngine:
    def __init__(self, plan: dict, logger: ILogger) -> None:
        self._plan, self._logger = plan, logger
        self._model = onnx.ModelProto.FromString(bytes.fromhex(plan["model"]))
        graph = self._model.graph
        self._tensors = {
            value.name: (mode, *described(value)[1:])
            for mode, values in (
                (TensorIOMode.INPUT, graph.input),
                (TensorIOMode.OUTPUT, graph.output),
            )
            for value in values
        }

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._tensors[name][0]

    def get_tensor_shape(self, name: str) -> Dims:
        return self._tensors[name][1]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name][2]

    def create_execution_context(self) -> "IExecutionContext":
        return IExecutionContext(self)

    def create_engine_inspector(self) -> "EngineInspector":
        return EngineInspector(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._session = onnxruntime.InferenceSession(
            engine._model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        self._shapes: dict[str, Dims] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple) -> bool:
        declared = self._engine.get_tensor_shape(name)
        low, _, high = self._engine._plan["shapes"].get(name, (declared,) * 3)
        if len(shape) != len(low) or any(
            not a <= b <= c for a, b, c in zip(low, shape, high, strict=True)
        ):
            reason = f"{name}: {shape} is outside of {tuple(low)} to {tuple(high)}."
            self._engine._logger.log(ILogger.Severity.ERROR, f"IExecutionContext: {reason}")
            return False
        self._shapes[name] = Dims(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._shapes:
            return self._shapes[name]
        batch = next(iter(self._shapes.values()))[0]
        return Dims(batch if size == -1 else size for size in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory != 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        tensors = self._engine._tensors
        if set(self._addresses) != set(tensors):
            return False
        feeds = {
            name: _array_at(self._addresses[name], shape, tensors[name][2]).copy()
            for name, shape in self._shapes.items()
        }
        results = self._session.run(None, feeds)
        for output, exact in zip(self._session.get_outputs(), results, strict=True):
            # TF32 keeps 10 bits of the mantissa.
            coarse = (exact.view(np.int32) & ~0x1FFF).view(np.float32)
            target = _array_at(self._addresses[output.name], exact.shape, tensors[output.name][2])
            target[...] = coarse if self._engine._plan["tf32"] else exact
        return True


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format == LayerInformationFormat.JSON
        graph = self._engine._model.graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        producers = {output: node for node in graph.node for output in node.output}
        layers = []
        for node in graph.node:
            if node.op_type == "Cast":
                layers.append(self._layer(node.name, "Cast", None))
            if node.op_type not in ("Conv", "Gemm", "MatMul"):
                continue
            source = producers.get(node.input[1])
            quantized = source is not None and source.op_type == "DequantizeLinear"
            weights = constants[source.input[0] if quantized else node.input[1]]
            layers.append(self._layer(node.name, "CaskConvolution", weights))
        return json.dumps({"Layers": layers, "Bindings": list(self._engine._tensors)})

    def _layer(self, name: str, kind: str, weights: onnx.TensorProto | None) -> dict | str:
        if not self._engine._plan["detailed"]:
            return name
        layer = {"Name": name, "LayerType": kind}
        layer["Outputs"] = [
            {"Name": f"{name}_out", "Format/Datatype": "Row major linear FP32 format"}
        ]
        if weights is not None:
            names = {onnx.TensorProto.FLOAT16: "Half", onnx.TensorProto.INT8: "Int8"}
            kind = names.get(weights.data_type, "Float") if self._engine._plan["typed"] else "Float"
            layer["Weights"] = {"Type": kind, "Count": math.prod(weights.dims)}
        return layer


def _array_at(address: int, shape: tuple, kind: DataType) -> np.ndarray:
    """The memory of a tensor, to be read and written."""
    element = {DataType.UINT8: ctypes.c_uint8, DataType.FLOAT: ctypes.c_float}[kind]
    pointer = ctypes.cast(address, ctypes.POINTER(element))
    return np.ctypeslib.as_array(pointer, shape=tuple(shape))
