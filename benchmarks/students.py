"""Students of finished projects: what the chain has exported, and what it says of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.devices.browser.measurement import RUNTIME
from stages.files import read_json, sha256
from stages.runtimes.exported import Exported, load_exported

PRECISIONS = ("fp32", "fp16", "int8_u8s8", "int8_s8s8")
Json = dict[str, Any]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Student:
    """A project in which the chain ran to its stage validate.

    Attributes:
        name: for the table.
        exported: its models, proven unaltered.
        weights: the file of the network that they were exported from.
        torch: its ``accuracy`` on the test ``images``.
        validated: by precision, the row of ``reports/validation.json`` about the whole test split.
        browsers: by device, rows of browsers with one thread, of these models; an empty list where
            other models were measured.
    """

    name: str
    exported: Exported
    weights: Path
    torch: Json
    validated: dict[str, Json]
    browsers: dict[str, list[Json]]


def read_students(given: Sequence[str]) -> list[Student]:
    """Those of arguments ``NAME=FOLDER``.

    Raises:
        InputError: an argument is none, a name stands twice, or a folder is no finished project.
    """
    folders: dict[str, Path] = {}
    for argument in given:
        name, equals, folder = argument.partition("=")
        if not equals or not folder or not _NAME.fullmatch(name):
            raise InputError(
                f"{argument}: expected NAME=FOLDER, the name of letters, digits, dots and dashes,"
                " such as resnet20=/data/resnet20"
            )
        if name in folders:
            raise InputError(f"{name} is given twice; give each student a name of its own")
        folders[name] = Path(folder)
    return [read_student(name, folder) for name, folder in folders.items()]


def read_student(name: str, folder: Path) -> Student:
    """The student of the project in ``folder``.

    Raises:
        InputError: a file is missing, damaged or of another student, or a precision is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{name}={folder}: no such folder; give a project's root")
    exported = load_exported(folder / "artifacts/onnx")
    lacking = [precision for precision in PRECISIONS if precision not in exported.precisions]
    if lacking:
        raise InputError(
            f"{exported.folder}: has no {', '.join(lacking)}; add to export.precisions in"
            f" {folder / 'params.yaml'}, and run `dvc repro validate` there"
        )
    weights = folder / "artifacts/student/model.safetensors"
    if not weights.is_file():
        raise InputError(f"{weights}: no such file; run `dvc repro validate` in {folder}")
    if sha256(weights) != exported.description["student_sha256"]:
        raise InputError(
            f"{weights}: not the student that {exported.folder} was exported from; run"
            f" `dvc repro validate` in {folder}"
        )
    report = folder / "reports/validation.json"
    content = read_json(report)
    validated = {
        row["precision"]: row
        for row in content["results"]
        if (row["runtime"], row["shape"]) == ("onnxruntime", "dynamic")
    }
    if missing := [precision for precision in PRECISIONS if precision not in validated]:
        raise InputError(
            f"{report}: says nothing of {', '.join(missing)}; run `dvc repro validate` in {folder}"
        )
    browsers = _browsers(folder / "reports/devices", exported)
    return Student(name, exported, weights, content["torch"], validated, browsers)


def _browsers(folder: Path, exported: Exported) -> dict[str, list[Json]]:
    files = exported.description["files"]
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        rows = [row for row in content["results"] if row["runtime"] == RUNTIME]
        if rows:
            found[content["device"]] = [
                row
                for row in rows
                if row["precision"] in files
                and row["model_sha256"] == files[row["precision"]]["static"]["sha256"]
                and row["threads"] == 1
                and row["status"] != "skipped"
            ]
    return found
