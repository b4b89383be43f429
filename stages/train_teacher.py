"""Stage ``train_teacher``: train the network to learn from, or load one and measure it."""

from __future__ import annotations

from pathlib import Path

import torch

import models
from models import distillers
from models.backbone import Backbone
from models.checkpoint import load_checkpoint, save_network
from stages.data.arrays import load_data
from stages.data.feed import Normalize
from stages.files import new_folder, write_csv, write_json
from stages.params import Params
from stages.training.engine import start_engine
from stages.training.launch import run_training_stage
from stages.training.results import measure, measure_trained, write_reports
from stages.training.run import run_training, setting_of

TEACHER_FOLDER = Path("artifacts/teacher")
REPORTS = Path("reports/teacher")


def main(params: Params) -> None:
    """Write ``artifacts/teacher`` and ``reports/teacher``."""
    settings = params.teacher
    data = load_data()
    engine = start_engine(params.training)
    torch.manual_seed(settings.seed)
    network = models.build(settings.network, len(data.classes))
    normalize = Normalize(data.mean, data.std, engine.device)
    if settings.checkpoint is not None:
        load_checkpoint(Path(settings.checkpoint), network)
        if engine.is_main:
            metrics = measure(network.to(engine.device), data, normalize)
            print(
                f"teacher: {settings.checkpoint} has {metrics['accuracy']:.2%} on the test images"
            )
            # Nothing was trained: one row that says where the curve would end.
            row = {"epoch": 0, "loss/total": "", "val_accuracy": metrics["val_accuracy"]}
            write_csv(REPORTS / "history.csv", [row])
            write_json(REPORTS / "metrics.json", metrics)
            write_json(REPORTS / "environment.json", engine.describe())
            _save(network)
    else:
        setting = setting_of(data, settings, engine)
        distiller = engine.place(distillers.build("scratch", network, setting, {}))
        progress, checkpoints = run_training(
            "train_teacher", "teacher", distiller, data, params, settings, engine
        )
        if engine.is_main:
            metrics = measure_trained(network, progress, data, normalize)
            write_reports(REPORTS, metrics, progress, engine)
            _save(network)
            checkpoints.clear()
    engine.accelerator.end_training()


def _save(network: Backbone) -> None:
    with new_folder(TEACHER_FOLDER) as folder:
        save_network(folder / "model.safetensors", network)


if __name__ == "__main__":
    run_training_stage(main, "stages.train_teacher")
