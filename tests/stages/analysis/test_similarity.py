import numpy as np
import pytest
import torch

from stages.analysis.outputs import GroupOutputs
from stages.analysis.similarity import diversity, kl_divergence


def test_agreement_counts_equal_answers():
    answers = {"target": np.arange(4), "a": np.array([0, 1, 3, 2]), "ensemble": np.arange(4)}
    embeddings = {"a": torch.rand(4, 3)}
    weights = {"a": np.array([0.5, 1.0, 0.5, 0.0])}
    report = diversity(GroupOutputs(answers, embeddings, weights), np.array([0, 1, 3, 3]))
    assert report == {
        "cka": {},
        "agreement": {"target~a": 0.5, "target~ensemble": 1.0, "a~ensemble": 0.5},
        "accuracy": {"target": 0.75, "a": 0.75, "ensemble": 0.75},
        "attention": {"a": 0.5},
    }


def test_kl_divergence_is_not_symmetric_and_survives_extreme_logits():
    sharp, flat = torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert kl_divergence(sharp, flat) == pytest.approx(np.log(2))
    assert kl_divergence(flat, sharp) == pytest.approx(100 - np.log(2))
