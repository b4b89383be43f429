"""SGD and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from stages.sections.training import Training

_WARMUP_SHARE = 0.3
_START, _END = 0.04, 1e-4


def build_optimizer(
    parameters: Iterable[nn.Parameter], settings: Training, steps_per_epoch: int
) -> tuple[SGD, LambdaLR]:
    """SGD with momentum over all parameters alike, and the learning rate step by step.

    Weight decay goes to every parameter, as in the reference codes of the field.
    """
    optimizer = SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    total = settings.epochs * steps_per_epoch

    def one_cycle(step: int) -> float:
        """Linear rise, then a cosine to nearly nothing (after Smith & Topin 2019)."""
        warmup = max(1, round(_WARMUP_SHARE * total))
        if step < warmup:
            return _START + (1 - _START) * step / warmup
        done = (step - warmup) / max(1, total - warmup)
        return _END + (1 - _END) * 0.5 * (1 + math.cos(math.pi * done))

    def multi_step(step: int) -> float:
        """Divided by ten after each milestone epoch."""
        epochs_done = step // steps_per_epoch
        return float(0.1 ** sum(epochs_done >= milestone for milestone in settings.milestones))

    return optimizer, LambdaLR(
        optimizer, one_cycle if settings.schedule == "one_cycle" else multi_step
    )
