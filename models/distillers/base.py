"""The interface of all methods: what they train, what they need, and their losses by name."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from models.networks.backbone import Backbone, Features

Needs = Literal["nothing", "logits", "features"]  # what a method needs from the teacher


class Setting(NamedTuple):
    """Properties of a training that methods are built for."""

    teacher: Backbone | None
    """The teacher, if any. A method may read its shapes and copy parts of it."""
    image_size: int  # height and width in pixels
    labels: Tensor  # of the training images by index, [N]
    batch_size: int  # images per step of one process
    epochs: int
    gather: Callable[[Tensor], Tensor] = lambda own: own
    """Concatenates the tensors ``[B, ...]`` of all processes in the order of the processes; B may
    differ. Methods with a memory of samples use it to keep the memory identical in all processes,
    because the training loop only synchronises BatchNorm statistics."""
    copies: bool = False
    """Whether branches of the student start as copies of its stages, because these have pretrained
    weights, or are initialised from scratch."""


class Batch(NamedTuple):
    images: Tensor  # normalised images, [B, 3, H, W]
    labels: Tensor  # of the samples, [B], even if others are mixed in; -1 if unlabelled
    indices: Tensor  # of the samples, [B]
    targets: Tensor | None = None
    """Target probabilities, ``[B, K]``, if they are smoothed, mixed or weighted, else None. Rows of
    unlabelled images are 0 and the other rows are scaled up, so the mean over all rows equals the
    mean over the labelled ones."""
    slots: Tensor | None = None
    """Positions of the samples in their epoch, ``[B]``, on the CPU; the index of the stored teacher
    logits."""
    mixed_classes: Tensor | None = None  # classes with the larger share, [B], if images are mixed


class TeacherOutputs(NamedTuple):
    """The teacher's outputs for a batch, as far as the method declares that it needs them."""

    logits: Tensor | None = None
    features: Features | None = None


class Observation(NamedTuple):
    """A method's outputs for a batch, or a split, in validation."""

    logits: dict[str, Tensor]  # [B, K] by learner; target comes first
    embeddings: dict[str, Tensor]
    """Embeddings ``[B, D]`` of the auxiliary learners, whose similarity is reported."""
    measures: dict[str, Tensor]  # others by name, one value per sample, [B]


class Distiller(nn.Module):
    """A student and everything that is trained with it.

    A training step calls, in this order:

    1. ``outputs = distiller(images)``, which data parallelism wraps;
    2. ``distiller.adversary_loss(outputs)`` if there is an adversary, which has its own optimizer;
    3. ``distiller.losses(outputs, batch, teacher)``.

    Everything trained is a submodule, so parameters, state dict, device moves and distribution work
    without further code. The teacher is no submodule; its results are passed as
    :class:`TeacherOutputs`.

    The ``options`` are the method's section of ``params.yaml``; they become the attributes that its
    class declares.
    """

    needs: ClassVar[Needs]
    needs_labels: ClassVar[bool] = False  # it cannot learn from unlabelled images
    needs_full_batches: ClassVar[bool] = False
    """Every batch must have ``setting.batch_size`` samples; an incomplete last one is dropped."""
    min_batch: ClassVar[int] = 2  # images per step of one process; BatchNorm needs two
    learner_names: Sequence[str] = ()  # of auxiliary learners, in the order of their parameters

    def __init__(self, student: Backbone, setting: Setting, **options: Any) -> None:
        super().__init__()
        self.check_networks(student, setting.teacher)
        self.student, self.epoch, self.epochs = student, 0, setting.epochs
        for name, value in options.items():
            setattr(self, name, value)

    @classmethod
    def check_networks(cls, student: Backbone, teacher: Backbone | None) -> None:
        """Raise InputError if the method needs stages of a network that has no known ones."""

    @property
    def adversary(self) -> nn.Module | None:
        """The module trained against the others, if any; frozen except in its own step."""
        return None

    def begin_epoch(self, epoch: int) -> None:
        """Start an epoch, counted from 0; also called when a training resumes within an epoch."""
        self.epoch = epoch

    def forward(self, images: Tensor) -> Any:
        """Compute the inputs of the losses; by default the target's logits, ``[B, K]``."""
        return self.student(images)

    def losses(self, outputs: Any, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        """Return the losses by name, including ``total``, as scalars of at least float32."""
        raise NotImplementedError

    def adversary_loss(self, outputs: Any) -> Tensor:
        """Return the adversary's loss, a scalar that depends only on the adversary's parameters."""
        raise NotImplementedError

    def adversary_optimizer(self) -> Optimizer:
        raise NotImplementedError

    def observe(self, images: Tensor) -> Observation:
        """Observe the learners on images ``[B, 3, H, W]``, in eval mode without gradients."""
        return Observation({"target": self.student(images)}, {}, {})
