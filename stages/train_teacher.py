"""Stage ``train_teacher``: train the teacher, or load one and measure it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import InputError
from models.networks.checkpoint import save_network
from stages.files import new_folder
from stages.launch import run_training_stage
from stages.params import Params
from stages.sections.training import Teacher
from stages.training.results import measure, measure_trained, write_reports
from stages.training.run import start_session

TEACHER_FOLDER = Path("artifacts/teacher")
REPORTS = Path("reports/teacher")

_TOLERANCE = 0.01  # for an expected accuracy, as kernels and resizing vary


def main(params: Params) -> None:
    """Write ``artifacts/teacher`` and ``reports/teacher``."""
    settings = params.teacher
    session = start_session("train_teacher", params)
    data, engine, normalize = session.data, session.engine, session.normalize
    start = session.start(
        "teacher", settings.network, settings, new_classifier=settings.train != "none"
    )
    network = start.network
    if settings.train == "head":
        network.freeze_trunk()
    trained = None if settings.train == "none" else session.train("teacher", network, settings)
    if engine.is_main:
        history: Sequence[Mapping[str, Any]]
        if trained is None:
            metrics = measure(network.to(engine.device), data, normalize)
            _require_accuracy(metrics["accuracy"], settings)
            print(f"teacher: {settings.weights} has {metrics['accuracy']:.2%} on the test images")
            # Nothing was trained, so the history is one row with the accuracy.
            history = [{"epoch": 0, "loss/total": "", "val_accuracy": metrics["val_accuracy"]}]
        else:
            metrics = measure_trained(network, trained.progress, data, normalize)
            history = trained.progress.history
        write_reports(REPORTS, metrics | start.describe(), history, engine)
        with new_folder(TEACHER_FOLDER) as folder:
            save_network(folder / "model.safetensors", network)
        if trained is not None:
            trained.checkpoints.clear()
    engine.accelerator.end_training()


def _require_accuracy(accuracy: float, settings: Teacher) -> None:
    expected = settings.expect_accuracy
    if expected is not None and abs(accuracy - expected) > _TOLERANCE:
        raise InputError(
            f"{settings.weights}: accuracy {accuracy:.2%} on the test images, expected"
            f" {expected:.2%} (teacher.expect_accuracy); it may have been trained on other data,"
            " with another normalisation (set teacher.normalization) or another order of classes"
        )


if __name__ == "__main__":
    run_training_stage(main, "stages.train_teacher")
