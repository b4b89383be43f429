"""The model card of a bundle: what the model is, how good, how fast, and how to run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stages.bundle.hub import data_set, front_matter
from stages.bundle.making import Making, data_section, environment_section, making_section
from stages.bundle.markdown import bullets, plain, table
from stages.bundle.sbom import RUNNER_LICENSE
from stages.figures import (
    by_reason,
    count,
    drop,
    millions,
    origin,
    percent,
    significant,
    verdict,
)

#: So many classes are shown whole; of more the weakest and the strongest.
_MANY_CLASSES = 20

_CARD = """\
{front_matter}
# {network}, {origin}

An image classifier with {classes} classes for images of {size}x{size} pixels, trained on {source}
({train} training, {val} validation and {test} test images). It holds no part that only the
training needed.

{networks}

Accuracy is top-1 on the {test} test images; MACs are multiply-adds for one image.

## Files

{exports}

{recommended}

`*.static.onnx` takes one image at a time, `*.dynamic.onnx` any number. Drop is the accuracy lost
against torch, with the 95 % interval of the same test images answered by both; parity is the
largest relative difference from torch's logits on the {golden} images of `golden.npz`; agreement is
the share of test images that get torch's answer; MB are 10^6 bytes. Latency was measured with the
static file at batch 1 and one thread on {device}{noisy}; the
speed is against fp32's median there. A dominated file is no better than the named one in accuracy,
size and median latency, and worse in one of them at least; on other hardware it may be the quicker.

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
    exports = {precision: summary["exports"][precision] for precision in description["files"]}
    noisy = [precision for precision, export in exports.items() if export["noisy"]]
    choice = summary["recommended"]
    shown = choice["precision"] if choice else next(iter(exports))
    # The first is the one that the summary's latencies are of.
    device = next(iter(summary["devices"].values()))
    return _CARD.format(
        front_matter=front_matter(summary, exports, license_),
        network=student["network"],
        origin=origin(summary),
        classes=data["classes"],
        size=data["image_size"],
        source=plain(data_set(data["source"]).name),
        **{split: count(data[split]) for split in ("train", "val", "test")},
        networks=_networks(summary),
        exports=_exports(exports, summary),
        recommended=_recommended(choice),
        golden=description["golden"]["images"],
        device=f"{_name(device)} ({device['system']}, {device['runtime']})",
        noisy=f"; the machine was noisy for {', '.join(noisy)}" if noisy else "",
        **{key: description[key] for key in ("input", "output", "opset", "ir_version")},
        file=description["files"][shown]["static"]["path"],
        per_class=_per_class(classes),
        devices=_devices(summary, exports),
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


def _networks(summary: dict[str, Any]) -> str:
    rows = [
        [
            kind,
            summary[kind]["network"],
            percent(summary[kind]["accuracy"]),
            count(summary[kind]["parameters"]),
            millions(summary[kind]["macs"]),
        ]
        for kind in ("teacher", "student")
    ]
    return table(["", "network", "accuracy", "parameters", "MACs"], rows)


def _recommended(choice: dict[str, str] | None) -> str:
    if choice is None:
        return "No file is recommended, as none has its accuracy, size and latency measured."
    return f"Recommended on that device: `{choice['precision']}`, {choice['reason']}."


def _exports(exports: dict[str, dict[str, Any]], summary: dict[str, Any]) -> str:
    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
        "max_relative_error": ("parity", significant),
        "agreement": ("agreement", percent),
        "size_mb": ("size, MB", significant),
        "p50_ms": ("p50, ms", significant),
        "p90_ms": ("p90, ms", significant),
        "speedup": ("speed, x fp32", significant),
    }

    def shown(form: Callable[[Any], str], value: Any) -> str:
        return "not measured" if value is None else form(value)

    rows = [
        [
            precision,
            export["made_by"] or "",
            shown(percent, export["accuracy"]),
            shown(str, drop(export)),
            *(shown(form, export[key]) for key, (_, form) in columns.items()),
            verdict(precision, summary),
        ]
        for precision, export in exports.items()
    ]
    head = ["precision", "made by", "accuracy", "drop, points (95 % interval)"]
    return table([*head, *(title for title, _ in columns.values()), "verdict"], rows)


def _goal(goal: dict[str, Any]) -> str:
    return f"{goal['goal']} {goal['wanted']:g}: {goal['measured']:.6g} ({goal['of']})"


def _per_class(classes: Sequence[dict[str, str]]) -> str:
    where = "as torch answered; `classes.csv` has every class, and which of its images were right."
    head = ["class", "test images", "teacher", "student"]
    present = [one for one in classes if one["images"] != "0"]
    if len(classes) <= _MANY_CLASSES:
        text = f"Of the test images, {where}"
        return f"{text}\n\n{table(head, map(_class_row, classes))}"
    ranked = sorted(present, key=lambda one: float(one["accuracy/student"]))
    half = _MANY_CLASSES // 2
    weakest, strongest = ranked[:half], ranked[-half:][::-1]
    return "\n\n".join(
        [
            f"Of the test images, {where} The student's {half} weakest of {len(present)} classes:",
            table(head, map(_class_row, weakest)),
            f"Its {half} strongest:",
            table(head, map(_class_row, strongest)),
        ]
    )


def _class_row(one: dict[str, str]) -> list[str]:
    figures = (one[f"accuracy/{who}"] for who in ("teacher", "student"))
    shown = [percent(float(figure)) if figure else "not measured" for figure in figures]
    return [plain(one["class"]), one["images"], *shown]


def _devices(summary: dict[str, Any], exports: dict[str, Any]) -> str:
    """Those of ``profile.devices``: what is measured by hand later leaves the bundle as it is."""
    rows = [
        [
            plain(_name(device)),
            plain(f"{device['system']}, {device['runtime']}"),
            precision,
            str(row["threads"]),
            *("not measured" if row[k] is None else significant(row[k]) for k in _LATENCIES),
            "yes" if row["noisy"] else "",
        ]
        for device in summary["devices"].values()
        for precision, row in device["exports"].items()
        if precision in exports and not device["by_hand"]
    ]
    head = ["device", "system and runtime", "precision", "threads", "p50, ms", "p90, ms", "noisy"]
    return table(head, rows) if rows else "None."


_LATENCIES = ("p50_ms", "p90_ms")


def _skipped(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """As the summary's, by the processors of ``profile.devices``, whose URLs are for nobody else.

    What is measured by hand changes nothing here, so that the bundle of a version stays as it is.
    """
    names = {
        url: _name(device) for url, device in summary["devices"].items() if not device["by_hand"]
    }
    return [
        item | {"device": names.get(item.get("device"))}
        for item in summary["skipped"]
        if item.get("device") in {None, *names}
    ]


def _name(device: dict[str, Any]) -> str:
    return str(device["cpu"] or f"an unnamed {device['machine']} CPU")


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
