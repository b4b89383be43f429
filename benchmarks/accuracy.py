"""Does precision, or our loop, cost accuracy? KD under one schedule, by several ways.

A teacher is trained once, by the pipeline's own stages, in the folder ``--work``. Students are then
distilled from it in fp32 and bf16, and by RepDistiller's own loop on the same images, with several
seeds. What is done is kept: run again after an interruption, and it goes on.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import FOLDER, PAGE, Json, check_checkout, command, publish, table
from benchmarks.study import Study, describe_students
from stages.files import read_json

_OURS = ("fp32", "bf16")
_PEER = "repdistiller"
_SGD = {"batch_size": 128, "weight_decay": 5e-4, "momentum": 0.9}
#: The settings of RepDistiller's paper but for the number of epochs.
PARAMS: Json = {
    "data": {"image_size": 32},
    "augmentation": {"crop_padding": 4, "horizontal_flip": True},
    "training": {"precision": "fp32", "checkpoint_minutes": 5.0},
    "teacher": _SGD | {"network": "resnet56", "epochs": 5, "learning_rate": 0.1},
    "distill": _SGD
    | {"network": "resnet20", "method": "kd", "epochs": 10, "learning_rate": 0.05}
    | {"schedule": "multi_step", "milestones": [6, 8], "temperature": 4.0}
    | {"kd": {"ce_weight": 0.1, "kd_weight": 0.9}},
}


def main(
    data: Annotated[str, typer.Option(help="As data.source of params.yaml")],
    work: Annotated[Path, typer.Option(help="Folder of the trainings; kept")],
    repdistiller: Annotated[Path | None, typer.Option(help="A checkout of RepDistiller")] = None,
    teacher_checkpoint: Annotated[
        Path | None, typer.Option(help="What an earlier run trained (its artifacts/teacher)")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 2,
    output: Annotated[Path, typer.Option(help="JSON of the results")] = FOLDER / "accuracy.json",
    page: Annotated[Path, typer.Option(help="Where the table goes")] = PAGE,
) -> None:
    """Measure the accuracies that are still missing, and write the table."""
    checkout = repdistiller and check_checkout(repdistiller)
    study = Study(PARAMS | {"data": PARAMS["data"] | {"source": data}}, work, output)
    study.train_teacher(teacher_checkpoint)
    for seed in range(seeds):
        settings = {"distill": {"seed": seed}}
        for precision in _OURS:
            study.distil(f"{precision} {seed}", {"training": {"precision": precision}} | settings)
        name = f"{_PEER} {seed}"
        if checkout is not None and study.missing(name, {"seed": seed}):
            params = PARAMS | {"distill": PARAMS["distill"] | {"seed": seed}}
            chosen = json.dumps({"checkout": str(checkout), "params": params})
            study.run_module("benchmarks.contenders.repdistiller", chosen)
            study.keep(name, {"seed": seed}, read_json(work / "repdistiller.json"))
    publish("accuracy", markdown(study.results), page)


def markdown(results: Mapping[str, Any]) -> str:
    """A row for each way of training."""
    rows = []
    for way, title in zip((*_OURS, _PEER), (*_OURS, "RepDistiller's loop, fp32"), strict=True):
        found = {
            name: 100 * run["accuracy"]
            for name, run in results["runs"].items()
            if name.startswith(f"{way} ")
        }
        if found:
            each = ", ".join(f"{found[name]:.2f}" for name in sorted(found))
            rows.append([title, f"{statistics.fmean(found.values()):.2f}", each])
    return f"{describe_students(results)}\n\n{table(['', 'mean, %', 'each seed'], rows)}\n"


if __name__ == "__main__":
    command(main)
