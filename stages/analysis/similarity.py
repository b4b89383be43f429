"""Measure the similarity of networks and the diversity of auxiliary learners."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from models.measures import linear_cka

if TYPE_CHECKING:
    from models.distillers.base import Observation

_ATTENTION = "attention/"


def compare(seen: Observation, count: int) -> list[dict[str, Any]]:
    """Compute CKA and ``KL(a || b)`` of each pair of networks on the first ``count`` images."""
    embeddings, logits = _first(seen.embeddings, count), _first(seen.logits, count)
    return [
        {
            "a": a,
            "b": b,
            "cka": linear_cka(embeddings[a], embeddings[b]),
            "kl": kl_divergence(logits[a], logits[b]),
        }
        for a, b in combinations(logits, 2)
    ]


def kl_divergence(logits: Tensor, other: Tensor) -> float:
    """Return the mean ``KL(p || q)`` in nats over images, from logits ``[N, K]``."""
    p, q = (F.log_softmax(z.double(), 1) for z in (logits, other))
    return float((p.exp() * (p - q)).sum(1).mean())


def diversity(group: Observation, labels: npt.NDArray[np.int64], count: int) -> dict[str, Any]:
    """Measure how target, learners and ensemble differ.

    ``cka`` compares learners on the first ``count`` images. ``agreement`` is the fraction of images
    with the same prediction, also for target and ensemble. ``attention`` is the mean weight in the
    ensemble.
    """
    answers = {name: logits.argmax(1).numpy() for name, logits in group.logits.items()}
    embeddings = _first(group.embeddings, count)
    return {
        "cka": {
            f"{a}~{b}": linear_cka(embeddings[a], embeddings[b])
            for a, b in combinations(embeddings, 2)
        },
        "agreement": {
            f"{a}~{b}": float(np.mean(answers[a] == answers[b]))
            for a, b in combinations(answers, 2)
        },
        "accuracy": {name: float((given == labels).mean()) for name, given in answers.items()},
        "attention": {
            name.removeprefix(_ATTENTION): float(weights.double().numpy().mean())
            for name, weights in attention_of(group).items()
        },
    }


def attention_of(group: Observation) -> dict[str, Tensor]:
    """Return ``attention/<learner>``, each learner's weight in the ensemble, ``[N]``."""
    return {name: w for name, w in group.measures.items() if name.startswith(_ATTENTION)}


def _first(values: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value[:count] for name, value in values.items()}
