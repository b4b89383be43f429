"""Data source, augmentation and normalisation."""

from __future__ import annotations

from typing import Annotated, Literal

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
    """How images become squares: the longer side is cropped about the centre, the shorter one gets
    black bars, or both sides are resized."""
    config: str | None = None
    """Configuration of a hub data set that has several."""
    image_column: str | None = None
    label_column: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of each class's training images, if the source has no validation split; 0 trains on
    all of them, as benchmarks do, and validates on the test images."""
    train_per_class: PositiveInt | None = None
    """Limit for trial runs; validation and test stay whole."""
    unlabeled: str | None = None
    """More images for the student to learn from, without labels: a source as above. Of a folder it
    takes every image, of another source those of its training split. Images that are in train, val
    or test are left out."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """``balanced``: each class makes up the same share of an epoch, whose length stays; images of
    rare classes are repeated."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: cross-entropy weighs each image by the reciprocal of its class's size."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """What to do with unreadable images; skipped ones are listed in the report."""
    seed: Seed = 0
    feed: Literal["auto", "memory", "stream"] = "auto"
    """Training images in memory, or read during training; auto uses memory if they fit. The result
    is the same."""

    @model_validator(mode="after")
    def _resize_leaves_enough(self) -> Data:
        if self.resize is not None and (self.image_size is None or self.resize < self.image_size):
            raise ValueError(
                f"resize is {self.resize}, expected image_size or more, which is"
                f" {'null' if self.image_size is None else self.image_size}"
            )
        return self


class Augmentation(Section):
    """Random augmentation of training images, a function of (seed, epoch, sample)."""

    crop: Literal["shift", "resized"] = "shift"
    """``shift``: a random window of the padded image. ``resized``: a random resized crop, with
    aspect ratios from 3:4 to 4:3."""
    crop_area: Annotated[float, Field(gt=0, le=1)] = 0.08
    """Of ``resized``: the smallest part of the area that a crop may show. Fine-tuning in a few
    epochs wants more of the image than the usual 8 %, such as 0.35."""
    crop_padding: Annotated[int, Field(ge=0, le=4096)] = 2
    pad_mode: Literal["zero", "reflect"] = "zero"
    horizontal_flip: bool = False
    policy: Literal["none", "trivial", "rand"] = "none"
    """TrivialAugment (one change of random strength) or RandAugment (two, of magnitude 9)."""
    color_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far brightness, contrast and saturation vary: 0.4 multiplies each by 0.6 to 1.4."""
    erasing: Fraction = 0.0
    """The probability that a rectangle of 2 to 33 % of the image is blackened."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of the Beta distribution by which two images are blended; 0 blends none."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of the Beta distribution by which a rectangle comes from another image; 0 takes none.
    With mixup too, each batch has one of the two, by even chance."""
    seed: Seed = 0

    @property
    def recolors(self) -> bool:
        """Whether pixels are changed besides being moved."""
        return self.policy != "none" or self.color_jitter > 0 or self.erasing > 0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others of their batch."""
        return self.mixup > 0 or self.cutmix > 0

    @model_validator(mode="after")
    def _only_shifts_are_padded(self) -> Augmentation:
        if self.crop == "resized" and self.crop_padding:
            raise ValueError("crop_padding applies to crop: shift only; set it to 0")
        return self


class Normalization(Section):
    """Mean and standard deviation of each channel, for images in 0..1."""

    mean: Annotated[list[Fraction], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]
