"""Stage ``analyze``: compare teacher, proxy, student and auxiliary learners.

Linear CKA of the pooled embeddings and KL divergence of the predictions between teacher, proxy and
student follow Table 1 of the ACKD paper (section 3.1). It names neither layer nor temperature, so
the usual ones are used: the embedding before the classifier, and temperature 1. Grad-CAM panels
follow its Figure 3. The rest shows whether the parts of the method have an effect: the learners'
agreement, attention by class, calibration, and accuracy by class, also against another run.
"""

from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import distillers
from models.distillers.base import Distiller, Observation, Setting
from models.learners import LearnerGroup, load_learners
from models.networks.backbone import Backbone, Features
from models.networks.checkpoint import (
    build_described,
    load_network,
    load_state,
    load_strictly,
)
from stages.analysis.calibration import calibration, confidence
from stages.analysis.classes import (
    by_class,
    class_means,
    compare_runs,
    read_baseline,
    write_classes,
)
from stages.analysis.errors import confident_errors, confused_pairs, draw_errors
from stages.analysis.scores import scores
from stages.analysis.similarity import attention_of, compare, diversity
from stages.data.arrays import DataSet, Images, load_data
from stages.data.feed.normalize import Normalize
from stages.entry import run_stage
from stages.files import new_folder, sha256, without_folders, write_json
from stages.grad_cam import draw_looks
from stages.params import Params
from stages.sections.methods import Distill
from stages.training.device import prepare_device
from stages.training.evaluate import observe

NETWORKS = {
    name: Path(f"artifacts/{name}/model.safetensors") for name in ("teacher", "proxy", "student")
}
DISTILLED = Path("artifacts/distilled/model.safetensors")
ANALYSIS_FOLDER = Path("artifacts/analysis")
ANALYSIS_FILE = Path("reports/analysis.json")


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
    seen = _observe(networks, test, normalize)
    observed = observe(method.to(device).observe, test, normalize) if method else None
    answers = {name: z.argmax(1).numpy() for name, z in seen.logits.items()}
    right = {name: answer == test.labels for name, answer in answers.items()}
    accuracy = {name: float(found.mean()) for name, found in right.items()}
    classes = by_class(test, data.classes, right["student"])
    gains = compare_runs(classes, baseline) if baseline else None
    compared = None
    if gains is not None:
        path = without_folders(str(settings.baseline))
        compared = {"path": path, "paired": gains.paired, **gains.mean._asdict()}
    given, sure = answers["student"], confidence(seen.logits["student"].numpy())
    errors = confident_errors(sure, given, test.labels, data.classes)
    write_json(
        ANALYSIS_FILE,
        {
            "pairs": compare(seen, count),
            "accuracy": accuracy,
            "scores": {
                name: scores(seen.logits[name].numpy(), test.labels)
                for name in ("teacher", "student")
            },
            "gap": {f"{a}_{b}": accuracy[a] - accuracy[b] for a, b in combinations(accuracy, 2)},
            "calibration": {
                name: calibration(confidence(z.numpy()), right[name])
                for name, z in seen.logits.items()
            },
            "confused": confused_pairs(given, test.labels, data.classes),
            "confident_errors": errors,
            "learners": diversity(observed, test.labels, count) if observed else None,
            "baseline": compared,
            "images": count,
            "test_images": len(test),
        },
    )
    columns = {f"accuracy/{name}": right[name] for name in ("teacher", "student")}
    if observed is not None:
        for name, logits in observed.logits.items():
            if name != "target":
                columns[f"accuracy/{name}"] = logits.argmax(1).numpy() == test.labels
        columns |= {n: w.double().numpy() for n, w in attention_of(observed).items()}
    means = {n: class_means(c, test.labels, len(classes)) for n, c in columns.items()}
    write_classes(classes, means, gains)
    chosen = one_per_class(test.labels, settings.grad_cam_images)
    with new_folder(ANALYSIS_FOLDER) as folder:
        images, labels = test.images[chosen], torch.from_numpy(test.labels[chosen]).to(device)
        looks = _looks(networks["teacher"], group, normalize(images))
        draw_looks(folder / "grad_cam.png", images, labels, looks, data.classes)
        if errors:
            shown = test.images[[error["image"] for error in errors]]
            draw_errors(folder / "errors.png", shown, errors)


def _observe(networks: dict[str, Backbone], test: Images, normalize: Normalize) -> Observation:
    """Collect logits and embeddings of the networks on ``test``."""
    # If the proxy is a copy of the teacher, it need not run again.
    copied = sha256(NETWORKS["proxy"]) == sha256(NETWORKS["teacher"])

    def look(images: Tensor) -> Observation:
        found: dict[str, Features] = {}
        for name, network in networks.items():
            reuse = copied and name == "proxy"
            found[name] = found["teacher"] if reuse else network.features(images)
        logits = {name: features.logits for name, features in found.items()}
        return Observation(logits, {n: features.embedding for n, features in found.items()}, {})

    return observe(look, test, normalize)


def load_method(settings: Distill, data: DataSet, teacher: Backbone) -> Distiller:
    """Load everything that the stage ``distill`` trained, in eval mode."""
    state, header = load_state(DISTILLED)
    labels = torch.from_numpy(data.labels("train"))
    setting = Setting(teacher, data.image_size, labels, settings.batch_size, settings.epochs)
    student = build_described(header)
    method = distillers.build(settings.method, student, setting, settings.options())
    load_strictly(method, state, DISTILLED)
    method.begin_epoch(settings.epochs - 1)  # the last epoch, after all warm-ups
    return method.eval()


def one_per_class(labels: npt.NDArray[np.int64], count: int) -> list[int]:
    """Return indices of ``count`` images: the first of each class, then the second, and so on."""
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_class = labels == label
        rank[of_class] = np.arange(of_class.sum())
    order = np.lexsort((labels, rank))
    return [int(index) for index in order[:count]]


def _looks(teacher: Backbone, group: LearnerGroup, images: Tensor) -> dict[str, Features]:
    """Compute the features of all networks that have feature maps."""
    target, learners = group(images)
    by_name = {"teacher": teacher.features(images), "target": target}
    by_name |= dict(zip(group.names, learners, strict=True))
    return {name: features for name, features in by_name.items() if features.stages}


if __name__ == "__main__":
    run_stage(main)
