"""What stages need while they run, and which may run at once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import InputError


class Needs(BaseModel):
    """``meta.prefect`` of a stage in ``dvc.yaml``: what it needs while it runs."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    gpu: int = Field(default=0, ge=0)
    """GPUs for itself, of those that ``ACKD_GPUS`` lists."""
    alone: bool = False
    """No other stage beside it, because it measures time."""


def parse_needs(stage: str, meta: Mapping[str, Any] | None) -> Needs:
    """The needs of a stage from its ``meta``, which DVC itself ignores.

    Raises:
        InputError: a key is unknown or a value does not fit.
    """
    try:
        return Needs.model_validate((meta or {}).get("prefect", {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["meta.prefect", *(str(part) for part in first["loc"])])
        raise InputError(
            f"dvc.yaml: {key} of stage {stage} is not right ({first['msg']}); it takes"
            f" {', '.join(Needs.model_fields)}"
        ) from None


def listed_gpus() -> list[str]:
    """What ``ACKD_GPUS`` lists: ids separated by commas, such as ``0,1``; unset means none.

    Raises:
        InputError: one is listed twice.
    """
    listed = os.environ.get("ACKD_GPUS", "")
    gpus = [part.strip() for part in listed.split(",") if part.strip()]
    if len(set(gpus)) != len(gpus):
        raise InputError(f"ACKD_GPUS={listed} names a GPU twice; list each once")
    return gpus


class Resources:
    """GPUs and quiet for the stages that run at once.

    Args:
        gpus: ids as ``CUDA_VISIBLE_DEVICES`` takes them; with none, every stage sees every GPU.
    """

    def __init__(self, gpus: Sequence[str]) -> None:
        self._free = list(gpus)
        self.total = len(gpus)
        self._running = 0
        self._alone = False
        self._changed = threading.Condition()

    def check(self, stages: Mapping[str, Needs]) -> None:
        """Refuse what could never start.

        Raises:
            InputError: a stage needs more GPUs than there are.
        """
        for stage, needs in stages.items():
            if self.total and needs.gpu > self.total:
                raise InputError(
                    f"dvc.yaml: stage {stage} needs {needs.gpu} GPUs and ACKD_GPUS lists"
                    f" {self.total}; list more, or lower meta.prefect.gpu"
                )

    @contextlib.contextmanager
    def hold(self, needs: Needs) -> Iterator[dict[str, str]]:
        """Wait for what is needed; yields the environment that confines a stage to its GPUs."""
        count = needs.gpu if self.total else 0
        with self._changed:
            self._changed.wait_for(lambda: self._fits(count, needs.alone))
            held, self._free = self._free[:count], self._free[count:]
            self._running += 1
            self._alone = needs.alone
        try:
            yield {"CUDA_VISIBLE_DEVICES": ",".join(held)} if held else {}
        finally:
            with self._changed:
                self._free += held
                self._running -= 1
                self._alone = False
                self._changed.notify_all()

    def _fits(self, count: int, alone: bool) -> bool:
        quiet = self._running == 0 if alone else not self._alone
        return quiet and len(self._free) >= count
