"""The student as ONNX: dynamic and static models per precision, and the golden batch beside them.

Two exports of one student are byte-identical, and no file has a trace of where it was made. A
precision that a student cannot be brought to is left out with its reason; fp32, which all are made
of, ends the stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxruntime.quantization import TensorsData
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops.core import aten_mean_dim
from torch import nn

from models.errors import InputError
from models.networks.backbone import Backbone
from models.networks.checkpoint import load_network
from stages.data.arrays import DataSet, load_data
from stages.entry import run_stage
from stages.files import new_folder, sha256, write_json
from stages.params import Params
from stages.progress import track
from stages.quantization.images import calibration_images
from stages.quantization.int8 import calibrate, quantize
from stages.runtimes.base import Job
from stages.runtimes.exported import ONNX_FOLDER, SHAPES
from stages.runtimes.torch_runtime import DeployedNetwork, run_torch
from stages.sections.export import Export

STUDENT = Path("artifacts/student/model.safetensors")

#: The newest that onnxruntime 1.19 reads, the last for Python 3.8.
MAX_IR_VERSION = 10
_REASON = 300  # characters of a library's message that are kept


def main(params: Params) -> None:
    data, export = load_data(), params.export
    network = load_network(STUDENT)
    if network.num_classes != len(data.classes):
        raise InputError(
            f"{STUDENT}: gives {network.num_classes} logits where {data.folder} has"
            f" {len(data.classes)} classes; run `dvc repro` to train the student on these data"
        )
    facts = {
        "network": network.name,
        "classes": json.dumps(data.classes, ensure_ascii=False),
        "mean": json.dumps(data.mean),
        "std": json.dumps(data.std),
        "student_sha256": sha256(STUDENT),
    }
    models = _Models(data, export)
    with new_folder(ONNX_FOLDER) as folder:
        golden = folder / "golden.npz"
        images, logits, labels = golden_batch(network, data, export.golden_images)
        _note_fewer("golden", export.golden_images, images)
        _note_fewer("calibration", export.calibration_images, models.calibration)
        np.savez(golden, images=images, logits=logits, labels=labels)
        (folder / "labels.json").write_text(
            json.dumps(data.classes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        files: dict[str, dict[str, Any]] = {}
        failed: dict[str, str] = {}
        for precision in track(export.precisions, "export"):
            try:
                contents = models.serialized(precision, facts)
            except Exception as error:  # onnxruntime's and torch's share no other base class
                if precision == "fp32":
                    raise
                message = shorten(str(error), _REASON, placeholder=" ...")
                failed[precision] = f"not exported ({type(error).__name__}: {message})"
                print(f"export: {precision} is left out: {failed[precision]}", flush=True)
                continue
            files[precision] = {}
            for shape, content in contents.items():
                path = folder / f"{precision}.{shape}.onnx"
                path.write_bytes(content)
                files[precision][shape] = _entry(path) | {"bytes": len(content)}
        description = {
            "network": network.name,
            "num_classes": network.num_classes,
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
            "opset": export.opset,
            "ir_version": models.float32["static"].ir_version,
            "input": "images",
            "output": "logits",
            "student_sha256": facts["student_sha256"],
            "files": files,
            "failed": failed,
            "calibration": {
                "method": export.calibration_method,
                "images": len(models.calibration),
            },
            "golden": _entry(golden) | {"images": len(images)},
        }
        write_json(folder / "model.json", description)


def _note_fewer(kind: str, wanted: int, taken: npt.NDArray[np.uint8]) -> None:
    if len(taken) < wanted:
        print(f"export.{kind}_images is {wanted}: uses all {len(taken)} images there are")


def _entry(path: Path) -> dict[str, Any]:
    return {"path": path.name, "sha256": sha256(path)}


class _Models:
    """The student's models by precision, each with a dynamic and with a static batch."""

    def __init__(self, data: DataSet, export: Export) -> None:
        self.data, self.export = data, export
        self.calibration = calibration_images(data, export.calibration_images)

    def serialized(self, precision: str, facts: Mapping[str, str]) -> dict[str, bytes]:
        """The files' contents by shape, with ``facts`` and how they were made as metadata."""
        own = {**facts, "precision": precision}
        if precision == "fp32":
            models = self.float32
        elif precision == "fp16":
            models = self._in_floats(torch.float16)
        else:
            own["made_by"] = "calibration"
            models = {
                shape: quantize(model, precision, self._ranges[shape])
                for shape, model in self.float32.items()
            }
        return {shape: finish(model, self.export.opset, own) for shape, model in models.items()}

    @cached_property
    def float32(self) -> dict[str, onnx.ModelProto]:
        return self._in_floats(torch.float32)

    def _in_floats(self, dtype: torch.dtype) -> dict[str, onnx.ModelProto]:
        models = {}
        for shape in SHAPES:
            # load_network again: the wrapper changes the network's dtype in place.
            deployed = DeployedNetwork(load_network(STUDENT), self.data.mean, self.data.std, dtype)
            models[shape] = export_network(deployed, self.data.image_size, self.export.opset, shape)
        return models

    @cached_property
    def _ranges(self) -> dict[str, TensorsData]:
        method = self.export.calibration_method
        return {
            shape: calibrate(model, self.calibration, method)
            for shape, model in self.float32.items()
        }


def golden_batch(network: Backbone, data: DataSet, count: int) -> tuple[npt.NDArray[Any], ...]:
    """The first ``count`` test images or all, torch's float32 logits, and the labels."""
    test = data.split("test")
    images = np.ascontiguousarray(test.images[:count])
    logits = run_torch(DeployedNetwork(network, data.mean, data.std).eval(), Job(images, count))
    return images, logits, np.ascontiguousarray(test.labels[:count])


def export_network(network: nn.Module, image_size: int, opset: int, shape: str) -> onnx.ModelProto:
    """A module that takes uint8 ``[B, H, W, 3]`` as ONNX, with a ``dynamic`` or ``static`` batch.

    The static batch is 1.
    """
    dynamic = shape == "dynamic"
    # A batch of 1 would be taken for a constant.
    example = torch.zeros(2 if dynamic else 1, image_size, image_size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        network.eval(),
        (example,),
        dynamo=True,
        external_data=False,
        opset_version=opset,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},) if dynamic else None,
        custom_translation_table={torch.ops.aten.mean.dim: _mean},
        verbose=False,
    )
    if program is None:  # only without dynamo
        raise AssertionError("torch.onnx.export returned no program")
    return program.model_proto


def _mean(value: Any, dim: Any, keepdim: bool = False, dtype: int = -1) -> Any:
    """``aten.mean.dim``, with feature maps ``[B, C, H, W]`` pooled by the operator for that.

    onnxruntime has kernels of it for int8 and for the layout of its convolutions; for ReduceMean,
    which torch's exporter writes, it has neither.
    """
    if dtype == -1 and len(value.shape) == 4 and sorted(d % 4 for d in dim or ()) == [2, 3]:
        pooled = opset18.GlobalAveragePool(value)
        return pooled if keepdim else opset18.Flatten(pooled)
    return aten_mean_dim(value, dim, keepdim, dtype)


def finish(model: onnx.ModelProto, opset: int, facts: Mapping[str, str]) -> bytes:
    """The bytes to write: without build paths, with ``facts`` as metadata, and checked."""
    strip_metadata(model)
    onnx.helper.set_model_props(model, dict(facts))
    used = {node.domain for node in model.graph.node}
    opsets = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    honoured = {entry.domain: entry.version for entry in opsets}
    # The exporter writes another opset than was asked for without saying so.
    if honoured != {"": opset}:
        raise AssertionError(f"opset {opset} was asked for, {honoured} was written")
    if model.ir_version > MAX_IR_VERSION:
        raise AssertionError(f"IR version {model.ir_version} is too new for older runtimes")
    onnx.checker.check_model(model, full_check=True)
    # The checker alone does not see float16 meet float32.
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes on every part: the stack traces hold this machine's paths."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    for part in [model, graph, *graph.node, *values, *graph.initializer]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


if __name__ == "__main__":
    run_stage(main)
