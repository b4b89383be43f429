"""How alike networks are, and how much auxiliary learners differ."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from models.measures import linear_cka
from stages.training.evaluate import Seen

_ATTENTION = "attention/"


def compare(seen: Seen, count: int) -> list[dict[str, Any]]:
    """CKA and KL of every two networks on the first ``count`` images, in the order given.

    KL is that of the second's prediction from the first's, ``KL(first || second)``.
    """
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
    """``KL(p || q)`` in nats at temperature 1, the mean over the images; ``[N, K]`` each."""
    p, q = (F.log_softmax(z.double(), 1) for z in (logits, other))
    return float((p.exp() * (p - q)).sum(1).mean())


def diversity(group: Seen, labels: npt.NDArray[np.int64], count: int) -> dict[str, Any]:
    """How target, learners and ensemble differ.

    ``cka`` is of the learners on the first ``count`` images, ``agreement`` the share of images that
    get the same answer from both, with the target and the ensemble too, and ``attention`` the mean
    weight in the ensemble.
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


def attention_of(group: Seen) -> dict[str, Tensor]:
    """``attention/<learner>``: how much each counted in the ensemble, ``[N]``."""
    return {name: w for name, w in group.measures.items() if name.startswith(_ATTENTION)}


def _first(values: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value[:count] for name, value in values.items()}
