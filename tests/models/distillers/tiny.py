"""Networks small enough to differentiate a loss numerically, and tools for that."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch, Distiller, TeacherOutputs
from models.networks.backbone import Backbone, Features

Array = npt.NDArray[np.float64]
#: Of a method that compares features.
WEIGHTS: dict[str, Any] = {
    "temperature": 4.0,
    "ce_weight": 1.0,
    "kd_weight": 0.0,
    "feature_weight": 1.0,
}


class Tiny(Backbone):
    """A network with a stage per width; every stage except the first halves the resolution."""

    stem_parts = ("conv",)

    def __init__(self, *widths: int, stride: int = 1) -> None:
        super().__init__()
        self.name, self.num_classes = "tiny", 3
        self.conv = nn.Conv2d(3, widths[0], 3, stride, 1)
        self.stage_parts = tuple((f"stage{i}",) for i in range(1, len(widths) + 1))
        before = widths[0]
        for i, width in enumerate(widths, 1):
            conv = nn.Conv2d(before, width, 3, 1 if i == 1 else 2, 1)
            self.add_module(f"stage{i}", nn.Sequential(conv, nn.BatchNorm2d(width), nn.Softplus()))
            before = width
        self.fc = nn.Linear(before, 3)
        for module in self.modules():  # so that samples differ much from each other
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.7)

    def stem(self, images: Tensor) -> Tensor:
        return F.softplus(self.conv(images))


def settle(module: nn.Module) -> None:
    """Give every BatchNorm values that differ from the initial ones, as after a training."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            for centred, positive in (
                (part.running_mean, part.running_var),
                (part.bias, part.weight),
            ):
                nn.init.uniform_(centred, -0.5, 0.5)
                nn.init.uniform_(positive, 0.5, 2.0)


def losses_of(
    method: Distiller, batch: Batch, teacher: TeacherOutputs | None = None
) -> dict[str, Tensor]:
    """Compute the losses of a batch like a training step."""
    return method.losses(method(batch.images), batch, teacher or TeacherOutputs())


def teach(teacher: Backbone, batch: Batch) -> TeacherOutputs:
    """Compute the teacher's outputs like the training loop: in eval mode, without gradients."""
    with torch.no_grad():
        features = teacher.eval().features(batch.images)
    return TeacherOutputs(features.logits, features)


class LossesOf(nn.Module):
    """Wraps :func:`losses_of` for ``functional_call``, with parameters ``method.<name>``."""

    def __init__(self, method: Distiller) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        return losses_of(self.method, batch, teacher)


def make_features(network: Backbone, image_size: int, samples: int, seed: int) -> Features:
    """Draw features in the network's shapes from a normal distribution, as float64 leaves."""
    rng = np.random.default_rng(seed)

    def draw(like: Tensor) -> Tensor:
        drawn = torch.from_numpy(rng.normal(size=(samples, *like.shape[1:])))
        return drawn.requires_grad_()

    stem, stages, embedding, logits = network.probe(image_size)
    return Features(draw(stem), tuple(map(draw, stages)), draw(embedding), draw(logits))


def detach(features: Features) -> Features:
    """Detach features, like a teacher's."""
    stem, stages, embedding, logits = features
    maps = tuple(feature_map.detach() for feature_map in stages)
    return Features(stem.detach(), maps, embedding.detach(), logits.detach())


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def linear(layer: nn.Module, x: Array) -> Array:
    return x @ array(layer.weight).T + array(layer.bias)


def numerical_gradients(
    loss: Callable[..., float], inputs: Sequence[Array], step: float = 1e-5
) -> list[Array]:
    """Compute central differences of ``loss(*inputs)`` for each number of each input."""
    gradients = []
    for moved in inputs:
        gradient = np.zeros_like(moved)
        for place in np.ndindex(moved.shape):
            kept = moved[place]
            moved[place] = kept + step
            above = loss(*inputs)
            moved[place] = kept - step
            below = loss(*inputs)
            moved[place] = kept
            gradient[place] = (above - below) / (2 * step)
        gradients.append(gradient)
    return gradients


def exact_gradient(loss: Callable[[Array], Any], point: Array) -> Array:
    """Compute the gradient of an analytic function by complex steps (Squire & Trapp).

    There is no subtraction, so it is exact to the last digits.
    """
    gradient = np.zeros_like(point)
    for place in np.ndindex(point.shape):
        moved = point.astype(complex)
        moved[place] += 1e-30j
        gradient[place] = loss(moved).imag / 1e-30
    return gradient


def convolve(x: Array, weight: Array) -> Array:
    """Convolve without bias, with stride 1 and padding that keeps the size."""
    around = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (around, around), (around, around)))
    height, width = x.shape[2:]
    out = np.zeros((len(x), len(weight), height, width), x.dtype)
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            part = padded[:, :, i : i + height, j : j + width]
            out += np.einsum("oc,bchw->bohw", weight[:, :, i, j], part)
    return out


def normalise(norm: nn.Module, x: Array) -> Array:
    """Apply BatchNorm in train mode."""
    centred = x - x.mean((0, 2, 3), keepdims=True)
    variance = (centred**2).mean((0, 2, 3), keepdims=True)
    scale, shift = (array(t)[:, None, None] for t in (norm.weight, norm.bias))
    return centred / np.sqrt(variance + 1e-5) * scale + shift


def pool(feature_map: Array, height: int, width: int) -> Array:
    """Average-pool ``[B, C, H, W]`` adaptively, window by window."""
    _, _, rows, columns = feature_map.shape
    pooled = np.empty((*feature_map.shape[:2], height, width), feature_map.dtype)
    for i in range(height):
        for j in range(width):
            top, bottom = i * rows // height, -(-(i + 1) * rows // height)
            left, right = j * columns // width, -(-(j + 1) * columns // width)
            pooled[:, :, i, j] = feature_map[:, :, top:bottom, left:right].mean((2, 3))
    return pooled


def pool_pair(a: Array, b: Array) -> tuple[Array, Array]:
    """Pool both to the smaller height and width."""
    height, width = np.minimum(a.shape[2:], b.shape[2:])
    return pool(a, height, width), pool(b, height, width)
