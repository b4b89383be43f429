"""The contract of every method: what it trains, what it needs, and its losses by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from models.backbone import Backbone, Features

Needs = Literal["nothing", "logits", "features"]
"""What a method asks of the teacher."""


class Setting(NamedTuple):
    """What is known before a training, and what methods take their sizes from.

    Attributes:
        teacher: None where there is none; a method may look at its shapes, and copy parts of it.
        image_size: height and width in pixels.
        labels: ``[N]``, of the training images in the order of their indices.
        batch_size: images a step of one process.
        epochs: of the training.
    """

    teacher: Backbone | None
    image_size: int
    labels: Tensor
    batch_size: int
    epochs: int


class Batch(NamedTuple):
    """Normalised images ``[B, 3, H, W]``, labels ``[B]`` and sample indices ``[B]``."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class Knowledge(NamedTuple):
    """What the teacher says of a batch; only what the method declared that it needs."""

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

    As all of it is submodules, parameters, state dict, device moves and distribution are right by
    construction. The teacher is not part of it: what it knows comes as :class:`Knowledge`.

    Args:
        student: the target learner; it becomes a part of this.
        setting: what the method is built for.

    Attributes:
        student: the target learner.
        step_adversary: set by the training loop where :meth:`adversary_optimizer` gives one; takes
            a loss of the adversary, and steps the adversary's parameters alone. ``forward`` calls
            it between the forward pass and the main losses.
        gather: set by the training loop where several processes train; joins what each of them
            holds, ``[B, ...]``, along the first axis, in the order of the processes. B may differ.
            What remembers single samples keeps alike in all processes by means of it; the loop
            itself averages nothing but BatchNorm's statistics.
        needs_full_batches: whether every batch must hold ``setting.batch_size`` samples; the
            training loop then leaves out the rest of an epoch that does not fill one.
    """

    needs: ClassVar[Needs]
    needs_full_batches: ClassVar[bool] = False

    def __init__(self, student: Backbone, setting: Setting) -> None:
        super().__init__()
        self.student = student
        self.step_adversary: Callable[[Tensor], None] | None = None
        self.gather: Callable[[Tensor], Tensor] = _alone

    def begin_epoch(self, epoch: int) -> None:
        """Called before the steps of an epoch, counted from 0, or before those that are left."""

    def forward(self, batch: Batch, knowledge: Knowledge) -> dict[str, Tensor]:
        """The losses by name, scalars, ``total`` among them."""
        raise NotImplementedError

    def observe(self, images: Tensor) -> Observation:
        """What the learners make of ``[B, 3, H, W]``; called in eval mode without gradients."""
        return Observation({"target": self.student(images)}, {}, {})

    def adversary_optimizer(self) -> Optimizer | None:
        """An optimizer of its own for parameters that work against the rest; None without such."""
        return None

    def learner_names(self) -> list[str]:
        """The auxiliary learners, in the order of their parameters."""
        return []


def _alone(own: Tensor) -> Tensor:
    return own
