"""Data source, augmentation and normalisation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.sections.common import Fraction, NonNegativeFloat, Pixels, PositiveInt, Section, Seed


class Data(Section):
    """Where the images come from."""

    source: str = "digits"
    """``digits``, ``hf:<folder or hub id>[@revision]``, ``imagefolder:<path>`` or
    ``torchvision:<name>:<root>``."""
    image_size: Pixels | None = 32
    """Height and width in pixels; null keeps the images' size, which must be the same for all."""
    resize: Pixels | None = None
    """Length of the shorter side before the centre crop; null means image_size. A larger value
    leaves training images a margin for random crops."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How to make images square: crop the longer side about the centre, pad the shorter one with
    black bars, or resize both."""
    config: str | None = None  # configuration of a hub data set that has several
    image_column: str | None = None
    label_column: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of each class's training images, if the source has no validation split; 0 trains on
    all of them, as benchmarks do, and validates on the test images."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Cross-validation, if the source has no test split: test on one of this many parts of each
    class. Seed N of a sweep tests on part N."""
    fold: Annotated[int, Field(ge=0)] = 0
    """The part to test on, from 0 to folds - 1."""
    train_per_class: PositiveInt | None = None
    """Limit for trial runs; does not affect validation and test."""
    unlabeled: str | None = None
    """A source of unlabeled images for the student: all images of a folder, or the training split
    of another source. Images that are in train, val or test are left out."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """``balanced``: all classes are equally frequent in an epoch, whose length stays the same;
    images of rare classes are repeated."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: cross entropy weights each image by the inverse of its class's frequency."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """What to do with unreadable images; skipped ones are listed in the report."""
    seed: Seed = 0
    feed: Literal["auto", "memory", "stream"] = "auto"
    """Keep training images in memory, or read them during training; auto uses memory if they fit.
    The result is the same."""

    @model_validator(mode="after")
    def _values_fit_together(self) -> Self:
        if self.fold >= (self.folds or 1):
            raise ValueError(
                f"fold is {self.fold}, expected"
                f" {f'0 to {self.folds - 1}' if self.folds else '0, because folds is null'}"
            )
        if self.folds and self.test_split:
            raise ValueError("folds replaces test_split; set one of the two to null")
        if self.resize is not None and (self.image_size is None or self.resize < self.image_size):
            raise ValueError(
                f"resize is {self.resize}, expected at least image_size, which is"
                f" {'null' if self.image_size is None else self.image_size}"
            )
        return self


class Augmentation(Section):
    """Random augmentation of training images, a function of (seed, epoch, sample)."""

    crop: Literal["shift", "resized"] = "shift"
    """``shift``: a random window of the padded image. ``resized``: a random resized crop, with
    aspect ratios from 3:4 to 4:3."""
    crop_area: Annotated[float, Field(gt=0, le=1)] = 0.08
    """For ``resized``: the smallest fraction of the area in a crop. Short fine-tuning needs more
    than the usual 8 %, such as 0.35."""
    crop_padding: Annotated[int, Field(ge=0, le=4096)] = 2
    pad_mode: Literal["zero", "reflect"] = "zero"
    horizontal_flip: bool = False
    policy: Literal["none", "trivial", "rand"] = "none"
    """TrivialAugment (one change of random strength) or RandAugment (two, of magnitude 9)."""
    color_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far brightness, contrast and saturation vary: 0.4 multiplies each by 0.6 to 1.4."""
    erasing: Fraction = 0.0  # probability of blacking out a rectangle of 2 to 33 % of the image
    mixup: NonNegativeFloat = 0.0
    """Alpha of the Beta distribution for blending two images; 0 turns mixup off."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of the Beta distribution for pasting a rectangle from another image; 0 turns CutMix
    off. With both, each batch uses one of the two with equal probability."""
    seed: Seed = 0

    @property
    def recolors(self) -> bool:
        """Whether pixel values change, beyond crops and flips."""
        return self.policy != "none" or self.color_jitter > 0 or self.erasing > 0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others of their batch."""
        return self.mixup > 0 or self.cutmix > 0

    @model_validator(mode="after")
    def _only_shifts_are_padded(self) -> Self:
        if self.crop == "resized" and self.crop_padding:
            raise ValueError("crop_padding applies only to crop: shift; set it to 0")
        return self


class Normalization(Section):
    """Mean and standard deviation of each channel, for images in 0..1."""

    mean: Annotated[list[Fraction], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]
