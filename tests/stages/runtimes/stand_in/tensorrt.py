"""Stands in for TensorRT without a GPU: the API that tensorrt_engine uses, on onnxruntime.

Like TensorRT, it refuses invalid use, returns False, None or a negative number, and logs the reason
to the standard output. ``STAND_IN_TENSORRT`` sets its version: 10.x, where only strongly typed
networks keep the precision of their file, or 11.x, where all networks are strongly typed.
"""

import ctypes
import enum
import json
import math
import os

import numpy as np
import onnx
import onnxruntime

__version__ = os.environ["STAND_IN_TENSORRT"]
_MAJOR = int(__version__.split(".")[0])

Dims = tuple  # as the bindings pass them for `[:]`
BuilderFlag = enum.IntEnum("BuilderFlag", {"TF32": 6})
DataType = enum.IntEnum("DataType", {"FLOAT": 0, "UINT8": 5})
LayerInformationFormat = enum.IntEnum("LayerInformationFormat", {"JSON": 1})
MemoryPoolType = enum.IntEnum("MemoryPoolType", {"WORKSPACE": 0})
NetworkDefinitionCreationFlag = enum.IntEnum(
    "NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1 if _MAJOR == 10 else 0}
)
ProfilingVerbosity = enum.IntEnum("ProfilingVerbosity", {"LAYER_NAMES_ONLY": 0, "DETAILED": 2})
TensorIOMode = enum.IntEnum("TensorIOMode", {"INPUT": 1, "OUTPUT": 2})
_KINDS = {onnx.TensorProto.UINT8: DataType.UINT8, onnx.TensorProto.FLOAT: DataType.FLOAT}


class Logger:
    Severity = enum.IntEnum("Severity", {"ERROR": 1})

    def __init__(self, min_severity: enum.IntEnum) -> None:
        assert min_severity == self.Severity.ERROR

    def error(self, text: str) -> None:
        print(f"[11/25/2026-12:00:00] [TRT] [E] {text}", flush=True)


ILogger = Logger


class _Tensor:
    """An input or output; variable dimensions are -1."""

    def __init__(self, value: onnx.ValueInfoProto, mode: TensorIOMode) -> None:
        tensor = value.type.tensor_type
        self.name, self.mode, self.dtype = value.name, mode, _KINDS[tensor.elem_type]
        self.shape = Dims(-1 if s.dim_param else s.dim_value for s in tensor.shape.dim)


def _tensors(graph: onnx.GraphProto) -> dict[str, _Tensor]:
    found = [_Tensor(value, TensorIOMode.INPUT) for value in graph.input]
    found += [_Tensor(value, TensorIOMode.OUTPUT) for value in graph.output]
    return {tensor.name: tensor for tensor in found}


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        flag = 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.typed = _MAJOR > 10 or bool(flags & flag)
        self.model = onnx.ModelProto()

    def get_input(self, index: int) -> _Tensor:
        return list(_tensors(self.model.graph).values())[index]


class OnnxParser:
    num_errors = 0

    def __init__(self, network: INetworkDefinition, logger: Logger) -> None:
        self._network, self._logger = network, logger

    def parse_from_file(self, model: str) -> bool:
        loaded = onnx.load(model)
        onnx.checker.check_model(loaded)
        tensors = _tensors(loaded.graph).values()
        bytes_in = {tensor.name for tensor in tensors if tensor.dtype == DataType.UINT8}
        if any(bytes_in & set(n.input) for n in loaded.graph.node if n.op_type != "Cast"):
            self.num_errors = 1
            self._logger.error("ModelImporter: UINT8 is taken by a Cast alone")
            return False
        self._network.model = loaded
        return True

    def get_error(self, index: int) -> str:
        return f"In node {index - 1} (parseGraph): UINT8 is taken by a Cast alone"


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Dims, Dims, Dims]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        self.shapes[input] = (min, opt, max)


class IBuilderConfig:
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.shapes: dict[str, tuple[Dims, Dims, Dims]] = {}

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool_size > 0

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        for low, opt, high in profile.shapes.values():
            if not all(0 < a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
                return -1
        self.shapes = profile.shapes
        return 0


class Builder:
    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    create_network = staticmethod(INetworkDefinition)
    create_builder_config = staticmethod(IBuilderConfig)
    create_optimization_profile = staticmethod(IOptimizationProfile)

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None:
        for tensor in _tensors(network.model.graph).values():
            varies = tensor.mode == TensorIOMode.INPUT and -1 in tensor.shape
            if varies and tensor.name not in config.shapes:
                self._logger.error("Network has dynamic inputs, but no optimization profile")
                return None
        plan = {
            "model": network.model.SerializeToString().hex(),
            "shapes": config.shapes,
            "detailed": config.profiling_verbosity == ProfilingVerbosity.DETAILED,
            "typed": network.typed,
            "tf32": BuilderFlag.TF32 in config.flags,
        }
        return json.dumps(plan).encode()


class Runtime:
    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine":
        return ICudaEngine(json.loads(serialized_engine), self._logger)


class ICudaEngine:
    num_io_tensors: int

    def __init__(self, plan: dict, logger: Logger) -> None:
        self.plan, self.logger = plan, logger
        self.model = onnx.ModelProto.FromString(bytes.fromhex(plan["model"]))
        self.tensors = _tensors(self.model.graph)
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name].mode

    def get_tensor_shape(self, name: str) -> Dims:
        return self.tensors[name].shape

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name].dtype

    def create_execution_context(self) -> "IExecutionContext":
        return IExecutionContext(self)

    def create_engine_inspector(self) -> "EngineInspector":
        return EngineInspector(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._session = onnxruntime.InferenceSession(
            engine.model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        self._shapes: dict[str, Dims] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple) -> bool:
        declared = self._engine.get_tensor_shape(name)
        low, _, high = self._engine.plan["shapes"].get(name, (declared,) * 3)
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            self._engine.logger.error(f"{name}: {shape} is outside of {low} to {high}.")
            return False
        self._shapes[name] = Dims(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> Dims:
        batch = next(iter(self._shapes.values()))[0]
        return Dims(batch if size == -1 else size for size in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory != 0

    def _array(self, name: str) -> np.ndarray:
        """Return a writable view of a tensor's memory."""
        kind = {DataType.UINT8: ctypes.c_uint8, DataType.FLOAT: ctypes.c_float}
        element = kind[self._engine.get_tensor_dtype(name)]
        pointer = ctypes.cast(self._addresses[name], ctypes.POINTER(element))
        return np.ctypeslib.as_array(pointer, shape=self.get_tensor_shape(name))

    def execute_async_v3(self, stream_handle: int) -> bool:
        if set(self._addresses) != set(self._engine.tensors):
            return False
        results = self._session.run(None, {name: self._array(name).copy() for name in self._shapes})
        for output, exact in zip(self._session.get_outputs(), results, strict=True):
            # TF32 keeps 10 bits of the mantissa.
            coarse = (exact.view(np.int32) & ~0x1FFF).view(np.float32)
            self._array(output.name)[...] = coarse if self._engine.plan["tf32"] else exact
        return True


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._plan, self._graph = engine.plan, engine.model.graph

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format == LayerInformationFormat.JSON
        constants = {tensor.name: tensor for tensor in self._graph.initializer}
        producers = {output: node for node in self._graph.node for output in node.output}
        layers = []
        for node in self._graph.node:
            if node.op_type == "Cast":
                layers.append(self._layer(node.name, None))
            elif node.op_type in ("Conv", "Gemm"):
                source = producers.get(node.input[1])
                quantized = source is not None and source.op_type == "DequantizeLinear"
                weights = constants[source.input[0] if quantized else node.input[1]]
                layers.append(self._layer(node.name, weights))
        return json.dumps({"Layers": layers})

    def _layer(self, name: str, weights: onnx.TensorProto | None) -> dict | str:
        if not self._plan["detailed"]:
            return name
        layer = {"Name": name, "Outputs": [{"Format/Datatype": "Row major linear FP32 format"}]}
        if weights is not None:
            names = {onnx.TensorProto.FLOAT16: "Half", onnx.TensorProto.INT8: "Int8"}
            kind = names.get(weights.data_type, "Float") if self._plan["typed"] else "Float"
            layer["Weights"] = {"Type": kind, "Count": math.prod(weights.dims)}
        return layer
