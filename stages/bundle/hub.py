"""Write the front matter of a model card for public model hubs."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_TASK = "image-classification"
#: Common licences that the hub knows, by SPDX id in lower case, without -only.
_HUB_LICENSES = re.compile(
    r"apache-2\.0|mit|isc|zlib|unlicense|bsd-[23]-clause|mpl-2\.0|epl-[12]\.0|artistic-2\.0"
    r"|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-4\.0|cdla-permissive-[12]\.0|[al]?gpl-3\.0|gpl-2\.0|lgpl-2\.1"
)


class DataSet(NamedTuple):
    """``data.source`` in the form to publish."""

    name: str  # without folders of the training machine
    hub_id: str | None = None  # None if it is not from the hub
    revision: str | None = None


def data_set(source: str) -> DataSet:
    """Parse ``data.source``; a local folder takes precedence over an id of the hub."""
    scheme, _, location = source.partition(":")
    if scheme == "torchvision":
        return DataSet(location.partition(":")[0])
    name, _, revision = location.partition("@")
    if scheme == "hf" and _HUB_ID.fullmatch(name) and not Path(location).is_dir():
        return DataSet(name, name, revision or None)
    return DataSet(Path(location).name or scheme)


def front_matter(summary: dict[str, Any], packaged: Iterable[str], license_: str | None) -> str:
    """Return the front matter with its dashes; ``license_`` is the model's SPDX expression."""
    exports = {precision: summary["exports"][precision] for precision in packaged}
    student, data = summary["student"], data_set(summary["data"]["source"])
    method = [] if student["method"] == "scratch" else ["knowledge-distillation", student["method"]]
    quantized = ["int8"] if any(name.startswith("int8") for name in exports) else []
    results = [
        EvalResult(
            task_type=_TASK,
            dataset_type=data.hub_id or re.sub(r"[^a-z0-9]+", "-", data.name.lower()),
            dataset_name=data.name,
            dataset_split="test",
            dataset_revision=data.revision,
            metric_type="accuracy",
            metric_name=f"Top-1 accuracy, {precision}",
            metric_value=round(export["accuracy"], 6),
        )
        for precision, export in exports.items()
        if export["accuracy"] is not None
    ]
    license_id, license_name = _license(license_)
    card = ModelCardData(
        license=license_id,
        license_name=license_name,
        library_name="onnx",
        pipeline_tag=_TASK,
        datasets=[data.hub_id] if data.hub_id else None,
        metrics=["accuracy"],
        tags=["onnxruntime", student["network"], *method, *quantized],
        model_name=student["network"],
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---\n"


def _license(expression: str | None) -> tuple[str, str | None]:
    """Return the hub's identifier, and a name if that is ``other``."""
    if expression is None:
        return "unknown", None
    name = expression.lower().removesuffix("-only").removesuffix("-or-later")
    if _HUB_LICENSES.fullmatch(name):
        return name, None
    return "other", re.sub(r"[^a-z0-9.]+", "-", expression.lower())
