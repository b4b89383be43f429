"""Read everything that earlier stages measured."""

from pathlib import Path
from typing import Any

from stages.analysis.classes import read_classes
from stages.files import read_csv, read_json

Record = dict[str, Any]
History = dict[str, list[float]]  # values per epoch, by column of the CSV file

_REPORTS, _ARTIFACTS = Path("reports"), Path("artifacts")


class Measurements:
    """The contents of the files in ``docs/files.md``; one missing or damaged raises InputError."""

    def __init__(self) -> None:
        self.data = read_json(_REPORTS / "data.json")
        self.teacher = read_json(_REPORTS / "teacher/metrics.json")
        self.teacher_history = _read_history("teacher")
        self.teacher_environment = read_json(_REPORTS / "teacher/environment.json")
        self.proxy = read_json(_REPORTS / "proxy/metrics.json")
        self.student = read_json(_REPORTS / "distill/metrics.json")
        self.student_history = _read_history("distill")
        self.student_environment = read_json(_REPORTS / "distill/environment.json")
        self.prune = read_json(_REPORTS / "prune.json")
        self.model = read_json(_ARTIFACTS / "onnx/model.json")
        self.device = read_json(_REPORTS / "device.json")
        self.validation = read_json(_REPORTS / "validation.json")
        self.latency = read_json(_REPORTS / "latency.json")
        self.litert = read_json(_REPORTS / "litert.json")
        # Latencies in ms by <device>|<runtime>|<precision>|<threads>.
        self.samples: dict[str, list[float]] = read_json(_ARTIFACTS / "latency/samples.json")
        # Of `ackd profile`, in the order of their names.
        self.devices = [read_json(path) for path in sorted((_REPORTS / "devices").glob("*.json"))]
        self.analysis = read_json(_REPORTS / "analysis.json")
        self.classes = read_classes()
        self.grad_cam = (_ARTIFACTS / "analysis/grad_cam.png").read_bytes()
        errors = _ARTIFACTS / "analysis/errors.png"
        # None if the student makes no error on the test images.
        self.errors = errors.read_bytes() if errors.exists() else None


def columns(history: History, prefix: str) -> dict[str, list[float]]:
    """Return columns with a prefix, by the rest of the name; pairs are joined by "and"."""
    return {
        name.removeprefix(prefix).replace("~", " and "): values
        for name, values in history.items()
        if name.startswith(prefix)
    }


def _read_history(stage: str) -> History:
    """Read the columns of a training's CSV file; an empty cell is NaN."""
    rows = read_csv(_REPORTS / stage / "history.csv")
    return {column: [float(row[column] or "nan") for row in rows] for column in rows[0]}
