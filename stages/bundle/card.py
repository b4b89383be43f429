"""The model card of a bundle: what the model is, how good, how fast, and how to run it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.bundle.hub import data_set, front_matter
from stages.bundle.sbom import RUNNER_LICENSE
from stages.formatting import between, by_reason, count, origin, percent
from stages.markdown import plain, section, table
from stages.params import Params
from stages.sections.training import Teacher, Training
from stages.tables import Table, exports, networks, of_records, processor

Record = dict[str, Any]

#: So many classes are shown whole; of more the weakest and the strongest.
_MANY_CLASSES = 20
_UNTAUGHT = ("scratch", "one")
_SPLIT = ("train_split", "val_split", "test_split", "val_fraction", "train_per_class", "seed")


def model_card(
    summary: Record,
    description: Record,
    goals: Sequence[Record],
    classes: Sequence[dict[str, str]],
    params: Params,
    report: Record,
    environment: Record,
) -> str:
    """The card in Markdown, with the head that model hubs read.

    Args:
        summary: ``reports/summary.json``.
        description: ``model.json`` with the packaged precisions alone.
        goals: those of ``reports/gate.json``; all are met.
        classes: the rows of ``reports/classes.csv``.
        params: how the student was made.
        report: ``reports/data.json``.
        environment: ``reports/distill/environment.json``.
    """
    packaged, choice = description["files"], summary["recommended"]
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    jinja.globals |= {"count": count, "plain": plain, "settings": _settings, "shown": _shown}
    return jinja.get_template("card.md.jinja").render(
        summary=summary,
        description=description,
        goals=goals,
        params=params,
        report=report,
        engine=environment,
        front_matter=front_matter(summary, packaged, params.package.license),
        origin=origin(summary),
        source=data_set(report["source"]),
        networks=section(networks(summary)),
        exports=section(exports(summary, packaged)),
        shown_file=packaged[choice["precision"] if choice else next(iter(packaged))]["static"],
        classes=[(title, table(_classes(rows))) for title, rows in _chosen(classes)],
        devices=_devices(summary, description),
        splits=table(_splits(report)),
        split_settings={name: getattr(params.data, name) for name in _SPLIT},
        making=table(making(params, summary["proxy"]["network"])),
        runner_license=RUNNER_LICENSE,
        skipped=by_reason(_skipped(summary)),
    )


def making(params: Params, proxy: str) -> Table:
    """How teacher and student were trained.

    Args:
        params: of the chain.
        proxy: the network that the student really learned from.
    """
    teacher, student = params.teacher, params.distill
    method = "supervised" if student.method == "scratch" else student.method.upper()
    rows = [["method", _teacher_method(teacher), method]]
    if student.method not in _UNTAUGHT:
        rows.append(["learned from", "", _taught_by(params, proxy)])
    trained = _schedule(teacher) if teacher.checkpoint is None else {}
    rows += [[key, trained.get(key, ""), value] for key, value in _schedule(student).items()]
    return Table(["", teacher.network, student.network], rows)


def _teacher_method(teacher: Teacher) -> str:
    if teacher.checkpoint is None:
        return "supervised"
    if teacher.checkpoint == "pretrained":
        return "weights that its library publishes"
    return f"loaded from {Path(teacher.checkpoint).name}"


def _taught_by(params: Params, network: str) -> str:
    method, assistants = params.proxy.method, params.proxy.assistants
    if method == "early_stopped":
        return f"{network}, trained anew for {params.proxy.early_stopped.epochs} epochs"
    if method == "teacher":
        return network
    if assistants.candidates:
        return f"the assistant {network}, chosen from {', '.join(assistants.candidates)}"
    return f"{network}, the last of the assistants {', '.join(assistants.networks)}"


def _schedule(training: Training) -> dict[str, str]:
    schedule: str = training.schedule
    if training.milestones:
        after = ", ".join(map(str, training.milestones))
        schedule = f"{schedule}, a tenth after epochs {after}"
    if training.warmup:
        schedule = f"{schedule}, after a warm-up of {percent(training.warmup)}"
    optimizer = "AdamW" if training.optimizer == "adamw" else f"SGD, momentum {training.momentum:g}"
    described = {
        "epochs": str(training.epochs),
        "batch size": str(training.batch_size),
        "optimizer": optimizer,
        "learning rate": f"{training.learning_rate:g}",
        "schedule": schedule,
        "weight decay": f"{training.weight_decay:g}",
        "seed": str(training.seed),
    }
    optional = {
        "layer decay": (training.layer_decay, 1.0),
        "gradients clipped to": (training.clip_gradient, None),
        "label smoothing": (training.label_smoothing, 0.0),
        "averaged weights, decay": (training.ema, None),
    }
    return described | {k: f"{value:g}" for k, (value, off) in optional.items() if value != off}


def _chosen(classes: Sequence[dict[str, str]]) -> list[tuple[str, Sequence[dict[str, str]]]]:
    """The classes to show, in one part, or the weakest and the strongest in two with titles."""
    if len(classes) <= _MANY_CLASSES:
        return [("", classes)]
    present = [one for one in classes if one["images"] != "0"]
    present.sort(key=lambda one: float(one["accuracy/student"]))
    half = _MANY_CLASSES // 2
    return [
        (f"The student's {half} weakest of {len(present)} classes:", present[:half]),
        (f"Its {half} strongest:", present[-half:][::-1]),
    ]


def _classes(classes: Sequence[dict[str, str]]) -> Table:
    rows = []
    for one in classes:
        accuracies = [one[f"accuracy/{name}"] for name in ("teacher", "student")]
        # Empty where a class has no test images.
        shown = [percent(float(accuracy)) if accuracy else None for accuracy in accuracies]
        rows.append([one["class"], one["images"], *shown])
    return Table(["class", "test images", "teacher", "student"], rows)


def _devices(summary: Record, description: Record) -> str:
    """Those of ``profile.devices``; later measurements must not change the bundle."""
    rows = [
        ([processor(device), f"{device['system']}, {device['runtime']}", precision], row)
        for device in summary["devices"].values()
        for precision, row in device["exports"].items()
        if precision in description["files"] and not device["by_hand"]
    ]
    names = ["device", "system and runtime", "precision"]
    return section(of_records("Devices", names, rows, ["threads", "p50_ms", "p90_ms"]))


def _splits(report: Record) -> Table:
    rows = [
        [
            split,
            count(images["count"]),
            between(min(images["per_class"]), max(images["per_class"])),
            str(report.get(f"{split}_images_also_in_train", "")),
        ]
        for split, images in report["splits"].items()
    ]
    return Table(["split", "images", "in each class", "also in train"], rows)


def _skipped(summary: Record) -> list[Record]:
    """Those of the summary, with the processors of devices in place of their URLs.

    What `ackd profile` measures later changes nothing here: a version's bundle stays the same.
    """
    devices: dict[str, Record] = summary["devices"]
    names = {url: processor(one) for url, one in devices.items() if not one["by_hand"]}
    return [
        item | {"device": names.get(item.get("device", ""))}
        for item in summary["skipped"]
        if item.get("device") in {None, *names}
    ]


def _settings(values: Record) -> str:
    return ", ".join(f"`{key}` {_shown(value)}" for key, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    return plain(value) if isinstance(value, str) else json.dumps(value)
