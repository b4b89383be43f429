"""Turn the measurement that a page or a program sends into a row of the report."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from models.errors import printable
from stages.devices.base import Row
from stages.devices.rules import NOISY_CV, breach, outcome, statistics
from stages.formatting import threads

Text = Annotated[
    str, Field(max_length=512), AfterValidator(lambda text: printable(" ".join(text.split())))
]
Count = Annotated[int, Field(ge=1, le=4096)]
Milliseconds = Annotated[float, Field(ge=0, le=86_400_000, allow_inf_nan=False)]


class Timed(BaseModel):
    """Times of one model; statistics are computed here, never accepted from the sender."""

    model_config = ConfigDict(frozen=True, strict=True)

    version: Text
    provider: Text
    threads: Count
    init_ms: Milliseconds
    first_ms: Milliseconds
    samples_ms: list[Milliseconds]


def judge(
    row: Row, timed: Timed, parity: dict[str, float | None], clock: str, trouble: str | None = None
) -> Row:
    """Return the row of one measurement; ``trouble`` states why its times are invalid, if so."""
    if timed.threads != row["threads"]:
        trouble = f"ran with {threads(timed.threads)} instead of {row['threads']}"
    elif trouble is None and not any(timed.samples_ms):
        trouble = f"every run was shorter than a tick of the {clock}'s clock"
    times: Row = {}
    if trouble is None:
        times = statistics(timed.samples_ms)
        times |= {"noisy": times["cv"] > NOISY_CV, "samples_ms": timed.samples_ms}
    return {
        **row,
        "version": timed.version,
        "provider": timed.provider,
        "init_ms": round(timed.init_ms, 4),
        "first_ms": round(timed.first_ms, 4),
        "golden": parity,
        **times,
        **outcome(trouble or breach(row["precision"], parity)),
    }
