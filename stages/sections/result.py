"""Analysis, goals, bundle and report."""

import re
from pathlib import Path
from typing import Annotated, Literal

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import Field, field_validator

from stages.sections.common import Fraction, PositiveFloat, PositiveInt, Section, of_pattern

#: Version of a bundle: one to three numbers, compared from the left.
VERSION = r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}"
_NAME = r"[A-Za-z0-9]([A-Za-z0-9/_-]{0,98}[A-Za-z0-9])?"


class Analyze(Section):
    """Comparison of teacher, proxy, student and learners."""

    cka_images: PositiveInt = 2000  # how many test images to use for CKA and KL, from the first on
    grad_cam_images: Annotated[int, Field(ge=1, le=32)] = 8
    baseline: Annotated[str, Field(min_length=1)] | None = None
    """Copy of another run's ``reports/classes.csv``, to compare class by class."""

    @field_validator("baseline")
    @classmethod
    def _is_a_copy(cls, value: str | None) -> str | None:
        if value is None:
            return None
        own, path = Path("reports/classes.csv"), Path(value).expanduser()
        if path.resolve() == own.resolve():  # deleted before it is written again
            raise ValueError(f"expected a copy, because every run replaces {own}; copy it first")
        return str(path)


class Gate(Section):
    """Goals for the student; null sets none."""

    min_accuracy: Fraction | None = None  # the student's accuracy on the test split
    max_drop_from_teacher: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Teacher's accuracy minus the student's."""
    max_export_drop: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Student's accuracy in torch minus that of each exported precision."""
    max_p90_ms: PositiveFloat | None = None
    """p90 latency of the fastest precision with one thread, on the first device."""
    max_size_mb: PositiveFloat | None = None
    """Size of the largest static model file; MB = 10^6 bytes."""


class Package(Section):
    """The bundle."""

    name: Annotated[str, of_pattern(_NAME, "at most 100 letters, digits, -, _ and /")] = "student"
    """Name of the model for releases, as in dvc.yaml: artifacts."""
    version: str = "0.1.0"
    """One to three numbers; devices refuse a version older than the one they serve."""
    license: str | None = None
    """Licence of the model as an SPDX expression: ``Apache-2.0``, or ``LicenseRef-<name>`` for your
    own; null states none."""

    @field_validator("version", mode="before")
    @classmethod
    def _is_numbers(cls, value: object) -> object:
        # YAML reads 1.10 as the number 1.1.
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
                "expected an SPDX expression, such as Apache-2.0, or LicenseRef-Example for your"
                f" own, or null, not {value}"
            ) from None


class Report(Section):
    """References for the report's measurements."""

    paper: Literal["cifar100", "cinic10", "tiny_imagenet", "imagenet"] | None = None
    """Data set whose results in the ACKD paper are shown, for this run's two networks."""
