"""TensorRT, always in a separate process, so that a crash is just another result.

Only :mod:`stages.runtimes.tensorrt_engine` imports ``tensorrt``.
"""

import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.errors import InputError
from stages.data.arrays import ImageFile
from stages.runtimes.base import Execution, Job, RuntimeFailureError, Times
from stages.runtimes.process import run_process
from stages.runtimes.versions import version_of
from stages.sections.export import Profile, Validate

# The engine inspector's spellings of formats.
_INSPECTOR_DTYPES = {
    **dict.fromkeys(("float", "fp32"), "float32"),
    **dict.fromkeys(("half", "fp16"), "float16"),
    **dict.fromkeys(("bfloat16", "bf16"), "bfloat16"),
    **{name: name for name in ("int8", "int32", "int64", "uint8", "bool")},
}


class TensorRtRuntime:
    """As :class:`stages.runtimes.base.Runtime`, on the first NVIDIA GPU."""

    name = "tensorrt"
    # TensorRT supports only symmetric int8.
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8_s8s8")

    def __init__(
        self,
        command: Sequence[str] = (sys.executable, "-m", "stages.runtimes.tensorrt_engine"),
        timing: Profile | None = None,
    ) -> None:
        self.command = tuple(command)
        self.timing = timing or Profile()

    def version(self) -> str | None:
        return version_of(self.name)

    def unavailable(self) -> str | None:
        """Return why it cannot run here; None if it can."""
        # Check the GPU first: without one, TensorRT may crash after its import.
        if not torch.cuda.is_available():
            return "no NVIDIA GPU that torch can use"
        if importlib.util.find_spec("tensorrt") is None:
            return "TensorRT is not installed (pip install 'ackd[tensorrt]')"
        try:
            run_process(self.command)
        except RuntimeFailureError as error:
            return f"TensorRT does not start: its process {error}"
        return None

    def left_out(self, settings: Validate) -> str | None:
        """Return why TensorRT is skipped; None if it is not.

        Raises:
            InputError: it is required but cannot run here.
        """
        if settings.tensorrt == "off":
            return "validate.tensorrt is off"
        absent = self.unavailable()
        if settings.tensorrt == "required" and absent:
            raise InputError(
                f"params.yaml: validate.tensorrt is required, but {absent}; set it to auto or off"
            )
        return absent

    def run(self, model: Path, jobs: Sequence[Job]) -> Execution:
        with tempfile.TemporaryDirectory() as folder:
            described = []
            for index, (images, batch_size) in enumerate(jobs):
                if isinstance(images, ImageFile):  # read where it is, as it may be large
                    path = images.path
                else:
                    path = Path(folder, f"images{index}.npy")
                    np.save(path, images)
                count, size = images.shape[:2]
                described.append(
                    {"path": str(path), "count": count, "size": size, "batch_size": batch_size}
                )
            request = {
                "model": str(model),
                "jobs": described,
                "timing": self.timing.model_dump(),
            }
            Path(folder, "request.json").write_text(json.dumps(request), encoding="utf-8")
            run_process([*self.command, folder])
            ran = json.loads(Path(folder, "execution.json").read_text(encoding="utf-8"))
            logits = [
                np.load(Path(folder, f"logits{index}.npy"), allow_pickle=False)
                for index in range(len(jobs))
            ]
        return Execution(
            logits,
            ran["provider"],
            weight_dtypes(ran["layers"]),
            layers_by_dtype(ran["layers"]),
            Times(**ran["times"]) if ran["times"] else None,
        )


def layers_by_dtype(layers: list[Any]) -> dict[str, list[str]]:
    """Group the names of all layers by the format of their weights, or else of their outputs.

    Several formats are joined by ``", "``; a layer without any is ``unknown``.
    """
    found: dict[str, list[str]] = {}
    for layer in layers:
        details = layer if isinstance(layer, dict) else {"Name": layer}
        dtypes = _dtypes([_of_weights(details)]) or _dtypes(_of_outputs(details))
        found.setdefault(", ".join(dtypes) or "unknown", []).append(str(details.get("Name", "")))
    return {dtype: found[dtype] for dtype in sorted(found)}


def weight_dtypes(layers: list[Any]) -> list[str]:
    """Return the formats of the layers' weights, or of their outputs if no weights' are stated."""
    detailed = [layer for layer in layers if isinstance(layer, dict)]
    return _dtypes([_of_weights(layer) for layer in detailed]) or _dtypes(
        [text for layer in detailed for text in _of_outputs(layer)]
    )


def _of_weights(layer: dict[str, Any]) -> str:
    return str(layer.get("Weights", {}).get("Type", ""))


def _of_outputs(layer: dict[str, Any]) -> list[str]:
    outputs = layer.get("Outputs", [])
    return [str(output.get("Datatype", output.get("Format/Datatype", ""))) for output in outputs]


def _dtypes(texts: list[str]) -> list[str]:
    words = {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}
    return sorted({_INSPECTOR_DTYPES[word] for word in words if word in _INSPECTOR_DTYPES})
