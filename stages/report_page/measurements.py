"""Everything that the stages before the report measured, read from their files."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.analysis.classes import CLASSES_FILE, read_classes
from stages.files import read_json

REPORTS = Path("reports")
DEVICES = REPORTS / "devices"
SAMPLES = Path("artifacts/latency/samples.json")
GRAD_CAM = Path("artifacts/analysis/grad_cam.png")

Record = dict[str, Any]
History = dict[str, list[float]]

_JSON = {
    "data": REPORTS / "data.json",
    "teacher": REPORTS / "teacher/metrics.json",
    "teacher_environment": REPORTS / "teacher/environment.json",
    "proxy": REPORTS / "proxy/metrics.json",
    "student": REPORTS / "distill/metrics.json",
    "student_environment": REPORTS / "distill/environment.json",
    "prune": REPORTS / "prune.json",
    "model": Path("artifacts/onnx/model.json"),
    "device": REPORTS / "device.json",
    "validation": REPORTS / "validation.json",
    "latency": REPORTS / "latency.json",
    "litert": REPORTS / "litert.json",
    "analysis": REPORTS / "analysis.json",
}


@dataclass(frozen=True)
class Measurements:
    """The files of ``docs/files.md``, one attribute each.

    Attributes:
        teacher_history: a list by column of the CSV file, one value an epoch.
        samples: latencies in ms by ``<device>|<runtime>|<precision>|<threads>``.
        devices: what `ackd profile` kept, by the names of its files.
        classes: one each of ``reports/classes.csv``, its figures as numbers; None where a class
            has no test images.
        grad_cam: the bytes of the PNG file.
    """

    data: Record
    teacher: Record
    teacher_history: History
    teacher_environment: Record
    proxy: Record
    student: Record
    student_history: History
    student_environment: Record
    prune: Record
    model: Record
    device: Record
    validation: Record
    latency: Record
    litert: Record
    samples: dict[str, list[float]]
    devices: list[Record]
    analysis: Record
    classes: list[Record]
    grad_cam: bytes


def read_measurements() -> Measurements:
    """Raises InputError where a file is missing or damaged."""
    records: dict[str, Any] = {name: read_json(path) for name, path in _JSON.items()}
    return Measurements(
        **records,
        teacher_history=_read_history(REPORTS / "teacher/history.csv"),
        student_history=_read_history(REPORTS / "distill/history.csv"),
        samples=read_json(SAMPLES),
        devices=[read_json(path) for path in sorted(DEVICES.glob("*.json"))],
        classes=_read_class_figures(),
        grad_cam=_read_png(GRAD_CAM),
    )


def _read_history(path: Path) -> History:
    """The columns of a training's CSV file; an empty cell is NaN."""
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        return {column: [float(row[column] or "nan") for row in rows] for column in rows[0]}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run `dvc repro` to make it") from None
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{path}: expected a number in every cell ({error}); remove it and run `dvc repro`"
        ) from None


def _read_class_figures() -> list[Record]:
    others = ("class", "images", "images_digest", "student_right")
    try:
        return [
            {"class": row["class"], "images": int(row["images"])}
            | {
                column: float(cell) if cell else None
                for column, cell in row.items()
                if column not in others
            }
            for row in read_classes()
        ]
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{CLASSES_FILE}: expected a number in every cell ({error}); run"
            " `dvc repro --force analyze`"
        ) from None


def _read_png(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run `dvc repro analyze`") from None
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise InputError(f"{path}: not a PNG file; run `dvc repro --force analyze`")
    return content
