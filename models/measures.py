"""Measures of a network's cost, and of the similarity of two networks' representations."""

import torch
from torch import Tensor, nn


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, image_size: int) -> int:
    """Count the multiply-adds of convolutions and linear layers for one square image.

    As is customary, BatchNorm, ReLU and biases are not counted. Running statistics do not change.
    """
    total = 0

    def add(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.Linear):
            total += output[0].numel() * module.weight[0].numel()

    handles = [module.register_forward_hook(add) for module in network.modules()]
    training = network.training
    try:
        with torch.no_grad():
            parameter = next(network.parameters())
            network.eval()(torch.zeros(1, 3, image_size, image_size, device=parameter.device))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return total


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Compute the linear centred kernel alignment of embeddings ``[N, D1]`` and ``[N, D2]``.

    ``||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F)`` with centred columns (Kornblith et al. 2019, Eq. 3), in
    float64. It is 1 for representations that are equal up to rotation and scale, and 0 if one of
    them is constant over the images.
    """
    x, y = (e.to(torch.float64) - e.to(torch.float64).mean(0) for e in (x, y))
    norms = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    if norms == 0:
        return 0.0
    return float(torch.linalg.matrix_norm(y.T @ x) ** 2 / norms)
