"""Creates experiments like DVC's with git alone: a commit and a ref each."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

from pipeline.git_command import git
from tests.once import repository


def export(accuracy: float | None, size_mb: float | None, **more: Any) -> dict[str, Any]:
    return {"status": "passed", "reason": None, "accuracy": accuracy, "size_mb": size_mb, **more}


def row(p50_ms: float | None, p90_ms: float | None, **more: Any) -> dict[str, Any]:
    latency = {"threads": 1, "p50_ms": p50_ms, "p90_ms": p90_ms, "noisy": False}
    return {**latency, "status": "passed", "reason": None, **more}


def summary(accuracy: float, **more: Any) -> dict[str, Any]:
    """Return a summary of a student with fp32 and int8, measured on this machine."""
    network = {"accuracy": accuracy, "parameters": 1000, "macs": 2000, "size_mb": 0.004}
    network["weights"] = None
    images = {"train": 90, "val": 10, "test": 40, "classes": 2, "image_size": 8}
    local = {"machine": "x86_64", "cpu": "Desk CPU", "runtime": "onnxruntime 1.31.1"}
    return {
        "data": {"source": "digits"} | images,
        "teacher": network | {"network": "resnet20", "accuracy": 0.9},
        "student": network | {"network": "resnet8", "method": "kd"},
        "exports": {"fp32": export(accuracy, 0.3), "int8": export(accuracy - 0.01, 0.1)},
        "recommended": {"precision": "int8", "reason": "the quickest"},
        "devices": {"local:": local | {"exports": {"fp32": row(2.0, 2.5), "int8": row(1.0, 1.25)}}},
        "litert": None,
        "paper": None,
    } | copy.deepcopy(more)


def files(
    content: Any, seed: int = 0, *, method: str = "kd", digest: str = "aa"
) -> dict[str, str | None]:
    """Return the files in the commit of a finished experiment."""
    return {
        "params.yaml": f"distill:\n  method: {method}\n  seed: {seed}\n",
        "dvc.lock": json.dumps({"stages": _stages(method, seed)}),
        "dvc.yaml": "stages: {}\n",
        "reports/classes.csv": f"class,images,images_digest\n0,20,{digest}\n1,20,{digest}\n",
        "reports/summary.json": content if isinstance(content, str) else json.dumps(content),
    }


def _stages(method: str, seed: int) -> dict[str, Any]:
    student = {"path": "artifacts/distilled", "md5": f"{method}{seed}"}
    params = {"params.yaml": {"distill.method": method, "distill.seed": seed}}
    return {
        "distill": {"params": params, "outs": [student]},
        "report": {"deps": [student], "outs": [{"path": "reports/summary.json", "md5": "new"}]},
        # A sweep up to the report does not change later stages.
        "gate": {"deps": [{"path": "reports/summary.json", "md5": "old"}]},
    }


def commit(
    project: Path, name: str, of: dict[str, str | None], *, base: str = "0" * 40, time: int = 10**9
) -> str:
    """Create an experiment without changing workspace and branch; return its commit.

    It claims to start from the commit ``base``; ``time`` is in seconds since 1970.
    """
    reference = f"refs/exps/{base[:2]}/{base[2:]}/{name}"
    stream = f"commit {reference}\ncommitter x <x> {time} +0000\ndata 0\n"
    for path, text in of.items():
        if text is not None:
            stream += f"M 100644 inline {path}\ndata {len(text.encode())}\n{text}\n"
    importer = ["git", "fast-import", "--quiet"]
    subprocess.run(importer, cwd=project, input=stream.encode(), check=True)
    return git(project, "rev-parse", reference)


def write(project: Path, of: dict[str, str | None]) -> None:
    """Write the files to the workspace."""
    for path, text in of.items():
        if text is not None:
            (project / path).parent.mkdir(parents=True, exist_ok=True)
            (project / path).write_text(text)


#: A chain of one instant stage.
CHAIN = """\
stages:
  report:
    cmd: python report.py
    deps: [report.py, params.yaml]
    outs:
    - artifacts/onnx
    - reports/summary.json: {cache: false}
    - reports/classes.csv: {cache: false}
"""
REPORT = """\
import json
import re
from pathlib import Path

params = Path("params.yaml").read_text()
seed, method = (re.search(f"{key}: (.*)", params)[1] for key in ("seed", "method"))
summary = json.loads(Path("base.json").read_text())
gain = int(seed) / 100 + (0.05 if method == "ackd" else 0)
summary["student"]["accuracy"] += gain
summary["student"]["method"] = method
for export in summary["exports"].values():
    export["accuracy"] += gain
for folder in ("artifacts/onnx", "reports"):
    Path(folder).mkdir(parents=True, exist_ok=True)
Path("artifacts/onnx/fp32.static.onnx").write_text(f"{method} {seed}")
Path("reports/summary.json").write_text(json.dumps(summary))
Path("reports/classes.csv").write_text("class,images,images_digest\\n0,40,aa\\n")
"""


def start_project(folder: Path) -> None:
    """Create a git and DVC repository with :data:`CHAIN` and a first commit."""
    repository(folder)
    (folder / "dvc.yaml").write_text(CHAIN)
    (folder / "report.py").write_text(REPORT)
    (folder / "base.json").write_text(json.dumps(summary(0.7)))
    (folder / "params.yaml").write_text("distill:\n  method: kd\n  seed: 0\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
