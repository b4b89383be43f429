"""Does precision, or our loop, cost accuracy? KD under one schedule, by several ways.

A teacher is trained once, by the pipeline's own stages, in the folder ``--work``. Students are then
distilled from it in fp32 and bf16, and by RepDistiller's own loop on the same images, with several
seeds. What is done is kept in ``--output``: run again after an interruption, or on another machine
with ``--teacher-checkpoint``, and it goes on. Several may fill one ``--output`` side by side, each
with a ``--work`` and ``--only`` of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.page import table, write_section
from benchmarks.study import Json, Study
from models.errors import InputError
from stages.files import read_json

_RESULTS = Path("benchmarks/results/accuracy.json")
_PAGE = Path("docs/benchmarks.md")
_OURS = ("fp32", "bf16")
_PEER = "repdistiller"


def main(
    data: Annotated[str, typer.Option(help="As data.source of params.yaml")],
    work: Annotated[Path, typer.Option(help="Folder of the trainings; kept")],
    repdistiller: Annotated[Path | None, typer.Option(help="A checkout of RepDistiller")] = None,
    teacher: Annotated[str, typer.Option(help="Network of the teacher")] = "resnet56",
    teacher_epochs: Annotated[int, typer.Option(min=1)] = 5,
    teacher_checkpoint: Annotated[
        Path | None, typer.Option(help="What an earlier run trained (its artifacts/teacher)")
    ] = None,
    student: Annotated[str, typer.Option(help="Network of the student")] = "resnet20",
    epochs: Annotated[int, typer.Option(min=5, help="Of each student")] = 10,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Of {', '.join((*_OURS, _PEER))}, this one alone; may be repeated"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 2,
    output: Annotated[Path, typer.Option(help="JSON of the results")] = _RESULTS,
    page: Annotated[Path, typer.Option(help="Where the table goes")] = _PAGE,
) -> None:
    """Measure the accuracies that are still missing, and write the table."""
    if repdistiller is not None and not (repdistiller / "helper/loops.py").is_file():
        raise InputError(f"{repdistiller}: no checkout of RepDistiller, which has helper/loops.py")
    unknown = set(only or []) - {*_OURS, _PEER}
    if unknown:
        raise InputError(f"--only: expected {', '.join((*_OURS, _PEER))}, not {min(unknown)}")
    wanted = only or [*_OURS, _PEER]
    study = Study(_params(data, teacher, teacher_epochs, student, epochs), work, output)
    study.train_teacher(teacher_checkpoint)
    for seed in range(seeds):
        for precision in (precision for precision in _OURS if precision in wanted):
            settings: dict[str, Json] = {
                "training": {"precision": precision},
                "distill": {"seed": seed},
            }
            study.distil(f"{precision} {seed}", settings)
        name = f"{_PEER} {seed}"
        if repdistiller is not None and _PEER in wanted and study.missing(name, {"seed": seed}):
            command = [sys.executable, "-m", "benchmarks.repdistiller_training"]
            distill = study.params["distill"] | {"seed": seed}
            command += [str(repdistiller.resolve()), str(work), json.dumps(distill)]
            subprocess.run(command, check=True)
            study.keep(name, {"seed": seed}, read_json(work / f"repdistiller-{seed}.json"))
    text = markdown(study.results)
    print(text)
    write_section(page, "accuracy", text)


def markdown(results: Mapping[str, Any]) -> str:
    """A row for each way of training."""
    teacher, distill = (results["params"][section] for section in ("teacher", "distill"))
    machines = ", ".join(sorted({run["machine"] for run in results["runs"].values()}))
    head = (
        f"{teacher['network']} ({teacher['epochs']} epochs, {results['teacher']['accuracy']:.2%})"
        f" to {distill['network']} by KD ({distill['epochs']} epochs), test accuracy in percent"
        f" after the last epoch; each run on {machines}."
    )
    rows = []
    for way, title in (
        (_OURS[0], "fp32"),
        (_OURS[1], "bf16"),
        (_PEER, "RepDistiller's loop, fp32"),
    ):
        found = {
            int(name.removeprefix(f"{way} ")): 100 * run["accuracy"]
            for name, run in results["runs"].items()
            if name.startswith(f"{way} ")
        }
        if found:
            each = ", ".join(f"{found[seed]:.2f}" for seed in sorted(found))
            rows.append([title, f"{statistics.fmean(found.values()):.2f}", each])
    return f"{head}\n\n{table(['', 'mean', 'each seed'], rows)}\n"


def _params(data: str, teacher: str, teacher_epochs: int, student: str, epochs: int) -> Json:
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


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error.cmd[2]} failed, see above; run again to go on from there")
