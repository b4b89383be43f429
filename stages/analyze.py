"""How alike teacher, proxy, student and auxiliary learners are, and where they look.

Linear CKA of the pooled embeddings and KL divergence of the predictions between teacher, proxy and
student are the paper's Table 1 (ACKD, section 3.1); it names neither layer nor temperature, so the
usual ones are taken: the embedding before the classifier, and temperature 1. Grad-CAM panels are
its Figure 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from models.backbone import Backbone, Features
from models.checkpoint import load_network
from models.learners import LearnerGroup, load_learners
from models.similarity import linear_cka
from stages.data.arrays import DataSet, Images, load_data
from stages.entry import run_stage
from stages.files import new_folder, sha256, write_json
from stages.grad_cam import draw_panel, grad_cam, resize
from stages.params import Params
from stages.progress import track

NETWORKS = {
    name: Path(f"artifacts/{name}/model.safetensors") for name in ("teacher", "proxy", "student")
}
DISTILLED = Path("artifacts/distilled/model.safetensors")
ANALYSIS_FOLDER = Path("artifacts/analysis")
ANALYSIS_FILE = Path("reports/analysis.json")

_BATCH = 100


@dataclass(frozen=True)
class Outputs:
    """What a network says about N images: embeddings ``[N, D]`` and logits ``[N, K]``."""

    embedding: Tensor
    logits: Tensor

    @property
    def answers(self) -> Tensor:
        return self.logits.argmax(1)

    def accuracy(self, labels: Tensor) -> float:
        return float((self.answers == labels).double().mean())

    def first(self, count: int) -> Outputs:
        return Outputs(self.embedding[:count], self.logits[:count])


def main(params: Params) -> None:
    """Write ``reports/analysis.json`` and ``artifacts/analysis/grad_cam.png``."""
    data = load_data()
    test = data.split("test")
    networks = {name: load_network(path) for name, path in NETWORKS.items()}
    group = load_learners(DISTILLED)

    outputs = _outputs_of_networks(networks, data, test)
    learners = _outputs_of_learners(group, data, test) if group.names else {}
    labels = torch.from_numpy(np.array(test.labels))
    count = min(params.analyze.cka_images, len(test))
    write_json(
        ANALYSIS_FILE,
        {
            "pairs": compare({name: out.first(count) for name, out in outputs.items()}),
            **accuracies(outputs, labels),
            "learners": diversity(learners, labels, count) if learners else None,
            "images": count,
            "test_images": len(test),
        },
    )
    with new_folder(ANALYSIS_FOLDER) as folder:
        shown = (networks["teacher"], group)
        _draw(folder / "grad_cam.png", shown, data, test, params.analyze.grad_cam_images)


def compare(outputs: dict[str, Outputs]) -> list[dict[str, Any]]:
    """CKA and KL of every two networks, in the order given.

    KL is that of the second's prediction from the first's, ``KL(first || second)``.
    """
    return [
        {
            "a": a,
            "b": b,
            "cka": linear_cka(outputs[a].embedding, outputs[b].embedding),
            "kl": kl_divergence(outputs[a].logits, outputs[b].logits),
        }
        for a, b in combinations(outputs, 2)
    ]


def kl_divergence(logits: Tensor, other: Tensor) -> float:
    """``KL(p || q)`` in nats at temperature 1, the mean over the images; ``[N, K]`` each."""
    p, q = (F.log_softmax(z.double(), 1) for z in (logits, other))
    return float((p.exp() * (p - q)).sum(1).mean())


def accuracies(outputs: dict[str, Outputs], labels: Tensor) -> dict[str, dict[str, float]]:
    """Accuracy of each network, and by how much the first of each two is ahead."""
    accuracy = {name: out.accuracy(labels) for name, out in outputs.items()}
    return {
        "accuracy": accuracy,
        "gap": {f"{a}_{b}": accuracy[a] - accuracy[b] for a, b in combinations(accuracy, 2)},
    }


def diversity(learners: dict[str, Outputs], labels: Tensor, cka_images: int) -> dict[str, Any]:
    """How the auxiliary learners differ: CKA on the first images, the rest on all of them.

    ``agreement`` is the share of images that get the same answer from both.
    """
    pairs = {f"{a}~{b}": (learners[a], learners[b]) for a, b in combinations(learners, 2)}
    return {
        "cka": {
            pair: linear_cka(x.first(cka_images).embedding, y.first(cka_images).embedding)
            for pair, (x, y) in pairs.items()
        },
        "agreement": {
            pair: float((x.answers == y.answers).double().mean()) for pair, (x, y) in pairs.items()
        },
        "accuracy": {name: out.accuracy(labels) for name, out in learners.items()},
    }


def one_per_class(labels: npt.NDArray[np.int64], count: int) -> list[int]:
    """Indices of ``count`` images: the first of each class in turn, then the second of each."""
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_class = labels == label
        rank[of_class] = np.arange(of_class.sum())
    order = np.lexsort((labels, rank))
    return [int(index) for index in order[:count]]


def _outputs_of_networks(
    networks: dict[str, Backbone], data: DataSet, test: Images
) -> dict[str, Outputs]:
    by_file: dict[str, Outputs] = {}
    outputs = {}
    for name, network in networks.items():
        # The proxy may be a copy of the teacher's file; it need not run twice.
        key = sha256(NETWORKS[name])
        if key not in by_file:
            by_file[key] = _outputs_of(network, name, data, test)
        outputs[name] = by_file[key]
    return outputs


def _outputs_of(network: Backbone, name: str, data: DataSet, test: Images) -> Outputs:
    return _run(lambda x: [network.features(x)], name, data, test)[0]


def _outputs_of_learners(group: LearnerGroup, data: DataSet, test: Images) -> dict[str, Outputs]:
    outputs = _run(lambda x: group.forward_all(x)[1], "learners", data, test)
    return dict(zip(group.names, outputs, strict=True))


@torch.no_grad()
def _run(
    forward: Callable[[Tensor], Sequence[Features]], name: str, data: DataSet, test: Images
) -> list[Outputs]:
    batches = [
        forward(_normalised(test.images[start : start + _BATCH], data))
        for start in track(range(0, len(test), _BATCH), f"analyze {name}")
    ]
    return [
        Outputs(torch.cat([f.embedding for f in each]), torch.cat([f.logits for f in each]))
        for each in zip(*batches, strict=True)
    ]


def _normalised(images: npt.NDArray[np.uint8], data: DataSet) -> Tensor:
    x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (data.mean, data.std))
    return (x - mean) / std


def _draw(
    path: Path, networks: tuple[Backbone, LearnerGroup], data: DataSet, test: Images, count: int
) -> None:
    teacher, group = networks
    chosen = one_per_class(test.labels, count)
    images, labels = test.images[chosen], torch.from_numpy(test.labels[chosen])
    x = _normalised(images, data)
    target, learners = group.forward_all(x)
    features = {"teacher": teacher.features(x), "target": target}
    features |= dict(zip(group.names, learners, strict=True))
    columns = {
        name: (resize(grad_cam(each, labels), images.shape[1]), _captions(each, data.classes))
        for name, each in features.items()
    }
    draw_panel(path, images, [_short(data.classes[i]) for i in labels.tolist()], columns)


def _captions(features: Features, classes: list[str]) -> list[str]:
    confidence, answer = features.logits.softmax(1).max(1)
    return [
        f"{_short(classes[index])} {probability:.0%}"
        for index, probability in zip(answer.tolist(), confidence.tolist(), strict=True)
    ]


def _short(name: str) -> str:
    return name if len(name) <= 12 else f"{name[:11]}…"


if __name__ == "__main__":
    run_stage(main)
