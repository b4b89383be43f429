"""What a page or a program sends of one model that it timed, and the row that follows from it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from models.errors import printable
from stages.devices.base import Row
from stages.devices.runner import NOISY_CV, breach, outcome, statistics

Text = Annotated[
    str, Field(max_length=512), AfterValidator(lambda text: printable(" ".join(text.split())))
]
Count = Annotated[int, Field(ge=1, le=4096)]
Milliseconds = Annotated[float, Field(ge=0, le=86_400_000, allow_inf_nan=False)]


class Timed(BaseModel):
    """One model, timed; figures that follow from others are not taken, but computed here."""

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
    """The row of one measurement, by the rules that ``runner.py`` keeps.

    Args:
        row: of :func:`stages.devices.base.unmeasured`, for the threads that were asked for.
        parity: as ``runner.compare`` gives it.
        clock: whose it is that took the times.
        trouble: why the times mean nothing; None where they do.
    """
    if timed.threads != row["threads"]:
        trouble = f"ran with {timed.threads} threads, where {row['threads']} were asked for"
    elif trouble is None and not any(timed.samples_ms):
        trouble = f"every run was shorter than a step of the {clock}'s clock"
    figures: Row = {}
    if trouble is None:
        figures = statistics(timed.samples_ms)
        figures |= {"noisy": figures["cv"] > NOISY_CV, "samples_ms": timed.samples_ms}
    return {
        **row,
        "version": timed.version,
        "provider": timed.provider,
        "threads": timed.threads,
        "init_ms": round(timed.init_ms, 4),
        "first_ms": round(timed.first_ms, 4),
        "golden": parity,
        **figures,
        **outcome(trouble or breach(row["precision"], parity)),
    }
