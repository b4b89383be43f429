"""Stage ``train_teacher``: train the network to learn from, or load one and measure it."""

from __future__ import annotations

from pathlib import Path

import torch

import models
from models import distillers
from models.checkpoint import load_checkpoint, save_network
from stages.data.arrays import load_data
from stages.data.feed import Normalize, TrainFeed
from stages.entry import run_stage
from stages.files import new_folder, write_csv, write_json
from stages.params import Params
from stages.training.device import prepare_device
from stages.training.loop import train
from stages.training.results import measure, measure_trained, write_reports

TEACHER_FOLDER = Path("artifacts/teacher")
REPORTS = Path("reports/teacher")


def main(params: Params) -> None:
    """Write ``artifacts/teacher`` and ``reports/teacher``."""
    settings = params.teacher
    data = load_data()
    device = prepare_device()
    torch.manual_seed(settings.seed)
    network = models.build(settings.network, len(data.classes))
    normalize = Normalize(data.mean, data.std, device)
    if settings.checkpoint is not None:
        load_checkpoint(Path(settings.checkpoint), network)
        metrics = measure(network.to(device), data, normalize)
        print(f"teacher: {settings.checkpoint} has {metrics['accuracy']:.2%} on the test images")
        # Nothing was trained: one row that says where the curve would end.
        row = {"epoch": 0, "loss/total": "", "val_accuracy": metrics["val_accuracy"]}
        write_csv(REPORTS / "history.csv", [row])
        write_json(REPORTS / "metrics.json", metrics)
    else:
        distiller = distillers.build("scratch", network, {}).to(device)
        feed = TrainFeed(data, params.augmentation, settings.batch_size, device)
        trained = train("teacher", distiller, None, feed, data.split("val"), settings)
        metrics = measure_trained(network, trained, data, normalize)
        write_reports(REPORTS, metrics, trained)
    with new_folder(TEACHER_FOLDER) as folder:
        save_network(folder / "model.safetensors", network)


if __name__ == "__main__":
    run_stage(main)
