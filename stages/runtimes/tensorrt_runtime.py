"""TensorRT, always in a process of its own, so that a crash inside it is a result like any other.

This side never imports ``tensorrt``; :mod:`stages.runtimes.tensorrt_engine` does.
"""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.data.arrays import write_header
from stages.runtimes.base import Execution, Job, RuntimeFailureError
from stages.runtimes.versions import version_of

# As the engine inspector names them, in its several spellings.
_INSPECTOR_DTYPES = {
    "float": "float32",
    "fp32": "float32",
    "half": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "int8": "int8",
}
#: Building an engine takes minutes at most; what lasts longer hangs.
_TIMEOUT_SECONDS = 1800


class TensorRtRuntime:
    """As :class:`stages.runtimes.base.Runtime`, on the first NVIDIA GPU.

    Args:
        command: starts the process that builds and runs the engine.
    """

    name = "tensorrt"
    # It takes symmetric int8 alone.
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8_s8s8")

    def __init__(
        self, command: Sequence[str] = (sys.executable, "-m", "stages.runtimes.tensorrt_engine")
    ) -> None:
        self.command = tuple(command)

    def version(self) -> str | None:
        return version_of(self.name)

    def unavailable(self) -> str | None:
        # The GPU first: without one, TensorRT may import and then crash.
        if not torch.cuda.is_available():
            return "no NVIDIA GPU that torch can use"
        if importlib.util.find_spec("tensorrt") is None:
            return "TensorRT is not installed (pip install 'ackd[tensorrt]')"
        return None

    def run(self, model: Path, jobs: Sequence[Job]) -> Execution:
        with tempfile.TemporaryDirectory() as folder:
            for index, job in enumerate(jobs):
                _write_images(Path(folder, f"images{index}.npy"), job)
            sizes = [str(job.batch_size) for job in jobs]
            try:
                process = subprocess.run(
                    [*self.command, str(model), folder, *sizes],
                    capture_output=True,
                    text=True,
                    timeout=_TIMEOUT_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise RuntimeFailureError(f"did not end within {_TIMEOUT_SECONDS} s") from None
            if process.returncode != 0:
                raise RuntimeFailureError(_ending(process.returncode, process.stderr))
            said = json.loads(Path(folder, "execution.json").read_text(encoding="utf-8"))
            logits = [
                np.load(Path(folder, f"logits{index}.npy"), allow_pickle=False)
                for index in range(len(jobs))
            ]
        return Execution(logits, said["provider"], layer_dtypes(said["layers"]))


def _write_images(path: Path, job: Job) -> None:
    """As ``np.save``, without holding all images at once."""
    with path.open("wb") as handle:
        write_header(handle, np.uint8, job.images.shape)
        for batch in job.batches():
            handle.write(batch.tobytes())


def _ending(returncode: int, stderr: str) -> str:
    """How the process ended, and the last line that it wrote."""
    if returncode < 0:
        how = f"crashed with {signal.Signals(-returncode).name}"
    else:
        how = f"ended with status {returncode}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return f"{how}: {lines[-1]}" if lines else how


def layer_dtypes(layers: list[Any]) -> list[str]:
    """The formats of the layers' weights, or of their outputs where no layer tells its weights'.

    Args:
        layers: ``Layers`` of the inspector's JSON; without details each is but a name.
    """
    detailed = [layer for layer in layers if isinstance(layer, dict)]
    named = [
        str(layer["Weights"]["Type"]) for layer in detailed if "Type" in layer.get("Weights", {})
    ]
    if not named:
        outputs = [output for layer in detailed for output in layer.get("Outputs", [])]
        named = [
            str(output.get("Datatype", output.get("Format/Datatype", ""))) for output in outputs
        ]
    words = {word for text in named for word in re.findall(r"[a-z0-9]+", text.lower())}
    return sorted({_INSPECTOR_DTYPES[word] for word in words if word in _INSPECTOR_DTYPES})
