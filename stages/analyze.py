"""How alike teacher, proxy, student and auxiliary learners are, where they look and where they err.

Linear CKA of the pooled embeddings and KL divergence of the predictions between teacher, proxy and
student are the paper's Table 1 (ACKD, section 3.1); it names neither layer nor temperature, so the
usual ones are taken: the embedding before the classifier, and temperature 1. Grad-CAM panels are
its Figure 3. The rest shows whether the parts of the method have an effect: the learners'
agreement, their attention by class, calibration, and every class by itself, also against another
run.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

import models
from models import distillers
from models.distillers.base import Distiller, Setting
from models.errors import InputError
from models.learners import LearnerGroup, load_learners
from models.networks.backbone import Backbone, Features
from models.networks.checkpoint import load_network, load_state, load_strictly
from stages.analysis.calibration import calibration
from stages.analysis.classes import (
    OneClass,
    by_class,
    class_means,
    compare_runs,
    read_baseline,
    write_classes,
)
from stages.analysis.outputs import GroupOutputs, Outputs, run_group, run_network
from stages.analysis.similarity import accuracies, compare, diversity, gaps
from stages.data.arrays import DataSet, Images, load_data
from stages.data.feed.normalize import Normalize
from stages.entry import run_stage
from stages.files import new_folder, sha256, without_folders, write_json
from stages.grad_cam import draw_panel, grad_cam, resize
from stages.params import Params
from stages.sections.methods import Distill
from stages.training.device import prepare_device

NETWORKS = {
    name: Path(f"artifacts/{name}/model.safetensors") for name in ("teacher", "proxy", "student")
}
DISTILLED = Path("artifacts/distilled/model.safetensors")
ANALYSIS_FOLDER = Path("artifacts/analysis")
ANALYSIS_FILE = Path("reports/analysis.json")


class Shown(NamedTuple):
    """The images of the panel, uint8 ``[N, H, W, 3]``, and their labels ``[N]``."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def main(params: Params) -> None:
    """Write ``reports/analysis.json``, ``reports/classes.csv`` and the Grad-CAM panel."""
    settings = params.analyze
    data = load_data()
    baseline = None
    if settings.baseline is not None:
        baseline = read_baseline(Path(settings.baseline), data.classes)
    device = prepare_device()
    test, normalize = data.split("test"), Normalize(data.mean, data.std, device)
    networks = {name: load_network(path).to(device) for name, path in NETWORKS.items()}
    group = load_learners(DISTILLED).to(device)
    method = load_method(params.distill, data, networks["proxy"]) if group.names else None

    count = min(settings.cka_images, len(test))
    outputs = _outputs_of_networks(networks, test, normalize, count)
    seen = run_group(method.to(device), test, normalize, count) if method else None
    right = {name: out.answers == test.labels for name, out in outputs.items()}
    accuracy = accuracies({name: out.answers for name, out in outputs.items()}, test.labels)
    classes = by_class(test, data.classes, right["student"])
    gains = compare_runs(classes, baseline) if baseline else None
    write_json(
        ANALYSIS_FILE,
        {
            "pairs": compare(outputs),
            "accuracy": accuracy,
            "gap": gaps(accuracy),
            "calibration": {
                name: calibration(out.confidence, right[name]) for name, out in outputs.items()
            },
            "learners": diversity(seen, test.labels) if seen else None,
            "baseline": None
            if gains is None
            else {
                "path": without_folders(str(settings.baseline)),
                "paired": gains.paired,
                **gains.mean._asdict(),
            },
            "images": count,
            "test_images": len(test),
        },
    )
    write_classes(classes, _figures_by_class(outputs, seen, test, classes), gains)
    chosen = one_per_class(test.labels, settings.grad_cam_images)
    shown = Shown(test.images[chosen], test.labels[chosen])
    with new_folder(ANALYSIS_FOLDER) as folder:
        _draw(
            folder / "grad_cam.png",
            _looks(networks["teacher"], group, shown, normalize),
            shown,
            data,
        )


def load_method(settings: Distill, data: DataSet, teacher: Backbone) -> Distiller:
    """All that the stage ``distill`` trained, attention included, in eval mode.

    Raises:
        InputError: the file is missing, damaged, or of another method.
    """
    state, header = load_state(DISTILLED)
    if header["method"] != settings.method:
        raise InputError(
            f"{DISTILLED}: trained by {header['method']}, but distill.method is"
            f" {settings.method}; run `dvc repro`"
        )
    labels = torch.from_numpy(data.labels("train"))
    setting = Setting(teacher, data.image_size, labels, settings.batch_size, settings.epochs)
    student = models.build(header["network"], header["num_classes"])
    method = distillers.build(settings.method, student, setting, settings.options())
    load_strictly(method, state, DISTILLED)
    return method.eval()


def one_per_class(labels: npt.NDArray[np.int64], count: int) -> list[int]:
    """Indices of ``count`` images: the first of each class in turn, then the second of each."""
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_class = labels == label
        rank[of_class] = np.arange(of_class.sum())
    order = np.lexsort((labels, rank))
    return [int(index) for index in order[:count]]


def _outputs_of_networks(
    networks: dict[str, Backbone], test: Images, normalize: Normalize, count: int
) -> dict[str, Outputs]:
    by_file: dict[str, Outputs] = {}
    outputs = {}
    for name, network in networks.items():
        # The proxy may be a copy of the teacher's file; it need not run twice.
        key = sha256(NETWORKS[name])
        if key not in by_file:
            by_file[key] = run_network(network, name, test, normalize, count)
        outputs[name] = by_file[key]
    return outputs


def _figures_by_class(
    outputs: dict[str, Outputs], seen: GroupOutputs | None, test: Images, classes: list[OneClass]
) -> dict[str, list[float | None]]:
    """``accuracy/<network or learner>`` and ``attention/<learner>``, a value for each class."""
    answers = {name: outputs[name].answers for name in ("teacher", "student")}
    attention = {}
    if seen is not None:
        # The target is the student.
        answers |= {name: given for name, given in seen.answers.items() if name != "target"}
        attention = seen.attention
    columns = {f"accuracy/{name}": given == test.labels for name, given in answers.items()}
    columns |= {f"attention/{name}": weights for name, weights in attention.items()}
    return {
        name: class_means(values, test.labels, len(classes)) for name, values in columns.items()
    }


def _looks(
    teacher: Backbone, group: LearnerGroup, shown: Shown, normalize: Normalize
) -> dict[str, Features]:
    """Features of the networks that have maps to look at: those whose stages are known."""
    images = normalize(shown.images)
    target, learners = group.forward_all(images)
    by_name = {"teacher": teacher.features(images), "target": target}
    by_name |= dict(zip(group.names, learners, strict=True))
    return {name: features for name, features in by_name.items() if features.stages}


def _draw(path: Path, looks: dict[str, Features], shown: Shown, data: DataSet) -> None:
    labels = torch.from_numpy(shown.labels)
    columns = {}
    for name, features in looks.items():
        heat = grad_cam(features, labels.to(features.logits.device))
        columns[name] = (resize(heat, data.image_size), _captions(features, data.classes))
    draw_panel(path, shown.images, [_short(data.classes[i]) for i in labels.tolist()], columns)


def _captions(features: Features, classes: list[str]) -> list[str]:
    confidence, answer = features.logits.softmax(1).max(1)
    return [
        f"{_short(classes[index])} {probability:.0%}"
        for index, probability in zip(answer.tolist(), confidence.tolist(), strict=True)
    ]


def _short(name: str) -> str:
    return name if len(name) <= 10 else f"{name[:9]}…"


if __name__ == "__main__":
    run_stage(main)
