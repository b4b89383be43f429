"""Training schedule, engine settings, and the teacher."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.sections.common import (
    Fraction,
    NonNegativeFloat,
    Pixels,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
)
from stages.sections.data import Normalization


class Training(Section):
    """How teacher, proxy and student are optimized."""

    weights: str | None = None
    """Initial weights: null for random ones, ``pretrained`` for those that the network's library
    publishes, a name for timm (``hf-hub:...``, ``local-dir:...``), or a file."""
    normalization: Normalization | None = None
    """Normalization of the images that the weights were trained with; null means the published one
    for ``pretrained``, and the data's for a file."""
    epochs: PositiveInt = 15
    batch_size: Annotated[int, Field(ge=2, lt=2**31)] = 64
    learning_rate: PositiveFloat = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, which decays every parameter, as in the usual reference code; or AdamW,
    which does not decay norms and biases."""
    schedule: Literal["one_cycle", "multi_step", "cosine"] = "one_cycle"
    milestones: list[PositiveInt] = []
    """Epochs after which ``multi_step`` divides the learning rate by ten."""
    warmup: Fraction = 0.0
    """Fraction of all steps over which ``cosine`` rises from 0 to the learning rate."""
    momentum: Fraction = 0.9  # for SGD
    weight_decay: NonNegativeFloat = 5e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor for the learning rate from each layer to the one below it; for networks that start
    from weights."""
    clip_gradient: PositiveFloat | None = None  # maximum norm of all gradients together
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the weights, which is then measured and kept instead."""
    seed: Seed = 0

    @property
    def weights_file(self) -> Path | None:
        """The weights, if they are a file, or the folder of ``local-dir:``."""
        weights = "pretrained" if self.weights is None else self.weights
        if weights == "pretrained" or weights.startswith("hf-hub:"):
            return None
        return Path(weights.removeprefix("local-dir:")).expanduser()

    @model_validator(mode="after")
    def _milestones_fit(self) -> Self:
        if self.normalization is not None and self.weights is None:
            raise ValueError(
                "normalization applies only to weights; set weights, or set it to null"
            )
        if self.schedule == "multi_step":
            if self.milestones != sorted(set(self.milestones)):
                raise ValueError("milestones must increase, without repetition")
            if self.milestones and self.milestones[-1] >= self.epochs:
                raise ValueError(f"milestones must be below the number of epochs, {self.epochs}")
        elif self.milestones:
            raise ValueError("milestones apply only to schedule: multi_step; leave them empty")
        if self.warmup and self.schedule != "cosine":
            raise ValueError("warmup applies only to schedule: cosine; set it to 0")
        return self


class EngineSettings(Section):
    """How all networks are trained."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of convolutions and linear layers; auto is bf16 if the hardware computes it faster.
    Losses are always float32."""
    compile: bool = False  # compile the networks first; pays off on GPUs and in long trainings
    sync_batchnorm: bool = False
    """BatchNorm over the images of all processes instead of each process's; only on GPUs."""
    logits_store: bool = True  # store the teacher's logits for later runs on the same images
    checkpoint_every: PositiveInt = 1  # epochs between checkpoints
    checkpoint_minutes: PositiveFloat = 10.0  # minutes between checkpoints within an epoch
    tracker: Literal["none", "tensorboard", "mlflow"] = "none"
    """Where to log the history besides its CSV file."""


class Teacher(Training):
    """The teacher: trained from scratch, fine-tuned from weights, or loaded."""

    network: str = "resnet20"
    train: Literal["all", "head", "none"] = "all"
    """Which parts of a teacher that starts from weights are trained."""
    image_size: Pixels | None = None
    """Height and width of the teacher's images, resized after augmentation; null means the
    student's. For networks with a fixed size, and weights trained at another size."""
    expect_accuracy: Fraction | None = None
    """Published top-1 accuracy of a teacher that is not trained; if its accuracy on the test images
    differs by more than 0.01, it is refused."""

    @model_validator(mode="after")
    def _starts_from_weights(self) -> Self:
        if self.train != "all" and self.weights is None:
            raise ValueError(f"train: {self.train} needs weights; set weights, or train: all")
        if self.expect_accuracy is not None and self.train != "none":
            raise ValueError("expect_accuracy applies only to train: none; set it to null")
        return self
