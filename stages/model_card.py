"""The model card of a bundle: what the model is, how good, how fast, and how to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

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

_CARD = """\
# {network}, {origin}

An image classifier with {classes} classes for images of {size}x{size} pixels, trained on `{source}`
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

## Not measured

{skipped}
"""


def model_card(
    summary: dict[str, Any],
    description: dict[str, Any],
    device: dict[str, Any],
    goals: Sequence[dict[str, Any]],
) -> str:
    """The card in Markdown.

    Args:
        summary: ``reports/summary.json``.
        description: ``model.json`` with the packaged precisions alone.
        device: the first one of the summary's.
        goals: those of ``reports/gate.json``; all are met.
    """
    data, student = summary["data"], summary["student"]
    exports = {precision: summary["exports"][precision] for precision in description["files"]}
    noisy = [precision for precision, export in exports.items() if export["noisy"]]
    choice = summary["recommended"]
    shown = choice["precision"] if choice else next(iter(exports))
    cpu = device["cpu"] or f"an unnamed {device['machine']} CPU"
    return _CARD.format(
        network=student["network"],
        origin=origin(summary),
        classes=data["classes"],
        size=data["image_size"],
        source=data["source"],
        **{split: count(data[split]) for split in ("train", "val", "test")},
        networks=_networks(summary),
        exports=_exports(exports, summary),
        recommended=_recommended(choice),
        golden=description["golden"]["images"],
        device=f"{cpu} ({device['system']}, {device['runtime']})",
        noisy=f"; the machine was noisy for {', '.join(noisy)}" if noisy else "",
        **{key: description[key] for key in ("input", "output", "opset", "ir_version")},
        file=description["files"][shown]["static"]["path"],
        goals=_list(_goal(goal) for goal in goals) or "None were set.",
        skipped=_list(
            f"{reason}: {', '.join(what)}" for reason, what in by_reason(summary["skipped"]).items()
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
    return _table(["", "network", "accuracy", "parameters", "MACs"], rows)


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
    return _table([*head, *(title for title, _ in columns.values()), "verdict"], rows)


def _goal(goal: dict[str, Any]) -> str:
    return f"{goal['goal']} {goal['wanted']:g}: {goal['measured']:.6g} ({goal['of']})"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])
