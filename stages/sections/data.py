"""The images, and what is done to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.sections.common import Fraction, Pixels, PositiveInt, Section, Seed


class Data(Section):
    """Where the images come from."""

    source: str = "digits"
    """``digits``, ``hf:<folder or hub id>[@revision]``, ``imagefolder:<path>`` or
    ``torchvision:<name>:<root>``."""
    image_size: Pixels | None = 32
    """Height and width in pixels; null keeps the images' own size, which must then be one."""
    resize: Pixels | None = None
    """What the shorter side is brought to before the middle is cropped; null takes image_size. A
    larger one leaves training images a margin, which random crops are taken from too."""
    config: str | None = None
    """Of a hub data set that has several configurations."""
    image_column: str | None = None
    label_column: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of the training images of each class, where the source has no split to validate on; 0 leaves
    training whole, as benchmarks do, and validates on the test images."""
    train_per_class: PositiveInt | None = None
    """Limits a trial run; validation and test stay whole."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """Images that cannot be read; those that are skipped are listed in the report."""
    seed: Seed = 0
    feed: Literal["auto", "memory", "stream"] = "auto"
    """Training images in memory, or read while training; auto takes memory where they fit. The
    result is the same."""

    @model_validator(mode="after")
    def _resize_leaves_enough(self) -> Data:
        if self.resize is not None and (self.image_size is None or self.resize < self.image_size):
            raise ValueError(
                f"resize is {self.resize}, expected image_size or more, which is"
                f" {'null' if self.image_size is None else self.image_size}"
            )
        return self


class Augmentation(Section):
    """Random changes of the training images; all are keyed by (seed, epoch, sample)."""

    crop: Literal["shift", "resized"] = "shift"
    """A window of the image's size somewhere in the padded image, or a part of 8 to 100 % of the
    area and of sides 3:4 to 4:3, brought to the image's size (random resized crop)."""
    crop_padding: Annotated[int, Field(ge=0, le=4096)] = 2
    pad_mode: Literal["zero", "reflect"] = "zero"
    horizontal_flip: bool = False
    seed: Seed = 0

    @model_validator(mode="after")
    def _only_shifts_are_padded(self) -> Augmentation:
        if self.crop == "resized" and self.crop_padding:
            raise ValueError("crop_padding belongs to crop: shift; set it to 0 here")
        return self


class Normalization(Section):
    """What is taken off each channel and what the rest is divided by, of images in 0..1."""

    mean: Annotated[list[Fraction], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]
