"""Build a TensorRT engine from an ONNX file and run it; one path for TensorRT 10.3 to 11.

``python -m stages.runtimes.tensorrt_engine MODEL FOLDER BATCH_SIZE...`` reads ``images<i>.npy``
from the folder and writes ``logits<i>.npy`` for the i-th batch size, and ``execution.json``.
Precision lives in the ONNX file: the network is strongly typed, which is all that version 11 knows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt as trt
import torch

from stages.data.arrays import ImageFile
from stages.runtimes.base import Job

_WORKSPACE_BYTES = 1 << 30
_TORCH_DTYPES = {"FLOAT": torch.float32, "UINT8": torch.uint8}


class EngineError(Exception):
    """TensorRT did not take or run the model."""


def build_plan(model: Path, max_batch: int, logger: Any) -> Any:
    """The serialized engine of an ONNX file.

    Raises:
        EngineError: the parser or the builder refuses it.
    """
    builder = trt.Builder(logger)
    # Version 11 ignores the flag; in 10 it gives the same behaviour. Its value differs.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError("the ONNX parser refuses the model: " + "; ".join(errors))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    # On by default, and too coarse to be compared with float32.
    config.clear_flag(trt.BuilderFlag.TF32)
    # Without it the inspector does not name the formats.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    images = network.get_input(0)
    batch, *image_shape = tuple(images.shape)
    if batch == -1:
        profile = builder.create_optimization_profile()
        least, most = (1, *image_shape), (max_batch, *image_shape)
        profile.set_shape(images.name, trt.Dims(least), trt.Dims(most), trt.Dims(most))
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"the builder refuses batches of 1 to {max_batch}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("the builder made no engine")
    return plan


class Engine:
    """A loaded engine with one input and one output, on a stream of its own."""

    def __init__(self, plan: Any, logger: Any) -> None:
        self._runtime = trt.Runtime(logger)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"TensorRT {trt.__version__} does not load the engine that it built")
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        names = [
            self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)
        ]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        (self._input,) = (name for name in names if modes[name] == trt.TensorIOMode.INPUT)
        (self._output,) = (name for name in names if modes[name] == trt.TensorIOMode.OUTPUT)

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Logits ``[B, K]`` of one batch of images ``[B, H, W, 3]``.

        Raises:
            EngineError: a shape, an address or the launch was refused.
        """
        given = torch.from_numpy(np.ascontiguousarray(images)).to("cuda")
        if given.dtype != self._dtype(self._input):
            raise EngineError(f"the engine does not take {given.dtype} for {self._input}")
        if not self._context.set_input_shape(self._input, tuple(given.shape)):
            raise EngineError(f"the engine does not take the shape {tuple(given.shape)}")
        if missing := self._context.infer_shapes():
            raise EngineError(f"no shape is known for {', '.join(missing)}")
        shape = tuple(self._context.get_tensor_shape(self._output))
        logits = torch.empty(shape, dtype=self._dtype(self._output), device="cuda")
        for name, tensor in ((self._input, given), (self._output, logits)):
            if not self._context.set_tensor_address(name, tensor.data_ptr()):
                raise EngineError(f"the address of {name} is refused")
        self._stream.wait_stream(torch.cuda.current_stream())  # the copy above
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise EngineError("the launch failed")
        self._stream.synchronize()
        result: npt.NDArray[np.float32] = logits.cpu().numpy()
        return result

    def _dtype(self, name: str) -> torch.dtype | None:
        return _TORCH_DTYPES.get(self._engine.get_tensor_dtype(name).name)

    def layers(self) -> list[Any]:
        """What the inspector says of each layer."""
        inspector = self._engine.create_engine_inspector()
        information = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        layers: list[Any] = json.loads(information).get("Layers", [])
        return layers


def main() -> None:
    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    jobs = [
        Job(ImageFile(folder / f"images{index}.npy"), int(size))
        for index, size in enumerate(sys.argv[3:])
    ]
    logger = trt.Logger(trt.Logger.Severity.ERROR)
    try:
        engine = Engine(build_plan(model, max(job.batch_size for job in jobs), logger), logger)
        for index, job in enumerate(jobs):
            logits = np.concatenate([engine.run(batch) for batch in job.batches()])
            np.save(folder / f"logits{index}.npy", logits)
    except EngineError as error:
        sys.exit(str(error))
    execution = {"provider": torch.cuda.get_device_name(), "layers": engine.layers()}
    (folder / "execution.json").write_text(json.dumps(execution), encoding="utf-8")


if __name__ == "__main__":
    main()
