"""The model card of a bundle: what the model is, how good, how fast, and how to run it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stages.bundle.hub import data_set, front_matter
from stages.bundle.making import Making, data_section, environment_section, making_section
from stages.bundle.sbom import RUNNER_LICENSE
from stages.formatting import by_reason, count, origin, percent
from stages.markdown import bullets, plain, section, table
from stages.tables import Table, exports, networks, of_records, processor

#: So many classes are shown whole; of more the weakest and the strongest.
_MANY_CLASSES = 20

_CARD = """\
{front_matter}
# {network}, {origin}

An image classifier with {classes} classes for images of {size}x{size} pixels, trained on {source}
({train} training, {val} validation and {test} test images). It holds no part that only the
training needed.

{networks}

## Files

`*.static.onnx` takes one image at a time, `*.dynamic.onnx` any number; the golden batch is the
{golden} images of `golden.npz`.

{exports}

`sbom.json` (CycloneDX 1.6) lists the files with their SHA-256 and what they need on a device.

## Accuracy by class

{per_class}

## Devices measured

Median and 90th percentile of one image's latency, by the static file.

{devices}

## Data

{data}

## How it was made

{making}

## Environment

{environment}

## Input and output

`{input}`: uint8 `[batch, {size}, {size}, 3]`, RGB, values 0 to 255; scaling and normalisation are
inside the model. `{output}`: float32 `[batch, {classes}]`, one logit for each class of
`labels.json`, in its order. The files need opset {opset} (ONNX IR {ir_version}).

## How to run it

```python
import json, numpy as np, onnxruntime
images = np.load("golden.npz")["images"][:1]
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
logits = session.run(["{output}"], {{"{input}": images}})[0]
print(json.load(open("labels.json", encoding="utf-8"))[logits[0].argmax()])
```

`python runner.py --check` proves on a device that the files are unaltered and that every model
gives torch's answers; it needs Python 3.8 or newer, numpy and onnxruntime.

## Goals

{goals}

## Licence

{licence}

## Not measured

{skipped}
"""


def model_card(
    summary: dict[str, Any],
    description: dict[str, Any],
    goals: Sequence[dict[str, Any]],
    classes: Sequence[dict[str, str]],
    made: Making,
    license_: str | None,
) -> str:
    """The card in Markdown, with the head that model hubs read.

    Args:
        summary: ``reports/summary.json``.
        description: ``model.json`` with the packaged precisions alone.
        goals: those of ``reports/gate.json``; all are met.
        classes: the rows of ``reports/classes.csv``.
        made: how the student came about.
        license_: of the model, an SPDX expression; None where it is not stated.
    """
    data, student = summary["data"], summary["student"]
    packaged = description["files"]
    choice = summary["recommended"]
    shown = choice["precision"] if choice else next(iter(packaged))
    return _CARD.format(
        front_matter=front_matter(summary, packaged, license_),
        network=student["network"],
        origin=origin(summary),
        classes=data["classes"],
        size=data["image_size"],
        source=plain(data_set(data["source"]).name),
        **{split: count(data[split]) for split in ("train", "val", "test")},
        networks=section(networks(summary)),
        exports=section(exports(summary, packaged)),
        golden=description["golden"]["images"],
        **{key: description[key] for key in ("input", "output", "opset", "ir_version")},
        file=description["files"][shown]["static"]["path"],
        per_class=_per_class(classes),
        devices=_devices(summary, packaged),
        data=data_section(made),
        making=making_section(made, summary["proxy"]["network"]),
        environment=environment_section(made),
        goals=bullets(_goal(goal) for goal in goals) or "None were set.",
        licence=_licence(license_),
        skipped=bullets(
            f"{plain(reason)}: {plain(', '.join(what))}"
            for reason, what in by_reason(_skipped(summary)).items()
        )
        or "Nothing is missing.",
    )


def _goal(goal: dict[str, Any]) -> str:
    return f"{goal['goal']} {goal['wanted']:g}: {goal['measured']:.6g} ({goal['of']})"


def _per_class(classes: Sequence[dict[str, str]]) -> str:
    where = "as torch answered; `classes.csv` has every class, and which of its images were right."
    if len(classes) <= _MANY_CLASSES:
        return f"Of the test images, {where}\n\n{_class_table(classes)}"
    present = [one for one in classes if one["images"] != "0"]
    ranked = sorted(present, key=lambda one: float(one["accuracy/student"]))
    half = _MANY_CLASSES // 2
    return "\n\n".join(
        [
            f"Of the test images, {where} The student's {half} weakest of {len(present)} classes:",
            _class_table(ranked[:half]),
            f"Its {half} strongest:",
            _class_table(ranked[-half:][::-1]),
        ]
    )


def _class_table(classes: Sequence[dict[str, str]]) -> str:
    networks = ("teacher", "student")
    rows = [
        [
            one["class"],
            one["images"],
            *(
                percent(float(one[f"accuracy/{n}"])) if one["images"] != "0" else None
                for n in networks
            ),
        ]
        for one in classes
    ]
    return table(Table(["class", "test images", *networks], rows))


def _devices(summary: dict[str, Any], exports: Iterable[str]) -> str:
    """Those of ``profile.devices``: what is measured by hand later leaves the bundle as it is."""
    rows = [
        ([processor(device), f"{device['system']}, {device['runtime']}", precision], row)
        for device in summary["devices"].values()
        for precision, row in device["exports"].items()
        if precision in exports and not device["by_hand"]
    ]
    names = ["device", "system and runtime", "precision"]
    return section(of_records("Devices", names, rows, ["threads", "p50_ms", "p90_ms"]))


def _skipped(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """As the summary's, by the processors of ``profile.devices``, whose URLs are for nobody else.

    What is measured by hand changes nothing here, so that the bundle of a version stays as it is.
    """
    names = {
        url: processor(device)
        for url, device in summary["devices"].items()
        if not device["by_hand"]
    }
    return [
        item | {"device": names.get(item.get("device"))}
        for item in summary["skipped"]
        if item.get("device") in {None, *names}
    ]


def _licence(license_: str | None) -> str:
    model = (
        "No licence of the model is stated, so this card permits nothing; ask whoever made it."
        if license_ is None
        else f"The model: {license_}, an SPDX expression."
    )
    return (
        f"{model} `runner.py` is under {RUNNER_LICENSE}. The terms of the training images may bind"
        " the model too."
    )
