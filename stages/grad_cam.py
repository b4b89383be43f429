"""Compute Grad-CAM (Selvaraju et al. 2017) and draw it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from torch import Tensor
from torch.nn import functional as F

from models.networks.backbone import Features

# Readable on white and near-black, because the page has a light and a dark scheme.
INK = "#7d7d7d"
CELL_INCHES = 1.1
#: For names in scripts that matplotlib's own font lacks, those of these that are installed.
_OTHER_FONTS = {"Arial Unicode MS", "Droid Sans Fallback", "Noto Sans CJK JP", "Noto Sans CJK SC"}


def grad_cam(features: Features, classes: Tensor) -> Tensor:
    """Compute how much each place of the last stage's map supports a class, from 0 to 1.

    ``ReLU(sum_c w_c A_c)`` with ``w_c`` the gradient of the class's logit, averaged over the
    map (Eq. 1-2), divided by its maximum. All 0 if nothing supports the class.

    Args:
        features: computed with gradients enabled and BatchNorm in eval mode, so that an image's
            logits do not depend on the rest of the batch.
        classes: ``[B]``, the class to explain for each image.

    Returns:
        ``[B, H, W]``, in the resolution of the last stage's map.
    """
    last_map = features.stages[-1]
    of_class = features.logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(of_class, last_map, retain_graph=True)
    weights = gradient.mean((2, 3), keepdim=True)
    heat = F.relu((weights * last_map).sum(1)).detach()
    peak = heat.amax((1, 2), keepdim=True)
    return heat / torch.where(peak > 0, peak, torch.ones_like(peak))


def draw_looks(
    path: Path,
    images: npt.NDArray[np.uint8],
    labels: Tensor,
    looks: Mapping[str, Features],
    classes: Sequence[str],
) -> None:
    """Write a PNG with a row per image: the image, then each network's heat map for its label.

    Below each is the network's prediction. Equal arguments give equal bytes.

    Args:
        images: ``[B, H, W, 3]``.
        looks: the networks' features of these images, as for :func:`grad_cam`.
    """
    names = [shortened(name, 10) for name in classes]
    rows, across = len(images), len(looks) + 1
    inches = CELL_INCHES * across, CELL_INCHES * 1.18 * rows + 0.2
    with panel(path, rows, across, inches) as (figure, grid):
        for row, label in enumerate(labels.tolist()):
            for axes in grid[row]:
                axes.imshow(images[row], interpolation="nearest")
            grid[row][0].set_xlabel(names[label], color=INK, labelpad=3)
        for column, features in zip(grid.T[1:], looks.values(), strict=True):
            heat, size = grad_cam(features, labels)[:, None], images.shape[1:3]
            large = F.interpolate(heat, size=size, mode="bilinear", align_corners=False)[:, 0].cpu()
            answers = zip(*(z.tolist() for z in features.logits.softmax(1).max(1)), strict=True)
            for axes, shown, (sure, answer) in zip(column, large.numpy(), answers, strict=True):
                axes.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=0.6)
                axes.set_xlabel(f"{names[answer]} {sure:.0%}", color=INK, labelpad=3)
        for axes, title in zip(grid[0], ["image", *looks], strict=True):
            axes.set_title(title, color=INK, fontsize=10, pad=5)
        figure.subplots_adjust(
            left=0.01,
            right=0.99,
            top=1 - 0.28 / figure.get_figheight(),
            bottom=0.02,
            hspace=0.22,
            wspace=0.06,
        )


def shortened(name: str, most: int) -> str:
    """Shorten a name to at ``most`` this many characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


@contextmanager
def panel(
    path: Path, rows: int, columns: int, inches: tuple[float, float]
) -> Iterator[tuple[Figure, Any]]:
    """Open a figure with a grid for pictures, and write it as a reproducible PNG at the end."""
    fonts = ["DejaVu Sans", *sorted(_OTHER_FONTS & set(get_font_names()))]
    # Without math, because a class may be called "$".
    with mpl.rc_context({"font.family": fonts, "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=inches, dpi=160)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        yield figure, grid
        figure.savefig(path, format="png", transparent=True, metadata={"Software": None})
