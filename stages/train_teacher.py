"""Stage ``train_teacher``: train the network to learn from, or load one and measure it."""

from __future__ import annotations

from pathlib import Path

from models.errors import InputError
from models.networks.backbone import Backbone
from models.networks.checkpoint import save_network
from models.weights import Normalization as PublishedNormalization
from models.weights import load_checkpoint, load_pretrained
from stages.data.arrays import DataSet
from stages.files import new_folder, write_csv, write_json
from stages.launch import run_training_stage
from stages.params import Params
from stages.sections.data import Normalization
from stages.sections.training import Teacher
from stages.training.results import measure, measure_trained, write_reports
from stages.training.run import start_session

TEACHER_FOLDER = Path("artifacts/teacher")
REPORTS = Path("reports/teacher")

_TOLERANCE = 0.01  # of an expected accuracy: other kernels and resizings give other last digits


def main(params: Params) -> None:
    """Write ``artifacts/teacher`` and ``reports/teacher``."""
    settings = params.teacher
    session = start_session("train_teacher", params)
    data, engine, normalize = session.data, session.engine, session.normalize
    network = session.draw(settings.network, settings.seed)
    if settings.checkpoint is not None:
        _load(network, settings, data)
        if engine.is_main:
            metrics = measure(network.to(engine.device), data, normalize)
            _require_accuracy(metrics["accuracy"], settings)
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
        _, progress, checkpoints = session.train("teacher", network, settings)
        if engine.is_main:
            metrics = measure_trained(network, progress, data, normalize)
            write_reports(REPORTS, metrics, progress, engine)
            _save(network)
            checkpoints.clear()
    engine.accelerator.end_training()


def _load(network: Backbone, settings: Teacher, data: DataSet) -> None:
    """Load the checkpoint, and have the network take images that are normalised as the data are."""
    published: Normalization | PublishedNormalization | None = None
    if settings.checkpoint == "pretrained":
        published = load_pretrained(network)
    elif settings.checkpoint is not None:
        said = load_checkpoint(Path(settings.checkpoint), network)
        print(f"teacher: {settings.checkpoint}: {said or 'every parameter, as it is'}")
    own = settings.normalization or published
    if own is not None:
        # x data_std + data_mean is the pixel; less own mean, by own std, what the network knows.
        channels = list(zip(data.mean, data.std, own.mean, own.std, strict=True))
        scale = [data_std / own_std for _, data_std, _, own_std in channels]
        shift = [(mean - own_mean) / own_std for mean, _, own_mean, own_std in channels]
        network.set_input(scale, shift)


def _require_accuracy(accuracy: float, settings: Teacher) -> None:
    expected = settings.expect_accuracy
    if expected is not None and abs(accuracy - expected) > _TOLERANCE:
        raise InputError(
            f"{settings.checkpoint}: has {accuracy:.2%} on the test images, where"
            f" teacher.expect_accuracy is {expected:.2%}; it may have been trained on other data,"
            " with another normalisation (set teacher.normalization) or another order of classes"
        )


def _save(network: Backbone) -> None:
    with new_folder(TEACHER_FOLDER) as folder:
        save_network(folder / "model.safetensors", network)


if __name__ == "__main__":
    run_training_stage(main, "stages.train_teacher")
