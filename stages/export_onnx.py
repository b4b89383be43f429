"""The student as ONNX: dynamic and static models per precision, and the golden batch beside them.

Two exports of one student are byte-identical, and no file has a trace of where it was made. A
precision that a student cannot be brought to is left out with its reason; fp32, which all are made
of, ends the stage.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
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
from stages.quantization.int8 import Int8Maker
from stages.runtimes.base import Job
from stages.runtimes.exported import ONNX_FOLDER, SHAPES
from stages.runtimes.torch_runtime import DeployedNetwork, run_torch

STUDENT = Path("artifacts/student/model.safetensors")

#: The newest that onnxruntime 1.19 reads, the last for Python 3.8.
MAX_IR_VERSION = 10
_REASON = 300  # characters of a library's message that are kept
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def main(params: Params) -> None:
    data = load_data()
    network = load_network(STUDENT)
    if network.num_classes != len(data.classes):
        raise InputError(
            f"{STUDENT}: gives {network.num_classes} logits where {data.folder} has"
            f" {len(data.classes)} classes; run `dvc repro` to train the student on these data"
        )
    calibration = calibration_images(data, params.export.calibration_images)
    facts = {
        "network": network.name,
        "classes": json.dumps(data.classes, ensure_ascii=False),
        "mean": json.dumps(data.mean),
        "std": json.dumps(data.std),
        "student_sha256": sha256(STUDENT),
    }
    opset = params.export.opset
    with new_folder(ONNX_FOLDER) as folder, tempfile.TemporaryDirectory() as scratch:
        golden = folder / "golden.npz"
        images, logits, labels = golden_batch(network, data, params.export.golden_images)
        for what, wanted, taken in (
            ("golden", params.export.golden_images, images),
            ("calibration", params.export.calibration_images, calibration),
        ):
            if len(taken) < wanted:
                print(f"export.{what}_images is {wanted}: uses all {len(taken)} images there are")
        np.savez(golden, images=images, logits=logits, labels=labels)
        (folder / "labels.json").write_text(
            json.dumps(data.classes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        files: dict[str, dict[str, Any]] = {}
        failed: dict[str, str] = {}
        quantization: dict[str, dict[str, Any]] = {}
        float32 = _in_floats("fp32", data, opset)
        int8 = Int8Maker(float32, STUDENT, calibration, data, params, Path(scratch))
        for precision in track(params.export.precisions, "export"):
            own = facts | {"precision": precision}
            how: dict[str, Any] = {}
            try:
                if precision == "fp32":
                    models = float32
                elif precision in _DTYPES:
                    models = _in_floats(precision, data, opset)
                else:
                    models, how = int8.make(precision)
                    own |= {"made_by": how["made_by"]}
                contents = {shape: finish(models[shape], opset, own) for shape in SHAPES}
            except InputError:
                raise
            except Exception as error:  # onnxruntime's and torch's share no other base class
                if precision == "fp32":
                    raise
                message = shorten(str(error), _REASON, placeholder=" ...")
                failed[precision] = f"not exported ({type(error).__name__}: {message})"
                print(f"export: {precision} is left out: {failed[precision]}", flush=True)
                continue
            if how:
                quantization[precision] = how
            files[precision] = {}
            for shape in SHAPES:
                path = folder / f"{precision}.{shape}.onnx"
                path.write_bytes(contents[shape])
                entry = {"path": path.name, "sha256": sha256(path), "bytes": path.stat().st_size}
                files[precision][shape] = entry
        description = {
            "network": network.name,
            "num_classes": network.num_classes,
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
            "opset": params.export.opset,
            "ir_version": float32["static"].ir_version,
            "input": "images",
            "output": "logits",
            "student_sha256": facts["student_sha256"],
            "files": files,
            "failed": failed,
            "quantization": quantization,
            "golden": {
                "path": golden.name,
                "sha256": sha256(golden),
                "images": len(images),
            },
        }
        write_json(folder / "model.json", description)


def _in_floats(precision: str, data: DataSet, opset: int) -> dict[str, onnx.ModelProto]:
    """The student in fp32 or fp16, by shape."""
    models = {}
    for shape in SHAPES:
        # load_network again: the wrapper changes the network's dtype in place.
        network = load_network(STUDENT)
        deployed = DeployedNetwork(network, data.mean, data.std, _DTYPES[precision])
        models[shape] = export_network(deployed, data.image_size, opset, shape)
    return models


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
