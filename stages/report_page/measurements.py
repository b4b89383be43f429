"""Read everything that earlier stages measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.analysis.classes import read_classes
from stages.files import read_csv, read_json

REPORTS = Path("reports")
DEVICES = REPORTS / "devices"
SAMPLES = Path("artifacts/latency/samples.json")
GRAD_CAM = Path("artifacts/analysis/grad_cam.png")
ERRORS = Path("artifacts/analysis/errors.png")

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
    """The contents of the files in ``docs/files.md``."""

    data: Record
    teacher: Record
    teacher_history: History  # values per epoch, by column of the CSV file
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
    samples: dict[str, list[float]]  # latencies in ms by <device>|<runtime>|<precision>|<threads>
    devices: list[Record]  # files of `ackd profile`, sorted by name
    analysis: Record
    classes: list[Record]
    """Rows of ``reports/classes.csv`` as numbers; None if a class has no test images."""
    grad_cam: bytes  # PNG
    errors: bytes | None  # PNG; None if the student makes no error on the test images


def read_measurements() -> Measurements:
    """Read all files; raises InputError if one is missing or damaged."""
    records: dict[str, Any] = {name: read_json(path) for name, path in _JSON.items()}
    return Measurements(
        **records,
        teacher_history=_read_history(REPORTS / "teacher/history.csv"),
        student_history=_read_history(REPORTS / "distill/history.csv"),
        samples=read_json(SAMPLES),
        devices=[read_json(path) for path in sorted(DEVICES.glob("*.json"))],
        classes=read_classes(),
        grad_cam=GRAD_CAM.read_bytes(),
        errors=ERRORS.read_bytes() if ERRORS.exists() else None,
    )


def _read_history(path: Path) -> History:
    """Read the columns of a training's CSV file; an empty cell is NaN."""
    rows = read_csv(path)
    return {column: [float(row[column] or "nan") for row in rows] for column in rows[0]}
