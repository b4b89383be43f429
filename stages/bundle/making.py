"""What a model card says of the data, of how the model was made, and by which programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.bundle.hub import data_set
from stages.formatting import between, count
from stages.markdown import bullets, plain, table
from stages.sections.data import Augmentation, Data
from stages.sections.methods import Distill, Proxy
from stages.sections.training import Teacher, Training
from stages.tables import Table

_UNTAUGHT = ("scratch", "one")


@dataclass(frozen=True)
class Making:
    """What the chain was told, and what it wrote of that.

    Attributes:
        report: ``reports/data.json``.
        environment: ``reports/distill/environment.json``.
    """

    report: dict[str, Any]
    environment: dict[str, Any]
    data: Data
    augmentation: Augmentation
    teacher: Teacher
    proxy: Proxy
    distill: Distill


def data_section(made: Making) -> str:
    """Source, counts and how the splits came about."""
    report, settings = made.report, made.data
    rows = []
    for split, images in report["splits"].items():
        each = between(min(images["per_class"]), max(images["per_class"]))
        repeated = report.get(f"{split}_images_also_in_train", "")
        rows.append([split, count(images["count"]), each, str(repeated)])
    found = data_set(report["source"])
    where = f" of the hub, revision {found.revision or 'not fixed'}" if found.hub_id else ""
    size = report["image_size"]
    lines = [
        f"{plain(found.name)}{where}: images of {size}x{size} pixels, {len(report['classes'])}"
        " classes.",
        table(Table(["split", "images", "in each class", "also in train"], rows)),
        "A split that the source brings, or that is named, is taken as it is; another one is drawn"
        f" from training, alike in each class: {_settings(_split(settings))}.",
    ]
    return "\n\n".join(lines)


def making_section(made: Making, proxy: str) -> str:
    """Whom the student learned from, and the settings of both trainings.

    Args:
        made: what the chain was told.
        proxy: the network that the student really learned from.
    """
    teacher, student = made.teacher, made.distill
    rows = [["method", _teacher_method(teacher), _method(student)]]
    if student.method not in _UNTAUGHT:
        rows.append(["learned from", "", _taught_by(made, proxy)])
    trained = _schedule(teacher) if teacher.checkpoint is None else {}
    rows += [[key, trained.get(key, ""), value] for key, value in _schedule(student).items()]
    lines = [table(Table(["", teacher.network, student.network], rows))]
    items = [f"augmentation: {_settings(made.augmentation.model_dump())}"]
    if options := student.options():
        items.append(f"{student.method}: {_settings(options)}")
    return "\n\n".join([*lines, bullets(items)])


def environment_section(made: Making) -> str:
    """By what the student was trained."""
    engine = made.environment
    versions = ", ".join(f"{name} {version}" for name, version in engine["versions"].items())
    # Without a repository there is no revision.
    revision = f"revision {engine['git_revision']}" if engine["git_revision"] else "no revision"
    changed = "" if engine["git_clean"] else ", with changes"
    return bullets(
        [
            f"trained on {engine['device']} in {engine['precision']}, processes:"
            f" {engine['processes']}, threads of each: {engine['threads']}, deterministic:"
            f" {_shown(engine['deterministic'])}, compiled: {_shown(engine['compile'])}",
            versions,
            f"project: {revision}{changed}",
        ]
    )


def _teacher_method(teacher: Teacher) -> str:
    if teacher.checkpoint is None:
        return "supervised"
    if teacher.checkpoint == "pretrained":
        return "weights that its library publishes"
    return f"loaded from {Path(teacher.checkpoint).name}"


def _method(student: Distill) -> str:
    return "supervised" if student.method == "scratch" else student.method.upper()


def _taught_by(made: Making, network: str) -> str:
    method, assistants = made.proxy.method, made.proxy.assistants
    if method == "early_stopped":
        return f"{network}, trained anew for {made.proxy.early_stopped.epochs} epochs"
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
    return {
        "epochs": str(training.epochs),
        "batch size": str(training.batch_size),
        "learning rate": f"{training.learning_rate:g}",
        "schedule": schedule,
        "momentum": f"{training.momentum:g}",
        "weight decay": f"{training.weight_decay:g}",
        "seed": str(training.seed),
    }


def _split(data: Data) -> dict[str, Any]:
    names = ("train_split", "val_split", "test_split", "val_fraction", "train_per_class", "seed")
    return {name: getattr(data, name) for name in names}


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"`{key}` {_shown(value)}" for key, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    return plain(value) if isinstance(value, str) else json.dumps(value)
