"""``reports/index.html``: one file that needs no other and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from stages.files import without_folders
from stages.formatting import by_reason, count, millions, origin, percent, significant, times
from stages.params import Params
from stages.report_page import classes, devices, learners, paper, tables
from stages.report_page.curves import (
    latency_charts,
    scatter_chart,
    training_charts,
)
from stages.report_page.measurements import Measurements, Record
from stages.tables import exports, litert, networks

_FOLDER = Path(__file__).parent
_MANY_CLASSES = 20


def render(measured: Measurements, summary: Record, params: Params) -> str:
    """The page as HTML.

    Args:
        measured: what the stages wrote.
        summary: of the same, by :func:`stages.report_page.summary.summarise`.
        params: all of ``params.yaml``.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    analysis = measured.analysis
    group = analysis["learners"]
    compared = summary["paper"] is not None and summary["paper"]["accuracies"]
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        style=Markup(style),
        title=f"{summary['student']['network']}, {origin(summary)}",
        lede=_lede(summary),
        tiles=_tiles(summary),
        summary=summary,
        networks=networks(summary),
        exports=exports(summary),
        quantized=list(_quantized(measured)),
        litert=litert(summary),
        paper=paper.table_of_figures(summary["paper"], summary) if compared else None,
        paper_reading=paper.reading(summary["paper"]) if compared else None,
        validation=tables.validation(measured),
        engines=tables.engines(measured),
        scatter=scatter_chart(summary),
        trade_offs=devices.trade_offs(summary),
        devices=tables.measured_devices(measured, summary["exports"]),
        noisy=any(
            row["noisy"]
            for device in summary["devices"].values()
            for row in device["exports"].values()
        ),
        curves=training_charts(measured),
        training=_training(measured),
        diversity=learners.diversity_charts(measured) if group else [],
        learners=learners.members(analysis) if group else None,
        pairs_of_learners=learners.pairs(analysis) if group else None,
        attention=learners.attention_by_class(measured.classes) if group else None,
        compared_images=analysis["images"],
        similarity=tables.similarity(measured),
        reliability=classes.calibration_chart(analysis),
        calibration=classes.calibration(summary),
        classes=classes.accuracy(measured.classes),
        gains=classes.gains_chart(measured),
        gains_reading=classes.gains_reading(analysis) if analysis["baseline"] else None,
        grad_cam="data:image/png;base64," + base64.b64encode(measured.grad_cam).decode("ascii"),
        looked_at=", ".join(["teacher", "target", *(learners.names(analysis) if group else [])]),
        distributions=latency_charts(measured),
        latency=tables.latency(measured),
        litert_latency=tables.litert_latency(measured),
        prune_reading=_prune_reading(measured),
        prune=tables.prune(measured),
        data=_data(measured),
        environment=_environment(measured),
        parameters=_yaml(params),
        not_measured=[
            ("; ".join(what), reason) for reason, what in by_reason(summary["skipped"]).items()
        ],
    )


def _lede(summary: Record) -> str:
    student, teacher = summary["student"], summary["teacher"]
    drop = round(100 * summary["drop_from_teacher"], 2)
    against = (
        f"{abs(drop):.2f} points {'below' if drop > 0 else 'above'}" if drop else "the same as"
    )
    return (
        f"Trained on {summary['data']['source']}, it is right on {percent(student['accuracy'])} of"
        f" {summary['data']['test']} test images, {against} the teacher {teacher['network']}."
    )


def _tiles(summary: Record) -> list[tuple[str, str, str]]:
    student, teacher = summary["student"], summary["teacher"]
    accuracy = f"test accuracy; the teacher has {percent(teacher['accuracy'])}"
    tiles = [(f"{100 * student['accuracy']:.2f}", "%", accuracy)]
    for key, name, form in (
        ("parameters", "parameters", count),
        ("macs", "multiply-adds", millions),
    ):
        smaller, larger = sorted((teacher[key], student[key]))
        than = "fewer" if teacher[key] >= student[key] else "more"
        costs = f"{form(student[key])} against {form(teacher[key])}"
        tiles.append((times(larger / smaller), "", f"{than} {name}: {costs}"))
    timed = {
        name: export
        for name, export in summary["exports"].items()
        if export["status"] == "passed" and export["p50_ms"] is not None
    }
    if timed:
        quickest = min(timed, key=lambda name: timed[name]["p50_ms"])
        p50, p90 = (significant(timed[quickest][key]) for key in ("p50_ms", "p90_ms"))
        tiles.append(
            (p50, "ms", f"median latency of the quickest export, {quickest}; p90 {p90} ms")
        )
    return tiles


def _quantized(measured: Measurements) -> Iterator[str]:
    """How each int8 model was made, and what decided it."""
    for precision, made in measured.model["quantization"].items():
        calibration, decided = made["calibration"], made["decided_on"]
        text = (
            f"{precision}: made by {made['made_by']}, with ranges by {calibration['method']} of"
            f" {count(calibration['images'])} training images"
        )
        if decided is not None:
            steps = [f"fp32 {percent(decided['fp32'])}"]
            steps.append(f"calibrated {percent(decided['calibrated'])}")
            if decided["finetuned"] is not None:
                steps.append(f"fine-tuned {percent(decided['finetuned'])}")
            split = {"val": "validation", "train": "training"}[decided["split"]]
            text += f"; decided on {count(decided['images'])} {split} images: {', '.join(steps)}"
        yield f"{text}."


def _prune_reading(measured: Measurements) -> str:
    report = measured.prune
    gone = report["parameters"]["training"] - report["parameters"]["student"]
    if not gone:
        return "Nothing but the student was trained, so nothing was dropped."
    return (
        f"{count(gone)} parameters served the training alone; without them the student’s"
        f" outputs are the same, bit for bit, on {report['images']} test images."
    )


def _data(measured: Measurements) -> list[tuple[str, str]]:
    data = measured.data
    names = data["classes"]
    listed = ", ".join(names[:_MANY_CLASSES])
    more = f", … and {len(names) - _MANY_CLASSES} more" if len(names) > _MANY_CLASSES else ""
    rows = [
        ("source", data["source"]),
        ("image size", f"{data['image_size']}×{data['image_size']}"),
    ]
    for name, split in data["splits"].items():
        low, high = min(split["per_class"]), max(split["per_class"])
        each = f"{low}" if low == high else f"{low} to {high}"
        rows.append((name, f"{count(split['count'])} images, {each} a class"))
    rows += [
        (
            f"{name} images also in train",
            f"{data[f'{name}_images_also_in_train']}, by identical pixels",
        )
        for name in ("val", "test")
    ]
    rows += [("note", note) for note in data["notes"]]
    if damaged := data["damaged"]:
        rows.append(("damaged images, left out", ", ".join(damaged)))
    return [*rows, (f"{len(names)} classes", listed + more)]


def _training(measured: Measurements) -> list[tuple[str, str]]:
    """Which epoch's weights are kept, what the best would have given, and how it was computed."""
    rows = []
    for who, metrics, engine in (
        ("teacher", measured.teacher, measured.teacher_environment),
        ("student", measured.student, measured.student_environment),
    ):
        if "best_epoch" not in metrics:
            rows.append((who, "loaded from a checkpoint, not trained here"))
            continue
        last, best = metrics["accuracy"], metrics["accuracy_at_best"]
        rows.append(
            (
                who,
                f"epoch {metrics['epochs']}, the last, is kept: {percent(last)} on the test images;"
                f" epoch {metrics['best_epoch']} was the best on validation and would have"
                f" {percent(best)}",
            )
        )
        # Without a repository there is no revision.
        revision = (engine["git_revision"] or "unknown")[:10]
        changed = "" if engine["git_clean"] else " with changes"
        rows.append(
            (
                f"{who}, computed by",
                f"{engine['device']}, {engine['precision']}{', compiled' * engine['compile']},"
                f" processes: {engine['processes']}, threads of each: {engine['threads']},"
                f" torch {engine['versions']['torch']}; revision {revision}{changed}",
            )
        )
    return rows


def _environment(measured: Measurements) -> list[tuple[str, str | None]]:
    device = measured.device
    gpu = device["gpu"]
    runtimes = [
        f"{name} {version or 'not installed'}" for name, version in device["runtimes"].items()
    ]
    return [
        ("system", f"{device['system']}, {device['machine']}"),
        ("CPU", device["cpu"]),
        ("cores", device["cores"]),
        ("CPU features", ", ".join(device["cpu_features"]) or None),
        ("memory", device["memory_gb"] and f"{device['memory_gb']:g} GB"),
        ("CPU governor", device["governor"]),
        ("GPU", f"{gpu['name']}, driver {gpu['driver']}" if gpu else "none"),
        ("Python", device["python"]),
        ("runtimes", ", ".join(runtimes)),
    ]


class _Representer(RoundTripRepresenter):
    """Writes ``null``, which ruamel leaves out by default."""


_Representer.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return without_folders(value) if isinstance(value, str) else value


def _yaml(params: Params) -> str:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump(_without_folders(params.model_dump(by_alias=True)), text)
    return text.getvalue()
