"""Linear CKA against its definition by centred Gram matrices."""

import numpy as np
import torch

from models.measures import linear_cka


def cka_by_gram(x: np.ndarray, y: np.ndarray) -> float:
    n = len(x)
    centre = np.eye(n) - np.full((n, n), 1 / n)
    gx, gy = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return float(np.trace(gx @ gy) / np.sqrt(np.trace(gx @ gx) * np.trace(gy @ gy)))


def test_equals_the_definition():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 7)) + 3
    y = x @ rng.normal(size=(7, 5)) + 0.5 * rng.normal(size=(40, 5))
    measured = linear_cka(torch.from_numpy(x), torch.from_numpy(y))
    assert abs(measured - cka_by_gram(x, y)) < 1e-12
    assert 0.3 < measured < 1


def test_a_constant_representation_has_no_similarity():
    assert linear_cka(torch.ones(5, 3), torch.randn(5, 3)) == 0.0
