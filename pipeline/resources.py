"""Shares GPUs between stages, and lets stages that measure time run alone."""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from models.errors import InputError


class Needs(NamedTuple):
    """What a stage needs while it runs, from ``meta.prefect`` in ``dvc.yaml``."""

    gpu: int = 0  # number of exclusive GPUs, at most all that ACKD_GPUS lists
    alone: bool = False  # no other stage may run at the same time, because it measures time


def parse_needs(stage: str, meta: Mapping[str, Any] | None) -> Needs:
    """Parse ``meta`` of a stage, which DVC ignores; raises InputError if a key is unknown."""
    try:
        return Needs(**(meta or {}).get("prefect", {}))
    except TypeError:
        raise InputError(
            f"dvc.yaml: meta.prefect of stage {stage}: expected {' or '.join(Needs._fields)}"
        ) from None


def listed_gpus() -> list[str]:
    """Return the GPU ids in ``ACKD_GPUS``, such as ``0,1``; none if it is unset."""
    return [part.strip() for part in os.environ.get("ACKD_GPUS", "").split(",") if part.strip()]


class Resources:
    """Assigns GPUs to running stages, and keeps the machine quiet for those that measure time.

    ``gpus`` are ids for ``CUDA_VISIBLE_DEVICES``. Stages that need none for themselves see all of
    these; without ``gpus``, every stage sees every GPU.
    """

    def __init__(self, gpus: Sequence[str]) -> None:
        self._gpus, self._free = list(gpus), list(gpus)
        self._running = 0
        self._alone = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, needs: Needs) -> Iterator[dict[str, str]]:
        """Wait for the needed resources; yield the variables that confine a stage to its GPUs."""
        count = min(needs.gpu, len(self._gpus))
        with self._changed:
            self._changed.wait_for(lambda: self._fits(count, needs.alone))
            held, self._free = self._free[:count], self._free[count:]
            self._running += 1
            self._alone = needs.alone
        try:
            visible = held or self._gpus
            yield {"CUDA_VISIBLE_DEVICES": ",".join(visible)} if visible else {}
        finally:
            with self._changed:
                self._free += held
                self._running -= 1
                self._alone = False
                self._changed.notify_all()

    def _fits(self, count: int, alone: bool) -> bool:
        quiet = self._running == 0 if alone else not self._alone
        return quiet and len(self._free) >= count
