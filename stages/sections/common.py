"""Base class and field types for all sections of ``params.yaml``."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A section of ``params.yaml``. Unknown keys are refused; values are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def of_pattern(pattern: str, expected: str) -> AfterValidator:
    """Accept only texts that match ``pattern``, which the message describes as ``expected``."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {expected}, not {text!r}")
        return text

    return AfterValidator(check)
