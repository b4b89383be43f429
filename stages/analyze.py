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
from typing import Any, NamedTuple

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
from stages.data.feed import Normalize
from stages.entry import run_stage
from stages.files import new_folder, sha256, write_json
from stages.grad_cam import draw_panel, grad_cam, resize
from stages.params import Params
from stages.progress import track
from stages.training.device import prepare_device
from stages.training.evaluate import accuracy

NETWORKS = {
    name: Path(f"artifacts/{name}/model.safetensors") for name in ("teacher", "proxy", "student")
}
DISTILLED = Path("artifacts/distilled/model.safetensors")
ANALYSIS_FOLDER = Path("artifacts/analysis")
ANALYSIS_FILE = Path("reports/analysis.json")

_BATCH = 256


@dataclass(frozen=True)
class Outputs:
    """What a network says about N images: embeddings ``[N, D]`` and logits ``[N, K]``."""

    embedding: Tensor
    logits: Tensor

    @property
    def answers(self) -> Tensor:
        return self.logits.argmax(1)

    def first(self, count: int) -> Outputs:
        return Outputs(self.embedding[:count], self.logits[:count])


class Shown(NamedTuple):
    """The images of the panel, uint8 ``[N, H, W, 3]``, and their labels ``[N]``."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def main(params: Params) -> None:
    """Write ``reports/analysis.json`` and ``artifacts/analysis/grad_cam.png``."""
    device = prepare_device()
    data = load_data()
    test, normalize = data.split("test"), Normalize(data.mean, data.std, device)
    networks = {name: load_network(path).to(device) for name, path in NETWORKS.items()}
    group = load_learners(DISTILLED).to(device)

    outputs = _outputs_of_networks(networks, test, normalize)
    learners = _outputs_of_learners(group, test, normalize) if group.names else {}
    count = min(params.analyze.cka_images, len(test))
    write_json(
        ANALYSIS_FILE,
        {
            "pairs": compare({name: out.first(count) for name, out in outputs.items()}),
            **accuracies(outputs, test),
            "learners": diversity(learners, test, count) if learners else None,
            "images": count,
            "test_images": len(test),
        },
    )
    chosen = one_per_class(test.labels, params.analyze.grad_cam_images)
    shown = Shown(test.images[chosen], test.labels[chosen])
    with new_folder(ANALYSIS_FOLDER) as folder:
        _draw(
            folder / "grad_cam.png",
            _looks(networks["teacher"], group, shown, normalize),
            shown,
            data,
        )


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


def accuracies(outputs: dict[str, Outputs], test: Images) -> dict[str, dict[str, float]]:
    """Accuracy of each network, and by how much the first of each two is ahead."""
    right = {name: accuracy(out.logits, test) for name, out in outputs.items()}
    gap = {f"{a}_{b}": right[a] - right[b] for a, b in combinations(right, 2)}
    return {"accuracy": right, "gap": gap}


def diversity(learners: dict[str, Outputs], test: Images, cka_images: int) -> dict[str, Any]:
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
        "accuracy": {name: accuracy(out.logits, test) for name, out in learners.items()},
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
    networks: dict[str, Backbone], test: Images, normalize: Normalize
) -> dict[str, Outputs]:
    by_file: dict[str, Outputs] = {}
    outputs = {}
    for name, network in networks.items():
        # The proxy may be a copy of the teacher's file; it need not run twice.
        key = sha256(NETWORKS[name])
        if key not in by_file:
            by_file[key] = _outputs_of(network, name, test, normalize)
        outputs[name] = by_file[key]
    return outputs


def _outputs_of(network: Backbone, name: str, test: Images, normalize: Normalize) -> Outputs:
    return _run(lambda x: [network.features(x)], name, test, normalize)[0]


def _outputs_of_learners(
    group: LearnerGroup, test: Images, normalize: Normalize
) -> dict[str, Outputs]:
    outputs = _run(lambda x: group.forward_all(x)[1], "learners", test, normalize)
    return dict(zip(group.names, outputs, strict=True))


@torch.no_grad()
def _run(
    forward: Callable[[Tensor], Sequence[Features]], name: str, test: Images, normalize: Normalize
) -> list[Outputs]:
    by_batch = []
    for start in track(range(0, len(test), _BATCH), f"analyze {name}"):
        seen = forward(normalize(test.images[start : start + _BATCH]))
        by_batch.append([Outputs(f.embedding.cpu(), f.logits.cpu()) for f in seen])
    return [
        Outputs(torch.cat([out.embedding for out in each]), torch.cat([out.logits for out in each]))
        for each in zip(*by_batch, strict=True)
    ]


def _looks(
    teacher: Backbone, group: LearnerGroup, shown: Shown, normalize: Normalize
) -> dict[str, Features]:
    images = normalize(shown.images)
    target, learners = group.forward_all(images)
    by_name = {"teacher": teacher.features(images), "target": target}
    return by_name | dict(zip(group.names, learners, strict=True))


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
