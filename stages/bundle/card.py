"""Write the model card of a bundle: what the model is, its figures, and how to run it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.bundle.hub import data_set, front_matter
from stages.bundle.sbom import RUNNER_LICENSE
from stages.formatting import WITHOUT_TEACHER, between, by_reason, count, origin, percent
from stages.markdown import plain, section, table
from stages.params import Params
from stages.sections.data import Data
from stages.sections.training import Training
from stages.tables import BY_HAND, Table, exports, networks, of_latencies, processor, scores

Record = dict[str, Any]

#: With more classes, only the weakest and the strongest are shown.
_MANY_CLASSES = 20
#: Training settings without an effect at their defaults.
_OPTIONAL = ("milestones", "warmup", "layer_decay", "clip_gradient", "label_smoothing", "ema")
_SPLIT = ["train_split", "val_split", "test_split", "val_fraction", "folds", "fold"]
_SPLIT += ["train_per_class", "seed"]


def model_card(
    summary: Record,
    description: Record,
    goals: Sequence[Record],
    classes: Sequence[Record],
    params: Params,
    report: Record,
    environment: Record,
) -> str:
    """Render the card in Markdown, with front matter for model hubs.

    ``description`` is ``model.json`` with only the packaged precisions, ``report`` is
    ``reports/data.json``, and ``environment`` is the student's.
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
        scores=section(scores(summary)),
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
    """Describe how teacher and student were trained; the student learned from ``proxy``."""
    teacher, student = params.teacher, params.distill
    method = "supervised" if student.method == "scratch" else student.method.upper()
    taught = {"all": "supervised", "head": "supervised, only the classifier"}
    rows = [["method", taught.get(teacher.train, "not trained here"), method]]
    if teacher.weights or student.weights:
        rows.append(["starts from", *(_start(training.weights) for training in (teacher, student))])
    if student.method not in WITHOUT_TEACHER:
        rows.append(["learned from", "", _taught_by(params, proxy)])
    if teacher.image_size is not None:
        rows.append(["image size", f"{teacher.image_size} pixels", ""])
    if params.unlabeled_per_batch:
        share = f"{params.unlabeled_per_batch} of {student.batch_size} images per step"
        rows.append(["unlabeled", "", share])
    for key in ("sampling", "class_weights"):
        if (value := getattr(params.data, key)) != Data.model_fields[key].default:
            rows.append([key.replace("_", " "), value, value])
    trained = {} if teacher.train == "none" else _training(teacher)
    both = trained, _training(student)
    used = (key for key in Training.model_fields if any(key in settings for settings in both))
    rows += [[key.replace("_", " "), *(one.get(key, "") for one in both)] for key in used]
    return Table(["", teacher.network, student.network], rows)


def _start(weights: str | None) -> str:
    if weights is None:
        return "random weights"
    return "the library's pretrained weights" if weights == "pretrained" else Path(weights).name


def _taught_by(params: Params, network: str) -> str:
    method, assistants = params.proxy.method, params.proxy.assistants
    if method == "early_stopped":
        return f"{network}, trained again for {params.proxy.early_stopped.epochs} epochs"
    if method == "teacher":
        return network
    if assistants.candidates:
        return f"the assistant {network}, chosen from {', '.join(assistants.candidates)}"
    return f"{network}, the last of the assistants {', '.join(assistants.networks)}"


def _training(training: Training) -> dict[str, str]:
    """Return the settings that had an effect, except the initial weights."""
    unused = {"weights", "normalization"}
    unused |= {k for k in _OPTIONAL if getattr(training, k) == Training.model_fields[k].default}
    unused |= {"momentum"} if training.optimizer == "adamw" else set()
    values = {key: getattr(training, key) for key in Training.model_fields if key not in unused}
    return {
        key: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in values.items()
    }


def _chosen(classes: Sequence[Record]) -> list[tuple[str, Sequence[Record]]]:
    """Choose the classes to show: all, or the weakest and the strongest under two titles."""
    if len(classes) <= _MANY_CLASSES:
        return [("", classes)]
    present = [one for one in classes if one["images"]]
    present.sort(key=lambda one: one["accuracy/student"])
    half = _MANY_CLASSES // 2
    return [
        (f"The student's {half} weakest of {len(present)} classes:", present[:half]),
        (f"Its {half} strongest:", present[-half:][::-1]),
    ]


def _classes(classes: Sequence[Record]) -> Table:
    def accuracy(one: Record, network: str) -> str | None:
        value = one[f"accuracy/{network}"]
        return None if value is None else percent(value)

    rows = [
        [one["class"], count(one["images"]), accuracy(one, "teacher"), accuracy(one, "student")]
        for one in classes
    ]
    return Table(["class", "test images", "teacher", "student"], rows)


def _devices(summary: Record, description: Record) -> str:
    """List the devices of ``profile.devices``; later measurements must not change the bundle."""
    rows = [
        ([processor(device), f"{device['system']}, {device['runtime']}", precision], row)
        for device in summary["devices"].values()
        for precision, row in device["exports"].items()
        if precision in description["files"] and not device["by_hand"]
    ]
    names = ["device", "system and runtime", "precision"]
    return section(of_latencies("Devices", names, rows, ["threads", "p50_ms", "p90_ms"]))


def _splits(report: Record) -> Table:
    rows = []
    for split, images in report["splits"].items():
        each = between(min(images["per_class"]), max(images["per_class"]))
        also = str(report.get(f"{split}_images_also_in_train", ""))
        rows.append([split, count(images["count"]), each, also])
    return Table(["split", "images", "in each class", "also in train"], rows)


def _skipped(summary: Record) -> list[Record]:
    """Return the summary's ``skipped``, with processors in place of device URLs.

    Later measurements by `ackd profile` must not change the bundle.
    """
    devices: dict[str, Record] = summary["devices"]
    names = {url: processor(one) for url, one in devices.items() if not one["by_hand"]}
    return [
        item | {"device": names.get(item.get("device", ""))}
        for item in summary["skipped"]
        if item.get("device") in {None, *names} and item["what"] != BY_HAND
    ]


def _settings(values: Record) -> str:
    return ", ".join(f"`{key}` {_shown(value)}" for key, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    return plain(value) if isinstance(value, str) else json.dumps(value)
