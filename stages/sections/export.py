"""The exported student: made, proven, timed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.devices.urls import parse_url
from stages.sections.common import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Section


class Finetune(Section):
    """What an int8 model lost by calibration alone is won back by training its weights.

    They are trained with the rounding in place, to answer as the fp32 student does, and nothing but
    the int8 files changes.
    """

    when: Literal["never", "auto"] = "never"
    """``auto``: where an int8 model loses more than max_drop on the validation images; where those
    are the test images, on training images."""
    max_drop: Fraction = 0.005
    """Of accuracy, against fp32 on the same images."""
    epochs: PositiveInt = 10
    batch_size: Annotated[int, Field(ge=2, lt=2**31)] = 64
    learning_rate: PositiveFloat = 3e-3


Precision = Literal["fp32", "fp16", "int8_u8s8", "int8_s8s8"]


class Export(Section):
    """The ONNX files."""

    opset: Literal[18, 20] = 18
    precisions: Annotated[list[Precision], Field(min_length=1)] = [
        "fp32",
        "fp16",
        "int8_u8s8",
        "int8_s8s8",
    ]
    required: list[Precision] = ["fp32"]
    """What must be exported and pass its validation; another precision that fails is marked with
    its reason, stays out of the bundle, and the chain goes on."""
    calibration_images: PositiveInt = 256
    """Training images that the int8 ranges are calibrated on."""
    calibration_method: Literal["minmax", "percentile", "entropy"] = "minmax"
    """What of the activations that calibration sees is held: all, all but the outermost 0.001 %, or
    what loses the least information."""
    finetune: Finetune = Finetune()
    golden_images: PositiveInt = 16
    """Test images whose logits travel with the model."""

    @model_validator(mode="after")
    def _fp32_first(self) -> Export:
        if self.precisions[0] != "fp32" or len(set(self.precisions)) != len(self.precisions):
            raise ValueError(
                "precisions must begin with fp32, which the others are compared with, each once"
            )
        if "fp32" not in self.required or not set(self.required) <= set(self.precisions):
            raise ValueError(
                "required must name fp32, which the others are compared with, and others of"
                " precisions only"
            )
        return self


class Validate(Section):
    """What an exported model must show."""

    tensorrt: Literal["auto", "required", "off"] = "auto"
    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 3, 16]
    """Of the golden batch, for the model with a dynamic batch."""
    max_relative_error_fp32: PositiveFloat = 1e-4
    max_relative_error_fp16: PositiveFloat = 1e-2
    min_agreement_int8: Fraction = 0.9
    """Share of test images on which an int8 model gives torch's answer."""


class Litert(Section):
    """The student for a second mobile runtime, LiteRT, in fp32 and int8.

    int8 is calibrated on ``export.calibration_images``, the limits of parity are those of
    ``validate``, and it is timed on this machine as ``profile`` says.
    """

    enabled: bool = False
    """Needs packages that are not installed by default; docs/how-to-litert.md names them."""


class Profile(Section):
    """How latency is measured."""

    devices: Annotated[list[str], Field(min_length=1)] = ["local:"]
    """Their URLs, ``local:``, ``ssh://[user@]host`` or ``adb:?runner=FILE``; goals and summary are
    of the first one."""
    threads: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 2]
    warmup_runs: PositiveInt = 10
    warmup_seconds: NonNegativeFloat = 0.5
    min_runs: PositiveInt = 100
    min_seconds: NonNegativeFloat = 3.0
    max_runs: PositiveInt = 20000
    """The cap, for models that are quicker than the clock is worth."""

    @model_validator(mode="after")
    def _devices_exist_as_kinds(self) -> Profile:
        if len(set(self.devices)) < len(self.devices):
            raise ValueError("devices must be given once each")
        for device in self.devices:
            if parse_url(device).in_browser:
                raise ValueError(
                    f"the device {device!r} measures in a phone's browser, which must be unlocked"
                    " and kept in front; measure it with `ackd profile`, or name a native runner by"
                    " ?runner=FILE"
                )
        return self

    @model_validator(mode="after")
    def _cap_above_minimum(self) -> Profile:
        if self.max_runs < self.min_runs:
            raise ValueError("max_runs must not be below min_runs")
        return self
