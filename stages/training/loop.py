"""One loop for every method: the teacher, the proxies and the student are all trained here."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.backbone import Backbone
from models.distillers.base import Batch, Distiller, Knowledge
from models.errors import InputError
from models.similarity import linear_cka
from stages.data.arrays import Images
from stages.data.feed import TrainFeed
from stages.params import Training
from stages.training.display import Display
from stages.training.evaluate import Seen, accuracy, observe
from stages.training.optimizer import build_optimizer

Row = dict[str, float]


@dataclass(frozen=True)
class Trained:
    """What a training leaves besides the weights in the distiller, which are the last epoch's.

    Attributes:
        history: a row an epoch.
        best_epoch: counted from 1, the first with the highest accuracy on validation.
        best_student: the student's state dict of that epoch.
    """

    history: list[Row]
    best_epoch: int
    best_student: dict[str, Tensor]


def train(
    what: str,
    distiller: Distiller,
    teacher: Backbone | None,
    feed: TrainFeed,
    val: Images,
    settings: Training,
) -> Trained:
    """Train the student and all that belongs to its method.

    Args:
        what: the name that progress is shown under.
        distiller: on the feed's device.
        teacher: where the method needs one; it runs in eval mode without gradients.
        feed: the training images.
        val: what accuracy is watched on; it decides nothing but which epoch was best.
        settings: epochs, learning rate and so on.

    Raises:
        InputError: a loss is not finite, or the method needs a teacher and there is none.
    """
    teach = _knowledge_source(distiller, teacher)
    adversary = _give_adversary_its_step(distiller)
    parameters = [p for p in distiller.parameters() if id(p) not in adversary]
    optimizer, schedule = build_optimizer(parameters, settings, feed.steps)

    history: list[Row] = []
    best_epoch, best_accuracy, best_student = 0, -1.0, {}
    with Display(what, settings.epochs, feed.steps) as display:
        for epoch in range(settings.epochs):
            start = time.perf_counter()
            learning_rate = float(schedule.get_last_lr()[0])
            sums: dict[str, Tensor] = {}
            distiller.train()
            for batch in feed.epoch(epoch):
                losses = distiller(batch, teach(batch))
                optimizer.zero_grad(set_to_none=True)
                losses["total"].backward()
                optimizer.step()
                schedule.step()
                for name, loss in losses.items():
                    part = loss.detach() * len(batch.labels)
                    sums[name] = sums[name] + part if name in sums else part
                display.step()
            seconds = time.perf_counter() - start
            means = {name: total.item() / len(feed) for name, total in sums.items()}
            _require_finite(means, epoch)

            distiller.eval()
            row: Row = {"epoch": epoch + 1, "learning_rate": learning_rate, "seconds": seconds}
            row["images_per_second"] = len(feed) / seconds
            row |= {f"loss/{name}": mean for name, mean in means.items()}
            row |= _on_validation(observe(distiller.observe, val, feed.normalize), val)
            history.append(row)
            if row["val_accuracy"] > best_accuracy:
                best_epoch, best_accuracy = epoch + 1, row["val_accuracy"]
                best_student = {k: v.clone() for k, v in distiller.student.state_dict().items()}
            display.epoch(row)
    return Trained(history, best_epoch, best_student)


def _knowledge_source(
    distiller: Distiller, teacher: Backbone | None
) -> Callable[[Batch], Knowledge]:
    if distiller.needs == "nothing":
        return lambda batch: Knowledge()
    if teacher is None:
        raise InputError(f"{type(distiller).__name__} learns from a teacher, and none was given")
    # In eval mode: a frozen teacher's running statistics must not move.
    network = teacher.eval().requires_grad_(False)

    @torch.no_grad()
    def teach(batch: Batch) -> Knowledge:
        if distiller.needs == "logits":
            return Knowledge(logits=network(batch.images))
        features = network.features(batch.images)
        return Knowledge(features.logits, features)

    return teach


def _give_adversary_its_step(distiller: Distiller) -> set[int]:
    """Arrange the adversary's own step; returns the ids of the parameters that it trains."""
    optimizer = distiller.adversary_optimizer()
    if optimizer is None:
        return set()

    def step(loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()

    distiller.step_adversary = step
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _require_finite(means: dict[str, float], epoch: int) -> None:
    for name, mean in means.items():
        if not math.isfinite(mean):
            raise InputError(
                f"the loss {name!r} became {mean} in epoch {epoch + 1}; use a smaller learning_rate"
            )


def _on_validation(seen: Seen, val: Images) -> Row:
    accuracies = {name: accuracy(logits, val) for name, logits in seen.logits.items()}
    row: Row = {"val_accuracy": accuracies.pop("target")}
    row |= {f"val_accuracy/{name}": value for name, value in accuracies.items()}
    row |= {name: float(values.mean()) for name, values in seen.measures.items()}
    for a, b in itertools.combinations(seen.embeddings, 2):
        row[f"cka/{a}~{b}"] = linear_cka(seen.embeddings[a], seen.embeddings[b])
    return row
