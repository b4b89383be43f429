"""Enumerations, shapes and the log."""

import enum
import os

import onnx

__version__ = os.environ["STAND_IN_TENSORRT"]
MAJOR = int(__version__.split(".")[0])


class DataType(enum.IntEnum):
    FLOAT = 0
    UINT8 = 5


class TensorIOMode(enum.IntEnum):
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class BuilderFlag(enum.IntEnum):
    TF32 = 6


class ProfilingVerbosity(enum.IntEnum):
    LAYER_NAMES_ONLY = 0
    DETAILED = 2


class LayerInformationFormat(enum.IntEnum):
    JSON = 1


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1 if MAJOR == 10 else 0


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


def described(value: onnx.ValueInfoProto) -> tuple[str, Dims, DataType]:
    """Name, shape with -1 for what varies, and format of an input or output."""
    tensor = value.type.tensor_type
    kinds = {onnx.TensorProto.UINT8: DataType.UINT8, onnx.TensorProto.FLOAT: DataType.FLOAT}
    sizes = (-1 if size.dim_param else size.dim_value for size in tensor.shape.dim)
    return value.name, Dims(sizes), kinds[tensor.elem_type]
