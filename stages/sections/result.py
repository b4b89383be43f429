"""What is told of a student, asked of it, and packed."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import Field, field_validator

from stages.sections.common import Fraction, PositiveFloat, PositiveInt, Section

#: Of a bundle: one to three numbers, of which the first that differs decides which is the newer.
VERSION = r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}"


class Analyze(Section):
    """What is compared between teacher, proxy, student and learners."""

    cka_images: PositiveInt = 2000
    """Test images for CKA and KL, the first so many."""
    grad_cam_images: Annotated[int, Field(ge=1, le=32)] = 8
    baseline: Annotated[str, Field(min_length=1)] | None = None
    """A ``reports/classes.csv`` that was kept of another run, to compare every class with."""


class Gate(Section):
    """The goals; null leaves one out."""

    min_accuracy: Fraction | None = None
    """Of the student on the test split."""
    max_drop_from_teacher: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Teacher's accuracy minus the student's."""
    max_export_drop: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Student's accuracy in torch minus that of each exported precision."""
    max_p90_ms: PositiveFloat | None = None
    """Of the quickest precision at one thread on the device that ran the profile."""
    max_size_mb: PositiveFloat | None = None
    """Of the largest static model file; MB = 10^6 bytes."""


class Package(Section):
    """The bundle."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9/_-]{0,98}[A-Za-z0-9])?$")] = (
        "student"
    )
    """Of the model, as in ``dvc.yaml: artifacts``, by which it is released."""
    version: str = "0.1.0"
    """One to three numbers; a device takes no older one than it serves."""
    license: str | None = None
    """Of the model, as an SPDX expression: ``Apache-2.0``, or ``LicenseRef-<name>`` for one of your
    own; null does not state any."""

    @field_validator("version", mode="before")
    @classmethod
    def _is_numbers(cls, value: object) -> object:
        # YAML's 1.10 would be the number 1.1.
        if not isinstance(value, str) or not re.fullmatch(VERSION, value):
            raise ValueError(
                f"expected one to three numbers, such as '1.2.0' in quotes, not {value}"
            )
        return value

    @field_validator("license")
    @classmethod
    def _is_spdx(cls, value: str | None) -> str | None:
        try:
            return None if value is None else canonicalize_license_expression(value)
        except InvalidLicenseExpression:
            raise ValueError(
                "expected an SPDX expression, such as Apache-2.0, or LicenseRef-Example for one of"
                f" your own, or null, not {value}"
            ) from None


class Report(Section):
    """What the report sets the measurements beside."""

    paper: Literal["cifar100", "cinic10", "tiny_imagenet", "imagenet"] | None = None
    """The data set of which the ACKD paper's figures are shown, those of this run's two
    networks."""
