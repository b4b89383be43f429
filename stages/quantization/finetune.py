"""Quantization-aware fine-tuning: an int8 model learns to answer as the fp32 student does."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.distillers.losses import kl_divergence
from stages.data.feed.base import Feed
from stages.sections.export import Finetune
from stages.sections.training import Training
from stages.training.optimizer import build_optimizer

#: Both have the same weights to begin with: what is to be won back are the student's own
#: probabilities, with none of a higher temperature's weight on the least likely classes.
_TEMPERATURE = 1.0
#: Norm of a step's gradient. Folding leaves weights of very different sizes, where a step may
#: overshoot; what an int8 model that is nearly right has to learn has gradients far below it.
_LARGEST_GRADIENT = 1.0


def finetune(
    network: nn.Module,
    student: Callable[[Tensor], Tensor],
    feed: Feed,
    settings: Finetune,
    watch: Callable[[int, float], None],
) -> None:
    """Train the weights of an int8 model by ``KL(student || network)`` on the training images.

    SGD with momentum and one cycle of the learning rate, without weight decay. Nothing is drawn:
    the order and augmentation of the images are the feed's.

    Args:
        network: a :class:`stages.quantization.network.QuantizedNetwork`.
        student: gives the fp32 logits ``[B, K]`` of images as the feed gives them.
        feed: the training images.
        settings: epochs and learning rate.
        watch: is told of each epoch, counted from 1, and its mean loss in nats.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    schedule_of = Training(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=0.0,
    )
    optimizer, schedule = build_optimizer(network, schedule_of, feed.steps)
    for epoch in range(settings.epochs):
        total = torch.zeros((), dtype=torch.float64, device=feed.normalize.device)
        for shard in feed.epoch(epoch):
            images = shard.batch.images
            with torch.no_grad():
                wanted = student(images)
            loss = kl_divergence(network(images), wanted, _TEMPERATURE)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
            total += loss.detach().double() * len(images)
        mean = float(total) / feed.seen
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"export.finetune: the loss became {mean} in epoch {epoch + 1}; use a smaller"
                " export.finetune.learning_rate in params.yaml"
            )
        watch(epoch + 1, mean)
