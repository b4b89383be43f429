"""Does precision, or our loop, cost accuracy? KD under one schedule, by several ways.

A teacher is trained once, by the pipeline's own stages, in the folder ``--work``. Students are then
distilled from it in fp32 and bf16, and by RepDistiller's own loop on the same images, with several
seeds. What is done is kept in ``--output``: run again after an interruption, or on another machine
with ``--teacher-checkpoint``, and it goes on.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from models.errors import InputError
from stages.files import read_json, sha256, write_json
from stages.identify_device import CPUINFO, cpu_of_linux
from stages.machine import cores

_RESULTS = Path("benchmarks/results/accuracy.json")
_OURS = ("fp32", "bf16")


def main(
    data: Annotated[str, typer.Option(help="As data.source of params.yaml")],
    work: Annotated[Path, typer.Option(help="Folder of the trainings; kept")],
    repdistiller: Annotated[Path | None, typer.Option(help="A checkout of RepDistiller")] = None,
    teacher: Annotated[str, typer.Option(help="Network of the teacher")] = "resnet56",
    teacher_epochs: Annotated[int, typer.Option(min=1)] = 3,
    teacher_checkpoint: Annotated[
        Path | None, typer.Option(help="What an earlier run trained (its artifacts/teacher)")
    ] = None,
    student: Annotated[str, typer.Option(help="Network of the student")] = "resnet20",
    epochs: Annotated[int, typer.Option(min=5, help="Of each student")] = 10,
    seeds: Annotated[int, typer.Option(min=1)] = 2,
    output: Annotated[Path, typer.Option(help="JSON of the results")] = _RESULTS,
) -> None:
    """Measure the accuracies that are still missing, and print all."""
    if repdistiller is not None and not (repdistiller / "helper/loops.py").is_file():
        raise InputError(f"{repdistiller}: no checkout of RepDistiller, which has helper/loops.py")
    work.mkdir(parents=True, exist_ok=True)
    params = _params(data, teacher, teacher_epochs, student, epochs)
    results: dict[str, Any] = {"params": params, "runs": {}}
    if output.exists():
        results = read_json(output)
    if results["params"] != params:
        raise InputError(f"{output}: holds results of other settings; name another file")
    teacher_file = work / "artifacts/proxy/model.safetensors"
    if not teacher_file.exists():
        given = teacher_checkpoint and {"checkpoint": str(teacher_checkpoint.resolve())}
        chosen = params | {"teacher": params["teacher"] | (given or {})}
        for stage in ("prepare_data", "train_teacher", "train_proxy"):
            _run_stage(stage, work, chosen)
    metrics = read_json(work / "reports/teacher/metrics.json")
    trained = {"sha256": sha256(teacher_file), "accuracy": metrics["accuracy"]}
    if results.setdefault("teacher", trained)["sha256"] != trained["sha256"]:
        raise InputError(
            f"{output}: holds results with another teacher; give its file as --teacher-checkpoint"
            " and an empty --work, or name another output"
        )
    write_json(output, results)
    runs = results["runs"]
    for seed in range(seeds):
        for precision in _OURS:
            name = f"{precision} {seed}"
            if name not in runs:
                chosen = params | {
                    "training": params["training"] | {"precision": precision},
                    "distill": params["distill"] | {"seed": seed},
                }
                _run_stage("distill", work, chosen)
                metrics = read_json(work / "reports/distill/metrics.json")
                runs[name] = {"accuracy": metrics["accuracy"], "machine": _machine()}
                write_json(output, results)
        name = f"repdistiller {seed}"
        if repdistiller is not None and name not in runs:
            command = [sys.executable, "-m", "benchmarks.repdistiller_training"]
            settings = params["distill"] | {"seed": seed}
            command += [str(repdistiller.resolve()), str(work), json.dumps(settings)]
            subprocess.run(command, check=True)
            accuracy = read_json(work / f"repdistiller-{seed}.json")["accuracy"]
            runs[name] = {"accuracy": accuracy, "machine": _machine()}
            write_json(output, results)
    print(f"teacher {teacher}: {trained['accuracy']:.2%}")
    for name, run in runs.items():
        print(f"{name}: {run['accuracy']:.2%} on {run['machine']}")


def _params(
    data: str, teacher: str, teacher_epochs: int, student: str, epochs: int
) -> dict[str, Any]:
    """The settings of RepDistiller's paper but for the number of epochs."""
    sgd = {"batch_size": 128, "weight_decay": 5e-4, "momentum": 0.9}
    milestones = [round(0.6 * epochs), round(0.8 * epochs)]
    return {
        "data": {"source": data, "image_size": 32},
        "augmentation": {"crop_padding": 4, "horizontal_flip": True},
        "training": {"precision": "fp32", "checkpoint_minutes": 5.0},
        "teacher": sgd | {"network": teacher, "epochs": teacher_epochs, "learning_rate": 0.1},
        "distill": sgd
        | {"network": student, "method": "kd", "epochs": epochs, "learning_rate": 0.05}
        | {"schedule": "multi_step", "milestones": milestones, "temperature": 4.0}
        | {"kd": {"ce_weight": 0.1, "kd_weight": 0.9}},
    }


def _machine() -> str:
    name, _ = cpu_of_linux(CPUINFO)
    return f"{name or platform.processor()}, {cores()} cores"


def _run_stage(stage: str, work: Path, params: dict[str, Any]) -> None:
    write_json(work / "params.yaml", params)  # JSON is YAML
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root}
    subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=work, env=environment, check=True)


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error.cmd[2]} failed, see above; run again to go on from there")
