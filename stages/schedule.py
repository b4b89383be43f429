"""The same training in fewer epochs."""

from __future__ import annotations

from typing import TypeVar

from models.errors import InputError
from stages.sections.training import Training

T = TypeVar("T", bound=Training)


def compressed(settings: T, epochs: int) -> T:
    """The settings with the same schedule in fewer epochs: milestones keep their share of them.

    Raises:
        InputError: there are not fewer epochs, or so few that milestones would fall together.
    """
    if epochs > settings.epochs:
        raise InputError(
            f"a schedule of {settings.epochs} epochs cannot be compressed into {epochs};"
            f" use {settings.epochs} or fewer"
        )
    milestones = [round(m * epochs / settings.epochs) for m in settings.milestones]
    if len({0, *milestones, epochs}) < len(milestones) + 2:
        raise InputError(
            f"{epochs} epochs are too few for the milestones {settings.milestones} of"
            f" {settings.epochs}, which would fall together; use more epochs, or"
            " schedule: one_cycle"
        )
    return settings.model_copy(update={"epochs": epochs, "milestones": milestones})
