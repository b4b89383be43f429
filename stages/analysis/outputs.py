"""Outputs for the test images: of networks, and of all that was trained beside the student."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.distillers.base import Distiller
from models.networks.backbone import Backbone
from stages.analysis.calibration import confidence
from stages.data.arrays import Images
from stages.data.feed.normalize import Normalize
from stages.progress import track

Answers = npt.NDArray[np.int64]

_BATCH = 256
_ATTENTION = "attention/"


@dataclass(frozen=True)
class Outputs:
    """A network's answers to N images, and its full outputs for the first n.

    Attributes:
        answers: ``[N]``, the class with the greatest logit.
        confidence: ``[N]``, its probability.
        embedding: ``[n, D]``, float32 on the CPU.
        logits: ``[n, K]``, likewise.
    """

    answers: Answers
    confidence: npt.NDArray[np.float64]
    embedding: Tensor
    logits: Tensor


@dataclass(frozen=True)
class GroupOutputs:
    """The answers of a student's group to N images.

    Attributes:
        answers: ``[N]`` of the target, of each auxiliary learner, and of their ensemble.
        embeddings: ``[n, D]`` of each auxiliary learner, of the first n images.
        attention: ``[N]``, how much each counted in the ensemble; they sum to 1 for an image.
    """

    answers: dict[str, Answers]
    embeddings: dict[str, Tensor]
    attention: dict[str, npt.NDArray[np.float64]]


@torch.no_grad()
def run_network(
    network: Backbone, name: str, test: Images, normalize: Normalize, count: int
) -> Outputs:
    """Run all of ``test``, and keep embeddings and logits of the first ``count``."""
    answers, confidences, embeddings, logits = [], [], [], []
    for start in track(range(0, len(test), _BATCH), f"analyze {name}"):
        features = network.features(normalize(test.images[start : start + _BATCH]))
        batch = features.logits.float().cpu()
        answers.append(batch.argmax(1).numpy())
        confidences.append(confidence(batch.numpy()))
        kept = max(count - start, 0)
        embeddings.append(features.embedding[:kept].float().cpu())
        logits.append(batch[:kept])
    return Outputs(
        np.concatenate(answers),
        np.concatenate(confidences),
        torch.cat(embeddings),
        torch.cat(logits),
    )


@torch.no_grad()
def run_group(method: Distiller, test: Images, normalize: Normalize, count: int) -> GroupOutputs:
    """As :func:`run_network`, for all that ``method`` shows; it must be in eval mode."""
    answers: dict[str, list[Answers]] = defaultdict(list)
    embeddings: dict[str, list[Tensor]] = defaultdict(list)
    attention: dict[str, list[npt.NDArray[np.float64]]] = defaultdict(list)
    for start in track(range(0, len(test), _BATCH), "analyze learners"):
        seen = method.observe(normalize(test.images[start : start + _BATCH]))
        for name, logits in seen.logits.items():
            answers[name].append(logits.argmax(1).cpu().numpy())
        for name, embedding in seen.embeddings.items():
            embeddings[name].append(embedding[: max(count - start, 0)].float().cpu())
        for name, values in seen.measures.items():
            if name.startswith(_ATTENTION):
                weights = values.double().cpu().numpy()
                attention[name.removeprefix(_ATTENTION)].append(weights)
    return GroupOutputs(
        {name: np.concatenate(parts) for name, parts in answers.items()},
        {name: torch.cat(parts) for name, parts in embeddings.items()},
        {name: np.concatenate(parts) for name, parts in attention.items()},
    )
