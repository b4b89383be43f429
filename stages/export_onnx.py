"""Stage ``export_onnx``: write dynamic and static models per precision, and the golden batch.

Exports of the same student are byte-identical and have no trace of the machine. A precision that
fails is left out with its reason; only fp32, the source of the others, fails the stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops.core import aten_mean_dim
from onnxscript.optimizer import optimize
from torch import nn

from models.errors import InputError
from models.networks.backbone import Backbone
from models.networks.checkpoint import load_network
from stages.data.arrays import DataSet, load_data
from stages.entry import run_stage
from stages.files import new_folder, sha256, write_json
from stages.params import Params
from stages.progress import track
from stages.quantization.int8 import calibrate, quantize
from stages.quantization.search import Search, Trial, held_back
from stages.runtimes.base import Job
from stages.runtimes.exported import ONNX_FOLDER
from stages.runtimes.torch_runtime import DeployedNetwork, run_torch
from stages.sections.export import Export

STUDENT = Path("artifacts/student/model.safetensors")

#: The newest that onnxruntime 1.19 reads, the last version for Python 3.8.
MAX_IR_VERSION = 10
_REASON = 300  # maximum characters of a library's message


def main(params: Params) -> None:
    data, export = load_data(), params.export
    network = load_network(STUDENT)
    if network.num_classes != len(data.classes):
        raise InputError(
            f"{STUDENT}: the student has {network.num_classes} classes, but {data.folder} has"
            f" {len(data.classes)}; run `dvc repro` to train the student on these data"
        )
    facts = {
        "network": network.name,
        "classes": json.dumps(data.classes, ensure_ascii=False),
        "mean": json.dumps(data.mean),
        "std": json.dumps(data.std),
        "student_sha256": sha256(STUDENT),
    }
    models = _Models(data, export, facts)
    with new_folder(ONNX_FOLDER) as folder:
        golden = _write_golden(folder / "golden.npz", network, data, export.golden_images)
        for kind, wanted, images in (
            ("golden", export.golden_images, golden["images"]),
            ("calibration", export.calibration_images, len(models.calibration)),
        ):
            if images < wanted:
                print(f"export.{kind}_images is {wanted}: using all {images} available images")
        (folder / "labels.json").write_text(
            json.dumps(data.classes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        files, failed = _write_models(folder, models, export.precisions)
        searched = export.int8_max_drop is not None
        ranges = {} if searched else {"method": export.calibration_method}
        description = {
            "network": network.name,
            "num_classes": network.num_classes,
            "image_size": data.image_size,
            # Only a crop cuts off what is around the middle.
            "resize": (params.data.resize if data.fit == "crop" else None) or data.image_size,
            "fit": data.fit,
            "mean": list(data.mean),
            "std": list(data.std),
            "opset": export.opset,
            "ir_version": models.float32["static"].ir_version,
            "input": "images",
            "output": "logits",
            "student_sha256": facts["student_sha256"],
            "files": files,
            "failed": failed,
            "calibration": ranges | {"images": len(models.calibration)},
            "int8": {name: asdict(trial) for name, trial in models.chosen.items()},
            "golden": golden,
        }
        write_json(folder / "model.json", description)


def _write_golden(path: Path, network: Backbone, data: DataSet, count: int) -> dict[str, Any]:
    """Write at most ``count`` test images, torch's float32 logits and the labels."""
    test = data.split("test")
    images = np.ascontiguousarray(test.images[:count])
    logits = run_torch(DeployedNetwork(network, data.mean, data.std).eval(), Job(images, count))
    np.savez(path, images=images, logits=logits, labels=np.asarray(test.labels[:count]))
    return _entry(path) | {"images": len(images)}


def _write_models(
    folder: Path, models: _Models, precisions: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Write the models; return files by precision and shape, and reasons of failed precisions."""
    files: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for precision in track(precisions, "export"):
        try:
            contents = models.serialized(precision)
        except Exception as error:  # onnxruntime's and torch's share no narrower base class
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
    return files, failed


def _entry(path: Path) -> dict[str, Any]:
    return {"path": path.name, "sha256": sha256(path)}


class _Models:
    """The student's models by precision, each with a dynamic and a static batch."""

    def __init__(self, data: DataSet, export: Export, facts: Mapping[str, str]) -> None:
        self.data, self.export, self.facts = data, export, facts
        self.calibration = data.calibration_images(export.calibration_images)
        self.chosen: dict[str, Trial] = {}
        # Cached by method, because both shapes, both precisions and all trials share them.
        self._calibrations = cache(
            lambda method: calibrate(self.float32["dynamic"], self.calibration, method)
        )

    def serialized(self, precision: str) -> dict[str, bytes]:
        """Return the contents of the files by shape, with ``facts`` as metadata."""
        facts = {**self.facts, "precision": precision}
        if precision == "fp32":
            models = self.float32
        elif precision == "fp16":
            models = self._in_floats(torch.float16)
        else:
            facts["made_by"] = "calibration"
            method, in_float = self._choose(precision)
            models = {
                shape: quantize(model, precision, self._calibrations(method), in_float)
                for shape, model in self.float32.items()
            }
        return {shape: finish(model, self.export.opset, facts) for shape, model in models.items()}

    @cached_property
    def float32(self) -> dict[str, onnx.ModelProto]:
        return self._in_floats(torch.float32)

    def _in_floats(self, dtype: torch.dtype) -> dict[str, onnx.ModelProto]:
        # Load again, because the wrapper changes the network's dtype in place.
        deployed = DeployedNetwork(load_network(STUDENT), self.data.mean, self.data.std, dtype)
        dynamic = export_network(deployed, self.data.image_size, self.export.opset)
        return {"dynamic": dynamic, "static": fix_batch(dynamic)}

    def _choose(self, precision: str) -> tuple[str, tuple[str, ...]]:
        """Choose the ranges for ``precision``, and what stays in float."""
        if self._search is None:
            return self.export.calibration_method, ()
        tried = self._search.run(precision, self.export.calibration_method)
        self.chosen[precision] = tried[-1]
        print(f"export: {precision} {self._search.outcome(tried)}", flush=True)
        return tried[-1].ranges, tried[-1].in_float

    @cached_property
    def _search(self) -> Search | None:
        if self.export.int8_max_drop is None:
            return None
        images, labels = held_back(self.data, len(self.calibration))
        model, max_drop = self.float32["dynamic"], self.export.int8_max_drop
        return Search(model, images, labels, max_drop, self._calibrations)


def export_network(network: nn.Module, image_size: int, opset: int) -> onnx.ModelProto:
    """Export a module for uint8 ``[B, H, W, 3]``, with a dynamic batch B."""
    # The exporter would make a batch of 1 constant.
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        network.eval(),
        (example,),
        dynamo=True,
        external_data=False,
        opset_version=opset,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        custom_translation_table={torch.ops.aten.mean.dim: _mean},
        verbose=False,
    )
    assert program is not None  # which it is only without dynamo
    return program.model_proto


def fix_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with B = 1, in which whatever computes shapes is constant.

    It has the nodes that an export of one image has, which takes torch nearly as long again.
    """
    static = onnx.ModelProto()
    static.CopyFrom(model)
    del static.graph.value_info[:]  # inferred again
    for value in [*static.graph.input, *static.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    fixed: onnx.ModelProto = optimize(static)
    return fixed


def _mean(value: Any, dim: Any, keepdim: bool = False, dtype: int = -1) -> Any:
    """Translate ``aten.mean.dim`` to GlobalAveragePool for feature maps ``[B, C, H, W]``.

    For it, onnxruntime has kernels in int8 and in the layout of its convolutions; for ReduceMean,
    which torch's exporter writes, it has none.
    """
    if dtype == -1 and len(value.shape) == 4 and sorted(d % 4 for d in dim or ()) == [2, 3]:
        pooled = opset18.GlobalAveragePool(value)
        return pooled if keepdim else opset18.Flatten(pooled)
    return aten_mean_dim(value, dim, keepdim, dtype)


def finish(model: onnx.ModelProto, opset: int, facts: Mapping[str, str]) -> bytes:
    """Check and serialize a model, with ``facts`` as metadata and without build paths."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    # The exporter's notes have stack traces, which contain this machine's paths.
    for part in [model, graph, *graph.node, *values, *graph.initializer]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.helper.set_model_props(model, dict(facts))
    used = {node.domain for node in graph.node}
    opsets = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    honoured = {entry.domain: entry.version for entry in opsets}
    # The exporter may silently write another opset.
    if honoured != {"": opset}:
        raise AssertionError(f"opset {opset} was requested, but {honoured} was written")
    if model.ir_version > MAX_IR_VERSION:
        raise AssertionError(f"IR version {model.ir_version} is too new for older runtimes")
    onnx.checker.check_model(model, full_check=True)
    # The checker alone misses mixed float16 and float32.
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


if __name__ == "__main__":
    run_stage(main)
