"""Stage ``distill``: train the student with whatever learns beside it."""

from pathlib import Path

from models.networks.checkpoint import describe, load_network, save_state
from stages.files import new_folder
from stages.launch import run_training_stage
from stages.params import Params
from stages.training.results import measure_trained, write_reports
from stages.training.run import start_session

PROXY = Path("artifacts/proxy/model.safetensors")
DISTILLED_FOLDER = Path("artifacts/distilled")
REPORTS = Path("reports/distill")


def main(params: Params) -> None:
    """Write ``artifacts/distilled`` and ``reports/distill``."""
    settings = params.distill
    session = start_session("distill", params)
    data, engine = session.data, session.engine
    teacher = load_network(PROXY).to(engine.device)
    # Draw the student first, so that with the same seed all methods start from the same weights.
    start = session.start("student", settings.network, settings)
    student = start.network
    method, unlabeled = settings.method, params.unlabeled_per_batch
    distiller, progress, checkpoints = session.train(
        method, student, settings, method, settings.options(), teacher, unlabeled
    )
    if engine.is_main:
        measured = measure_trained(student, progress, data, session.normalize)
        metrics = {"method": method} | measured | start.describe()
        if names := distiller.learner_names:
            last, shown = progress.history[-1], [*names, "ensemble"]
            metrics["learners"] = {name: last[f"val_accuracy/{name}"] for name in shown}
        write_reports(REPORTS, metrics, progress.history, engine)
        header = describe(student) | {
            "method": method,
            "learners": [name.partition("#")[0] for name in names],
            "teacher": describe(teacher),
            "image_size": data.image_size,
            "buffers": [name for name, _ in distiller.named_buffers()],
        }
        with new_folder(DISTILLED_FOLDER) as folder:
            save_state(folder / "model.safetensors", distiller.state_dict(), header)
        checkpoints.clear()
    engine.accelerator.end_training()


if __name__ == "__main__":
    run_training_stage(main, "stages.distill")
