"""How alike networks are, and how much auxiliary learners differ."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from models.measures import linear_cka
from stages.analysis.outputs import Answers, GroupOutputs, Outputs


def compare(outputs: Mapping[str, Outputs]) -> list[dict[str, Any]]:
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


def accuracies(answers: Mapping[str, Answers], labels: Answers) -> dict[str, float]:
    """The accuracy of each on ``[N]`` images."""
    return {name: float((given == labels).mean()) for name, given in answers.items()}


def gaps(accuracy: Mapping[str, float]) -> dict[str, float]:
    """By how much the first of every two is ahead."""
    return {f"{a}_{b}": accuracy[a] - accuracy[b] for a, b in combinations(accuracy, 2)}


def diversity(group: GroupOutputs, labels: Answers) -> dict[str, Any]:
    """How target, learners and ensemble differ.

    ``cka`` is of the learners, ``agreement`` the share of images that get the same answer from
    both, with the target and the ensemble too, and ``attention`` the mean weight in the ensemble.
    """
    return {
        "cka": {
            f"{a}~{b}": linear_cka(group.embeddings[a], group.embeddings[b])
            for a, b in combinations(group.embeddings, 2)
        },
        "agreement": {
            f"{a}~{b}": float(np.mean(group.answers[a] == group.answers[b]))
            for a, b in combinations(group.answers, 2)
        },
        "accuracy": accuracies(group.answers, labels),
        "attention": {name: float(weights.mean()) for name, weights in group.attention.items()},
    }
