"""Optimizers and learning-rate schedules."""

import math
from typing import Any

from timm.optim import (  # type: ignore[attr-defined]
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from models.distillers.base import Distiller
from models.errors import InputError
from models.networks.backbone import Backbone
from stages.sections.training import Training

_WARMUP_SHARE = 0.3
_START, _END = 0.04, 1e-4


def build_optimizer(
    module: nn.Module, settings: Training, steps_per_epoch: int
) -> tuple[Optimizer, LambdaLR]:
    """Build the optimizer of a distiller or network, and its schedule, which advances by step.

    Raises:
        InputError: ``layer_decay`` is set, but the network's layers are not known.
    """
    groups, rate, decay = _groups(module, settings), settings.learning_rate, settings.weight_decay
    optimizer: Optimizer
    if settings.optimizer == "sgd":
        optimizer = SGD(groups, rate, settings.momentum, weight_decay=decay, fused=True)
    else:
        optimizer = AdamW(groups, rate, weight_decay=decay, fused=True)
    total = settings.epochs * steps_per_epoch

    def one_cycle(step: int) -> float:
        """Rise linearly, then fall as a cosine to almost 0 (after Smith & Topin 2019)."""
        warmup = max(1, round(_WARMUP_SHARE * total))
        if step < warmup:
            return _START + (1 - _START) * step / warmup
        done = (step - warmup) / max(1, total - warmup)
        return _END + (1 - _END) * 0.5 * (1 + math.cos(math.pi * done))

    def multi_step(step: int) -> float:
        """Divide by ten after each milestone epoch."""
        epochs_done = step // steps_per_epoch
        return float(0.1 ** sum(epochs_done >= milestone for milestone in settings.milestones))

    def cosine(step: int) -> float:
        """Rise linearly, then fall as half a cosine to 0 (Loshchilov & Hutter 2017)."""
        warmup = round(settings.warmup * total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    schedules = {"one_cycle": one_cycle, "multi_step": multi_step, "cosine": cosine}
    return optimizer, LambdaLR(optimizer, schedules[settings.schedule])


def check_layers(network: Backbone, layer_decay: float) -> None:
    """Raise InputError if ``layer_decay`` is set, but the network's layers are not known."""
    if layer_decay != 1 and not hasattr(getattr(network, "network", None), "group_matcher"):
        raise InputError(
            f"layer_decay is {layer_decay}, but the layers of {network.name} are not known; set it"
            " to 1, or use one of timm's networks"
        )


def _groups(module: nn.Module, settings: Training) -> list[dict[str, Any]]:
    """Group parameters by weight decay and, for the student's layers, by learning rate.

    Whatever trains beside the student is new and takes the full rate.
    """
    decay, spares = settings.weight_decay, settings.optimizer == "adamw"
    if settings.layer_decay == 1:
        if spares:
            return list(param_groups_weight_decay(module, decay))
        return [{"params": [p for p in module.parameters() if p.requires_grad]}]
    student: Any = module.student if isinstance(module, Distiller) else module
    check_layers(student, settings.layer_decay)
    beside = nn.Module()
    for name, child in module.named_children():
        if isinstance(module, Distiller) and child is not student:
            beside.add_module(name, child)
    groups = param_groups_layer_decay(
        student.network, decay, weight_decay_exclude_1d=spares, layer_decay=settings.layer_decay
    )
    groups += param_groups_weight_decay(beside, decay, weight_decay_exclude_1d=spares)
    for group in groups:
        group["lr"] = settings.learning_rate * group.pop("lr_scale", 1.0)
    return [group for group in groups if group["params"]]
