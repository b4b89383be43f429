"""LiteRT on the CPU, an optional runtime that is imported only when a file is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import InputError
from stages.machine import cores
from stages.runtimes.base import Execution, Job, RuntimeFailureError
from stages.runtimes.versions import installed_version, version_of
from stages.sections.export import Litert

#: Names of the signature, input and output of every file.
SIGNATURE, INPUT, OUTPUT = "serving_default", "images", "logits"

# What runs, converts and quantises.
_PACKAGES = ("ai-edge-litert", "litert-torch", "litert-converter", "ai-edge-quantizer")
_WITH_WEIGHTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"}


class Session:
    """A loaded model, timed like an onnxruntime session; raises RuntimeFailureError on failure."""

    def __init__(self, model: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        # The interpreter's own errors are RuntimeError and ValueError.
        try:
            self._interpreter = Interpreter(model_path=str(model), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise RuntimeFailureError(" ".join(str(error).split())) from None
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def get_inputs(self) -> list[SimpleNamespace]:
        """Return the one input, with its ``name``."""
        return [SimpleNamespace(name=INPUT)]

    def run(
        self, _outputs: None, feed: Mapping[str, npt.NDArray[np.uint8]]
    ) -> list[npt.NDArray[np.float32]]:
        """Return a list with the logits ``[1, K]`` of an image ``[1, H, W, 3]``."""
        try:
            self._interpreter.set_tensor(self._input, feed[INPUT])
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise RuntimeFailureError(" ".join(str(error).split())) from None
        return [self._interpreter.get_tensor(self._output)]

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return logits ``[N, K]`` of images ``[N, H, W, 3]``, run one by one."""
        return np.concatenate([self.run(None, {INPUT: image[None]})[0] for image in images])

    def provider(self) -> str:
        """Return what computes; LiteRT delegates what it can to XNNPACK."""
        delegated = any(node["op_name"] == "DELEGATE" for node in self._nodes())
        return "XNNPACK" if delegated else "CPU"

    def dtypes(self) -> list[str]:
        """Return the formats in which weights are multiplied, sorted."""
        tensors = {t["index"]: t["dtype"] for t in self._interpreter.get_tensor_details()}
        weights = [n["inputs"][1] for n in self._nodes() if n["op_name"] in _WITH_WEIGHTS]
        return sorted({np.dtype(tensors[index]).name for index in weights})

    def _nodes(self) -> list[dict[str, Any]]:
        # No public method returns this.
        return list(self._interpreter._get_ops_details())


class LiteRtRuntime:
    """As :class:`stages.runtimes.base.Runtime`, for files with batch size 1."""

    name = "litert"
    precisions: tuple[str, ...] = ("fp32", "int8")

    def version(self) -> str | None:
        return version_of(self.name)

    def unavailable(self) -> str | None:
        """Return why models cannot be converted or run here; None if they can."""
        missing = [package for package, version in versions().items() if version is None]
        if not missing:
            return None
        verb = "are" if len(missing) > 1 else "is"
        return f"{', '.join(missing)} {verb} not installed (see docs/how-to-litert.md)"

    def run(self, model: Path, jobs: Sequence[Job]) -> Execution:
        session = Session(model, cores())
        logits = [
            np.concatenate([session.logits(batch) for batch in job.batches()]) for job in jobs
        ]
        return Execution(logits, session.provider(), session.dtypes())


def versions() -> dict[str, str | None]:
    """Return the version of every package that writes or runs files; None if not installed."""
    return {package: installed_version(package) for package in _PACKAGES}


def check_installed(settings: Litert) -> None:
    """Raise InputError if LiteRT is enabled and one of its packages is missing."""
    reason = LiteRtRuntime().unavailable()
    if settings.enabled and reason:
        raise InputError(
            f"params.yaml: litert.enabled is true, but {reason}; install what is missing, or set"
            " litert.enabled to false"
        )
