"""Write a training's metrics, history and environment."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from models.measures import count_macs, count_parameters
from models.networks.backbone import Backbone
from stages.data.arrays import DataSet
from stages.data.feed.normalize import Normalize
from stages.files import write_csv, write_json
from stages.training.engine import Engine
from stages.training.evaluate import accuracy, predict
from stages.training.history import Progress


def measure(network: Backbone, data: DataSet, normalize: Normalize) -> dict[str, Any]:
    """Measure a network's accuracies, in float32, and its costs."""
    test, val = data.split("test"), data.split("val")
    return {
        "network": network.name,
        "accuracy": accuracy(predict(network.eval(), test, normalize), test),
        "val_accuracy": accuracy(predict(network, val, normalize), val),
        "parameters": count_parameters(network),
        "macs": count_macs(network, data.image_size),
    }


def measure_trained(
    network: Backbone, progress: Progress, data: DataSet, normalize: Normalize
) -> dict[str, Any]:
    """As :func:`measure`, with the accuracies of the best epoch on validation.

    The network keeps the last epoch's weights.
    """
    metrics = measure(network, data, normalize)
    last = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(progress.best_student)
    at_best = measure(network, data, normalize)
    network.load_state_dict(last)
    return metrics | {
        "best_epoch": progress.best_epoch,
        "best_val_accuracy": at_best["val_accuracy"],
        "accuracy_at_best": at_best["accuracy"],
        "epochs": len(progress.history),
    }


def write_reports(
    folder: Path, metrics: dict[str, Any], history: Iterable[Mapping[str, Any]], engine: Engine
) -> None:
    """Write ``metrics.json``, ``history.csv`` and ``environment.json``."""
    write_csv(folder / "history.csv", history)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "environment.json", engine.describe())
