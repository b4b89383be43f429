"""A training's history: losses of each step, accuracies of each epoch."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.distillers.base import Distiller
from models.errors import InputError
from models.measures import linear_cka
from stages.data.arrays import Images
from stages.data.feed.normalize import Normalize
from stages.training.evaluate import accuracy, observe

Row = dict[str, float]

#: Steps between checks on a GPU that losses are finite; each check makes it wait.
_ASK_EVERY = 50


@dataclass
class Progress:
    """The progress of a training, which checkpoints hold besides weights and optimizers."""

    epoch: int = 0  # the current one, counted from 0
    step: int = 0  # batches done in the epoch
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Of each loss over this process's samples of the epoch so far."""
    seconds: float = 0.0  # spent on the epoch so far
    history: list[Row] = field(default_factory=list)  # a row for each finished epoch
    best_epoch: int = 0  # the first with the highest validation accuracy, counted from 1
    best_accuracy: float = -1.0  # its validation accuracy
    best_student: dict[str, Tensor] = field(default_factory=dict)
    """The student's state dict after it."""

    def keep(self, row: Row, student: Mapping[str, Tensor]) -> None:
        """Keep an epoch's row, and its student if it is the best so far."""
        self.history.append(row)
        if row["val_accuracy"] > self.best_accuracy:
            self.best_epoch, self.best_accuracy = self.epoch + 1, row["val_accuracy"]
            self.best_student = {name: t.cpu().clone() for name, t in student.items()}

    def next_epoch(self) -> None:
        self.epoch, self.step, self.seconds, self.sums = self.epoch + 1, 0, 0.0, {}


class Losses:
    """Sums up the losses of an epoch in its progress, and refuses one that is not finite."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._unchecked: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, losses: Mapping[str, Tensor], samples: int) -> None:
        """Add a step's losses, each a mean over ``samples``; raises as :meth:`require_finite`."""
        detached = {name: loss.detach() for name, loss in losses.items()}
        self._unchecked.append((self.progress.step, detached))
        if detached["total"].device.type == "cpu" or len(self._unchecked) == _ASK_EVERY:
            self.require_finite()
        sums = self.progress.sums
        for name, loss in detached.items():
            part = loss.double() * samples
            sums[name] = sums[name] + part if name in sums else part

    def require_finite(self) -> None:
        """Raise InputError if a loss added since the last check is not finite."""
        for step, losses in self._unchecked:
            wrong = [name for name, loss in losses.items() if not math.isfinite(loss.item())]
            if wrong:
                kept = "; the last checkpoint is kept" if self.progress.history else ""
                raise InputError(
                    f"not finite in epoch {self.progress.epoch + 1}, step {step}:"
                    f" loss {', '.join(wrong)}; use a smaller learning_rate or a smaller weight of"
                    f" the method's own loss{kept}"
                )
        self._unchecked.clear()


@torch.no_grad()
def validate(distiller: Distiller, val: Images, normalize: Normalize) -> Row:
    """Measure each learner's validation accuracy, the method's own measures, and CKA by pair."""
    seen = observe(distiller.eval().observe, val, normalize)
    accuracies = {name: accuracy(logits, val) for name, logits in seen.logits.items()}
    row: Row = {"val_accuracy": accuracies.pop("target")}
    row |= {f"val_accuracy/{name}": value for name, value in accuracies.items()}
    row |= {name: float(values.mean()) for name, values in seen.measures.items()}
    for a, b in itertools.combinations(seen.embeddings, 2):
        row[f"cka/{a}~{b}"] = linear_cka(seen.embeddings[a], seen.embeddings[b])
    return row
