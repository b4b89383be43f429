"""Export, validation and latency measurement of the student."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.devices.urls import parse_url
from stages.sections.common import Fraction, NonNegativeFloat, PositiveInt, Section

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
    """Precisions that must be exported and pass validation. Others that fail are left out of the
    bundle, with the reason, and the chain continues."""
    calibration_images: PositiveInt = 256  # training images to calibrate int8 ranges
    calibration_method: Literal["minmax", "percentile", "entropy"] = "minmax"
    """Range of activations: all values, all but the outermost 0.01 %, or the range that loses the
    least information. Unless ``int8_max_drop`` is null, the first two are tried as well."""
    int8_max_drop: Fraction | None = 0.005
    """Accuracy that int8 may lose on validation images. If it loses significantly more, operators
    stay in float. With null, ``calibration_method`` is used unchecked."""
    golden_images: PositiveInt = 16  # test images that ship with the model, with their logits

    @model_validator(mode="after")
    def _fp32_first(self) -> Self:
        if self.precisions[0] != "fp32" or len(set(self.precisions)) != len(self.precisions):
            raise ValueError(
                "precisions must begin with fp32, the reference for the others, without duplicates"
            )
        if "fp32" not in self.required or not set(self.required) <= set(self.precisions):
            raise ValueError(
                "required must name fp32, the reference for the others, and only members of"
                " precisions"
            )
        return self


class Validate(Section):
    """Limits that an exported model must meet."""

    tensorrt: Literal["auto", "required", "off"] = "auto"
    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 3, 16]
    """Batch sizes in which the dynamic model processes the golden batch."""
    max_relative_error_fp32: Annotated[float, Field(gt=0, le=1e-4)] = 1e-4
    """Relative to the largest logit; devices refuse a model above 1e-4 (stages.devices.rules)."""
    min_agreement_fp16: Fraction = 0.95
    """Fraction of test images on which an fp16 model must agree with torch."""
    min_agreement_int8: Fraction = 0.9
    """Fraction of test images on which an int8 model must agree with torch."""


class Litert(Section):
    """Export to LiteRT, a second mobile runtime, in fp32 and int8.

    Calibration, parity limits and latency measurement follow ``export.calibration_images``,
    ``validate`` and ``profile``; latency is measured on this machine.
    """

    enabled: bool = False
    """Needs the packages named in docs/how-to-litert.md, which are not installed by default."""


class Profile(Section):
    """How latency is measured."""

    devices: Annotated[list[str], Field(min_length=1)] = ["local:"]
    """URLs: ``local:``, ``ssh://[user@]host`` or ``adb:?runner=FILE``. Goals and summary use the
    first."""
    threads: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 2]
    warmup_runs: PositiveInt = 10
    warmup_seconds: NonNegativeFloat = 0.5
    min_runs: PositiveInt = 100
    min_seconds: NonNegativeFloat = 3.0
    max_runs: PositiveInt = 20000  # upper limit, for very fast models

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        if len(set(self.devices)) < len(self.devices):
            raise ValueError("devices must name each device once")
        for device in self.devices:
            if parse_url(device).in_browser:
                raise ValueError(
                    f"the device {device!r} measures in a phone's browser, which must be unlocked"
                    " and in the foreground; measure it with `ackd profile`, or add a native"
                    " runner with ?runner=FILE"
                )
        if self.max_runs < self.min_runs:
            raise ValueError("max_runs must not be below min_runs")
        return self
