"""What stages need while they run, and which may run at once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from models.errors import InputError


class Needs(NamedTuple):
    """``meta.prefect`` of a stage in ``dvc.yaml``: what it needs while it runs.

    Attributes:
        gpu: GPUs for itself, of those that ``ACKD_GPUS`` lists, or all of these.
        alone: no other stage beside it, because it measures time.
    """

    gpu: int = 0
    alone: bool = False


def parse_needs(stage: str, meta: Mapping[str, Any] | None) -> Needs:
    """The needs of a stage from its ``meta``, which DVC itself ignores.

    Raises:
        InputError: a key is unknown.
    """
    try:
        return Needs(**(meta or {}).get("prefect", {}))
    except TypeError:
        raise InputError(
            f"dvc.yaml: meta.prefect of stage {stage}: expected {' or '.join(Needs._fields)}"
        ) from None


def listed_gpus() -> list[str]:
    """What ``ACKD_GPUS`` lists: ids separated by commas, such as ``0,1``; unset means none."""
    return [part.strip() for part in os.environ.get("ACKD_GPUS", "").split(",") if part.strip()]


class Resources:
    """GPUs and quiet for the stages that run at once.

    Args:
        gpus: ids as ``CUDA_VISIBLE_DEVICES`` takes them; with none, every stage sees every GPU.
    """

    def __init__(self, gpus: Sequence[str]) -> None:
        self._free = list(gpus)
        self._total = len(gpus)
        self._running = 0
        self._alone = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, needs: Needs) -> Iterator[dict[str, str]]:
        """Wait for what is needed; yields the environment that confines a stage to its GPUs."""
        count = min(needs.gpu, self._total)
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
