"""How networks are trained, and the teachers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.sections.common import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
)
from stages.sections.data import Normalization


class Training(Section):
    """SGD with momentum, shared by everything that is trained."""

    epochs: PositiveInt = 15
    batch_size: Annotated[int, Field(ge=2, lt=2**31)] = 64
    learning_rate: PositiveFloat = 0.1
    schedule: Literal["one_cycle", "multi_step"] = "one_cycle"
    milestones: list[PositiveInt] = []
    """Epochs after which ``multi_step`` divides the learning rate by ten."""
    momentum: Fraction = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    seed: Seed = 0

    @model_validator(mode="after")
    def _milestones_fit(self) -> Training:
        if self.schedule == "multi_step":
            if self.milestones != sorted(set(self.milestones)):
                raise ValueError("milestones must rise, each once")
            if self.milestones and self.milestones[-1] >= self.epochs:
                raise ValueError(f"milestones must lie before the last of {self.epochs} epochs")
        elif self.milestones:
            raise ValueError("milestones belong to schedule: multi_step; leave them empty here")
        return self


class EngineSettings(Section):
    """How anything is trained, teacher and student alike."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of convolutions and linear layers; auto is bf16 where that is the faster arithmetic of the
    processor or GPU. Losses are float32 always."""
    compile: bool = False
    """Compile the networks first; pays on GPUs and for long trainings."""
    sync_batchnorm: bool = False
    """BatchNorm over all processes' images instead of each process's own; GPUs only."""
    logits_store: bool = True
    """Keep the teacher's logits for later runs that see the same images."""
    checkpoint_every: PositiveInt = 1
    """Epochs between checkpoints."""
    checkpoint_minutes: PositiveFloat = 10.0
    """Minutes between checkpoints within an epoch."""
    tracker: Literal["none", "tensorboard", "mlflow"] = "none"
    """Where the history goes besides its CSV file."""


class Teacher(Training):
    """The network to learn from: trained here, or loaded from a checkpoint."""

    network: str = "resnet20"
    checkpoint: str | None = None
    """A ``.safetensors`` or torch state-dict file, or ``pretrained`` for the weights that the
    network's library publishes; with it nothing is trained."""
    expect_accuracy: Fraction | None = None
    """Top-1 on the test images that the checkpoint's publisher states; one that is more than 0.01
    away is refused."""
    normalization: Normalization | None = None
    """That the checkpoint was trained with; null is the data's, or that of ``pretrained``."""

    @model_validator(mode="after")
    def _told_of_a_checkpoint(self) -> Teacher:
        for key in ("expect_accuracy", "normalization"):
            if self.checkpoint is None and getattr(self, key) is not None:
                raise ValueError(f"{key} belongs to a checkpoint; name one, or set it to null")
        return self
