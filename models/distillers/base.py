"""The contract of every method: what it trains, what it needs, and its losses by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from models.networks.backbone import Backbone, Features

Needs = Literal["nothing", "logits", "features"]
"""What a method asks of the teacher."""


def _alone(own: Tensor) -> Tensor:
    return own


class Setting(NamedTuple):
    """What is known before a training, and what methods take their sizes from.

    Attributes:
        teacher: None where there is none; a method may look at its shapes, and copy parts of it.
        image_size: height and width in pixels.
        labels: ``[N]``, of the training images in the order of their indices.
        batch_size: images a step of one process.
        epochs: of the training.
        gather: joins what each process holds, ``[B, ...]``, along the first axis, in the order of
            the processes; B may differ. A method that remembers single samples keeps its memory
            alike in all processes by it; the training loop averages BatchNorm's statistics alone.
        copies: whether what branches off the student starts as a copy of its stages, which hold
            weights from elsewhere, and not afresh.
    """

    teacher: Backbone | None
    image_size: int
    labels: Tensor
    batch_size: int
    epochs: int
    gather: Callable[[Tensor], Tensor] = _alone
    copies: bool = False


class Batch(NamedTuple):
    """A part of the training images.

    Attributes:
        images: normalised, ``[B, 3, H, W]``.
        labels: ``[B]``, of the samples themselves, also where others are mixed into them; -1 where
            there is none.
        indices: ``[B]``, of the samples.
        targets: ``[B, K]``, what the classes' probabilities should be, where that is not all on
            the label: smoothed, mixed or weighted. Without a label they are 0, and larger by as
            much in the other rows, so that the mean over all rows is the mean over those.
        slots: ``[B]``, on the CPU: the place of each sample in its epoch, which the teacher's
            logits are kept by.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    targets: Tensor | None = None
    slots: Tensor | None = None


class TeacherOutputs(NamedTuple):
    """What the teacher computes for a batch; only what the method declared that it needs."""

    logits: Tensor | None = None
    features: Features | None = None


class Observation(NamedTuple):
    """What there is to see of a method on a batch, without training it.

    Attributes:
        logits: ``[B, K]`` by learner; ``target`` always, and first.
        embeddings: ``[B, D]`` of each auxiliary learner, whose likeness is of interest.
        measures: further figures by name, each ``[B]``, one a sample.
    """

    logits: dict[str, Tensor]
    embeddings: dict[str, Tensor]
    measures: dict[str, Tensor]


class Distiller(nn.Module):
    """A student, and everything that is trained beside it.

    A training step calls, in this order, ``outputs = distiller(images)``, the part that several
    processes wrap; ``distiller.adversary_loss(outputs)`` where there is an adversary, which its own
    optimizer steps; and ``distiller.losses(outputs, batch, teacher)``.

    As all of it is submodules, parameters, state dict, device moves and distribution are right by
    construction. The teacher is not part of it: what it computes comes as :class:`TeacherOutputs`.

    Args:
        student: the target learner; it becomes a part of this.
        setting: what the method is built for.
        **options: those of the method's section of ``params.yaml``; they become attributes, which
            its class declares.

    Attributes:
        student: the target learner.
        epoch: the one that is going on, counted from 0.
        epochs: of the training.
        adversary: what works against the rest, or None. It is frozen except in its own step.
        needs_labels: whether it learns nothing from an image without a label.
        needs_full_batches: whether every batch must hold ``setting.batch_size`` samples; the
            training loop then leaves out the rest of an epoch that does not fill one.
    """

    needs: ClassVar[Needs]
    needs_labels: ClassVar[bool] = False
    needs_full_batches: ClassVar[bool] = False

    def __init__(self, student: Backbone, setting: Setting, **options: Any) -> None:
        super().__init__()
        self.student, self.epoch, self.epochs = student, 0, setting.epochs
        for name, value in options.items():
            setattr(self, name, value)

    @property
    def adversary(self) -> nn.Module | None:
        return None

    def begin_epoch(self, epoch: int) -> None:
        """Called before the steps of an epoch, counted from 0, or before those that are left."""
        self.epoch = epoch

    def forward(self, images: Tensor) -> Any:
        """What the losses are made of: here the target's logits, ``[B, 3, H, W]`` to ``[B, K]``."""
        return self.student(images)

    def losses(self, outputs: Any, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        """The losses by name, scalars of float32 or more, ``total`` among them."""
        raise NotImplementedError

    def adversary_loss(self, outputs: Any) -> Tensor:
        """What the adversary minimises, a scalar that depends on its parameters alone."""
        raise NotImplementedError

    def adversary_optimizer(self) -> Optimizer:
        """Over the adversary's parameters."""
        raise NotImplementedError

    def observe(self, images: Tensor) -> Observation:
        """What the learners make of ``[B, 3, H, W]``; called in eval mode without gradients."""
        return Observation({"target": self.student(images)}, {}, {})

    def learner_names(self) -> list[str]:
        """The auxiliary learners, in the order of their parameters."""
        return []
