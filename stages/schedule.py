"""Compress a training schedule into fewer epochs."""

from typing import TypeVar

from models.errors import InputError
from stages.sections.training import Training

T = TypeVar("T", bound=Training)


def compressed(settings: T, epochs: int) -> T:
    """Return the settings with fewer epochs and milestones at the same fractions of them.

    Raises:
        InputError: there are more epochs than before, or too few to keep milestones apart.
    """
    if epochs > settings.epochs:
        raise InputError(
            f"a schedule of {settings.epochs} epochs cannot be compressed into {epochs};"
            f" use at most {settings.epochs}"
        )
    milestones = [round(m * epochs / settings.epochs) for m in settings.milestones]
    if len({0, *milestones, epochs}) < len(milestones) + 2:
        raise InputError(
            f"{type(settings).__name__.lower()}: {epochs} epochs are too few for the milestones"
            f" {settings.milestones} of {settings.epochs}; use more epochs, or schedule: one_cycle"
            " without milestones"
        )
    return settings.model_copy(update={"epochs": epochs, "milestones": milestones})
