"""A TensorRT without a GPU: what stages.runtimes.tensorrt_engine uses of it, on onnxruntime.

It refuses what TensorRT refuses, answers with False, None or a negative number as that does, and
logs the reason to the standard output. ``STAND_IN_TENSORRT`` is the version that it is: 10.x, in
which only a strongly typed network keeps the precision of its file, or 11.x, which knows no other.
test_tensorrt_types.py holds its names and parameters against the real ones.
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


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    UINT8 = 5


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class BuilderFlag(enum.IntEnum):
    TF32 = 6


class ProfilingVerbosity(enum.IntEnum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class LayerInformationFormat(enum.IntEnum):
    ONELINE = 0
    JSON = 1


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1 if _MAJOR == 10 else 0


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    def __init__(self, min_severity: ILogger.Severity = ILogger.Severity.WARNING) -> None:
        self._min_severity = min_severity

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        if severity <= self._min_severity:
            print(f"[11/25/2026-12:00:00] [TRT] [{'FEW'[severity]}] {msg}", flush=True)


class Dims:
    def __init__(self, shape: tuple) -> None:
        self._sizes = tuple(shape)

    def __getitem__(self, arg0: slice) -> tuple:
        return self._sizes[arg0]

    def __len__(self) -> int:
        return len(self._sizes)


class IHostMemory(bytes):
    """Of the real one only the buffer is used, which bytes have too."""


class ITensor:
    def __init__(self, name: str, shape: Dims) -> None:
        self.name, self.shape = name, shape


class ParserError:
    def __init__(self, desc: str) -> None:
        self._desc = desc

    def desc(self) -> str:
        return self._desc

    def __str__(self) -> str:
        return f"In node -1 with name:  and operator:  (parseGraph): {self._desc}"


class INetworkDefinition:
    def __init__(self, strongly_typed: bool) -> None:
        self._strongly_typed = strongly_typed
        self._model: onnx.ModelProto | None = None

    def get_input(self, index: int) -> ITensor:
        return ITensor(*_described(self._model.graph.input[index])[:2])


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    def parse_from_file(self, model: str) -> bool:
        try:
            loaded = onnx.load(model)
            onnx.checker.check_model(loaded)
        except Exception as error:
            return self._refuse(f"Failed to parse the model: {error}")
        graph = loaded.graph
        bytes_in = {i.name for i in graph.input if _described(i)[2] == DataType.UINT8}
        if any(bytes_in & set(node.input) for node in graph.node if node.op_type != "Cast"):
            return self._refuse("UINT8 is taken by a Cast alone")
        self._network._model = loaded
        return True

    def _refuse(self, reason: str) -> bool:
        self._errors.append(ParserError(reason))
        self._logger.log(ILogger.Severity.ERROR, f"ModelImporter: {reason}")
        return False

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Dims, Dims, Dims]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        self._shapes[input] = (min, opt, max)


class IBuilderConfig:
    def __init__(self) -> None:
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self._flags = {BuilderFlag.TF32}
        self._profile: IOptimizationProfile | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool_size > 0

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        for low, opt, high in profile._shapes.values():
            if not all(0 < a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
                return -1
        self._profile = profile
        return 0


class Builder:
    def __init__(self, logger: ILogger) -> None:
        # The bindings' words for a null pointer.
        if os.environ.get("STAND_IN_DRIVER") == "old":
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        flag = 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition(strongly_typed=_MAJOR > 10 or bool(flags & flag))

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        shapes = config._profile._shapes if config._profile else {}
        for value in network._model.graph.input:
            name, shape, _ = _described(value)
            if -1 in shape[:] and name not in shapes:
                reason = "Network has dynamic inputs, but no optimization profile has been defined."
                self._logger.log(ILogger.Severity.ERROR, reason)
                return None
        plan = {
            "version": __version__,
            "model": network._model.SerializeToString().hex(),
            "shapes": {name: [list(dims) for dims in shapes[name]] for name in shapes},
            "detailed": config.profiling_verbosity == ProfilingVerbosity.DETAILED,
            "typed": network._strongly_typed,
            "tf32": BuilderFlag.TF32 in config._flags,
        }
        return IHostMemory(json.dumps(plan).encode())


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        plan = json.loads(bytes(serialized_engine))
        if plan["version"] != __version__:
            self._logger.log(ILogger.Severity.ERROR, "The engine plan file is not compatible.")
            return None
        return ICudaEngine(plan, self._logger)


class ICudaEngine:
    def __init__(self, plan: dict, logger: ILogger) -> None:
        self._plan, self._logger = plan, logger
        self._model = onnx.ModelProto.FromString(bytes.fromhex(plan["model"]))
        graph = self._model.graph
        self._tensors = {
            value.name: (mode, *_described(value)[1:])
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
        tensors = self._engine._tensors
        inputs = [name for name in tensors if tensors[name][0] == TensorIOMode.INPUT]
        return [name for name in inputs if name not in self._shapes]

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


def _described(value: onnx.ValueInfoProto) -> tuple[str, Dims, DataType]:
    """Name, shape with -1 for what varies, and format of an input or output."""
    tensor = value.type.tensor_type
    kinds = {onnx.TensorProto.UINT8: DataType.UINT8, onnx.TensorProto.FLOAT: DataType.FLOAT}
    sizes = (-1 if size.dim_param else size.dim_value for size in tensor.shape.dim)
    return value.name, Dims(sizes), kinds[tensor.elem_type]


def _array_at(address: int, shape: tuple, kind: DataType) -> np.ndarray:
    """The memory of a tensor, to be read and written."""
    element = {DataType.UINT8: ctypes.c_uint8, DataType.FLOAT: ctypes.c_float}[kind]
    pointer = ctypes.cast(address, ctypes.POINTER(element))
    return np.ctypeslib.as_array(pointer, shape=tuple(shape))
