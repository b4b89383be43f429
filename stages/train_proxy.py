"""Stage ``train_proxy``: whom the student learns from. By default that is the teacher itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from stages.entry import run_stage
from stages.files import new_folder, read_json, write_json
from stages.params import Params

TEACHER_FOLDER = Path("artifacts/teacher")
TEACHER_METRICS = Path("reports/teacher/metrics.json")
PROXY_FOLDER = Path("artifacts/proxy")
METRICS = Path("reports/proxy/metrics.json")

_SHARED = ("network", "accuracy", "val_accuracy", "parameters", "macs")


def main(params: Params) -> None:
    """Write ``artifacts/proxy`` and its metrics."""
    teacher = read_json(TEACHER_METRICS)
    write_json(METRICS, {"method": params.proxy.method} | {key: teacher[key] for key in _SHARED})
    with new_folder(PROXY_FOLDER) as folder:
        shutil.copyfile(TEACHER_FOLDER / "model.safetensors", folder / "model.safetensors")


if __name__ == "__main__":
    run_stage(main)
