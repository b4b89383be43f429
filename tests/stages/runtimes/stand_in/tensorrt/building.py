"""From an ONNX file to a plan, which is that file and what was asked of the builder."""

import json
import os

import onnx

from .names import (
    MAJOR,
    BuilderFlag,
    DataType,
    Dims,
    ILogger,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    described,
)


class ITensor:
    def __init__(self, name: str, shape: Dims) -> None:
        self.name, self.shape = name, shape


class INetworkDefinition:
    def __init__(self, strongly_typed: bool) -> None:
        self._strongly_typed = strongly_typed
        self._model: onnx.ModelProto | None = None

    def get_input(self, index: int) -> ITensor:
        return ITensor(*described(self._model.graph.input[index])[:2])


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self._errors: list[str] = []

    def parse_from_file(self, model: str) -> bool:
        try:
            loaded = onnx.load(model)
            onnx.checker.check_model(loaded)
        except Exception as error:
            return self._refuse(f"Failed to parse the model: {error}")
        graph = loaded.graph
        bytes_in = {i.name for i in graph.input if described(i)[2] == DataType.UINT8}
        if any(bytes_in & set(node.input) for node in graph.node if node.op_type != "Cast"):
            return self._refuse("UINT8 is taken by a Cast alone")
        self._network._model = loaded
        return True

    def _refuse(self, reason: str) -> bool:
        self._errors.append(f"In node -1 with name:  and operator:  (parseGraph): {reason}")
        self._logger.log(ILogger.Severity.ERROR, f"ModelImporter: {reason}")
        return False

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> str:
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
        return INetworkDefinition(strongly_typed=MAJOR > 10 or bool(flags & flag))

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None:
        shapes = config._profile._shapes if config._profile else {}
        for value in network._model.graph.input:
            name, shape, _ = described(value)
            if -1 in shape[:] and name not in shapes:
                reason = "Network has dynamic inputs, but no optimization profile has been defined."
                self._logger.log(ILogger.Severity.ERROR, reason)
                return None
        plan = {
            "model": network._model.SerializeToString().hex(),
            "shapes": {name: [list(dims) for dims in shapes[name]] for name in shapes},
            "detailed": config.profiling_verbosity == ProfilingVerbosity.DETAILED,
            "typed": network._strongly_typed,
            "tf32": BuilderFlag.TF32 in config._flags,
        }
        return json.dumps(plan).encode()
