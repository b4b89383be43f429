"""Build a TensorRT engine from an ONNX file, run it and time it, with TensorRT 10.3 to 11.

``python -m stages.runtimes.tensorrt_engine`` verifies that TensorRT starts here. With a FOLDER, it
reads ``request.json`` from it, ``{"model", "jobs", "timing"}``, and writes ``logits<i>.npy`` for
the i-th job, and ``execution.json``. A job has the ``path`` of a ``.npy`` file of images, their
``count`` and ``size``, and ``batch_size``.

The ONNX file sets the precision: the network is strongly typed, as version 11 requires.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt as trt
import torch

from stages.data.arrays import ImageFile
from stages.runtimes.base import Job

DEVICE = "cuda"
_OLDEST, _TOO_NEW = (10, 3), (12, 0)
_WORKSPACE_BYTES = 1 << 30
_TORCH_DTYPES = {"FLOAT": torch.float32, "UINT8": torch.uint8}


class EngineError(Exception):
    """TensorRT did not start, or rejected the model or failed to run it."""


def start(logger: trt.ILogger) -> trt.Builder:
    """Create a builder, which succeeds only if TensorRT works with the GPU and its driver.

    Raises:
        EngineError: it fails, or this version is not supported.
    """
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if not _OLDEST <= version < _TOO_NEW:
        raise EngineError(f"TensorRT {trt.__version__} is installed; 10.3 to 11 are supported")
    try:
        return trt.Builder(logger)
    except TypeError:  # the bindings' reaction to a null pointer
        raise EngineError(
            f"TensorRT {trt.__version__} does not work with this GPU or its driver"
        ) from None


def build_plan(builder: trt.Builder, model: Path, max_batch: int, logger: trt.ILogger) -> Any:
    """Build the serialized engine of an ONNX file, a buffer despite its type.

    Raises:
        EngineError: the parser or the builder rejects it.
    """
    # Version 10 needs the flag, 11 ignores it; its value differs between them.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError("the ONNX parser rejects the model: " + "; ".join(errors))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    # On by default, and too coarse to compare with float32.
    config.clear_flag(trt.BuilderFlag.TF32)
    # The inspector names formats only at this verbosity.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    images = network.get_input(0)
    batch, *image_shape = images.shape[:]  # a tuple
    if batch == -1:
        profile = builder.create_optimization_profile()
        least, most = [1, *image_shape], [max_batch, *image_shape]
        profile.set_shape(images.name, trt.Dims(least), trt.Dims(most), trt.Dims(most))
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"the builder rejects batches of 1 to {max_batch}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("the builder produced no engine")
    return plan


class Engine:
    """A loaded engine with one input and one output, on its own stream."""

    def __init__(self, plan: Any, logger: trt.ILogger) -> None:
        self._runtime = trt.Runtime(logger)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"TensorRT {trt.__version__} cannot load the engine that it built")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError("the engine does not start; the GPU may be out of memory")
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._before = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._after = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        names = [
            self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)
        ]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        (self._input,) = (name for name in names if modes[name] == trt.TensorIOMode.INPUT)
        (self._output,) = (name for name in names if modes[name] == trt.TensorIOMode.OUTPUT)
        #: Whether the model takes only batches of one size.
        self.static = -1 not in self._engine.get_tensor_shape(self._input)[:]

    def run(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], float]:
        """Return logits ``[B, K]`` of images ``[B, H, W, 3]``, and the GPU's time in ms.

        Raises:
            EngineError: a shape or address was rejected, or the launch failed.
        """
        given = torch.from_numpy(np.ascontiguousarray(images)).to(DEVICE)
        if given.dtype != self._dtype(self._input):
            raise EngineError(f"the engine rejects {given.dtype} for {self._input}")
        if not self._context.set_input_shape(self._input, tuple(given.shape)):
            raise EngineError(f"the engine rejects the shape {tuple(given.shape)}")
        if missing := self._context.infer_shapes():
            raise EngineError(f"unknown shape of {', '.join(missing)}")
        shape = self._context.get_tensor_shape(self._output)[:]
        logits = torch.empty(shape, dtype=self._dtype(self._output), device=DEVICE)
        for name, tensor in ((self._input, given), (self._output, logits)):
            if not self._context.set_tensor_address(name, tensor.data_ptr()):
                raise EngineError(f"the engine rejects the address of {name}")
        self._stream.wait_stream(torch.cuda.current_stream())  # the copy above
        self._before.record(self._stream)
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise EngineError("the launch failed")
        self._after.record(self._stream)
        self._stream.synchronize()
        result: npt.NDArray[np.float32] = logits.cpu().numpy()
        return result, float(self._before.elapsed_time(self._after))

    def _dtype(self, name: str) -> torch.dtype | None:
        return _TORCH_DTYPES.get(self._engine.get_tensor_dtype(name).name)

    def measure(
        self, images: npt.NDArray[np.uint8], min_runs: int, min_seconds: float, max_runs: int
    ) -> dict[str, list[float]]:
        """Time at least ``min_runs`` runs over ``min_seconds``, at most ``max_runs``.

        ``gpu_ms`` runs from launch to end on the GPU, ``wall_ms`` from images to logits in the
        host's memory. Launching a small network takes longer than running it.
        """
        times: dict[str, list[float]] = {"gpu_ms": [], "wall_ms": []}
        end = time.perf_counter() + min_seconds
        runs = 0
        while runs < max_runs and (runs < min_runs or time.perf_counter() < end):
            begin = time.perf_counter_ns()
            _, gpu_ms = self.run(images)
            times["wall_ms"].append((time.perf_counter_ns() - begin) / 1e6)
            times["gpu_ms"].append(gpu_ms)
            runs += 1
        return times

    def layers(self) -> list[Any]:
        inspector = self._engine.create_engine_inspector()
        information = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        layers: list[Any] = json.loads(information).get("Layers", [])
        return layers


def execute(folder: Path, builder: trt.Builder, logger: trt.ILogger) -> None:
    """Execute ``request.json`` in the folder; a static model is also timed."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    jobs = [
        Job(ImageFile(Path(job["path"]), job["size"]).first(job["count"]), job["batch_size"])
        for job in request["jobs"]
    ]
    max_batch = max(job.batch_size for job in jobs)
    engine = Engine(build_plan(builder, Path(request["model"]), max_batch, logger), logger)
    for index, job in enumerate(jobs):
        logits = np.concatenate([engine.run(batch)[0] for batch in job.batches()])
        np.save(folder / f"logits{index}.npy", logits)
    times = None
    if engine.static:
        timing, first = request["timing"], next(jobs[0].batches())
        engine.measure(first, timing["warmup_runs"], timing["warmup_seconds"], sys.maxsize)
        times = engine.measure(first, timing["min_runs"], timing["min_seconds"], timing["max_runs"])
    execution = {
        "provider": torch.cuda.get_device_name(),
        "layers": engine.layers(),
        "times": times,
    }
    (folder / "execution.json").write_text(json.dumps(execution), encoding="utf-8")


def main() -> None:
    logger = trt.Logger(trt.Logger.Severity.ERROR)
    try:
        builder = start(logger)
        for folder in sys.argv[1:]:
            execute(Path(folder), builder, logger)
    except EngineError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
