"""Save the state of a training as it runs, and restore it in the next run."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from stages.checkpoints.checkpoint import Checkpoints
from stages.training.engine import Engine
from stages.training.history import Progress

#: Steps between agreements of all processes on whether a checkpoint is due; each makes them wait.
_ASK_EVERY = 50


class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Resume:
    def __init__(
        self, parts: Mapping[str, _Stateful], engine: Engine, checkpoints: Checkpoints | None
    ) -> None:
        scaler = engine.accelerator.scaler
        self.parts = dict(parts) | ({} if scaler is None else {"scaler": scaler})
        self.engine, self.checkpoints = engine, checkpoints
        self.last_saved = time.monotonic()

    def load(self) -> Progress:
        """Restore the last saved state, if any, and return its progress."""
        state = None if self.checkpoints is None else self.checkpoints.load()
        if state is None:
            return Progress()
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        random = state["random"][self.engine.accelerator.process_index]
        torch.set_rng_state(random["cpu"])
        if self.engine.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.engine.device)
        progress = Progress(**state["progress"])
        progress.sums = {k: total.to(self.engine.device) for k, total in progress.sums.items()}
        return progress

    def save(self, progress: Progress) -> None:
        """Save the state; all processes must call it, but only the main one writes."""
        if self.checkpoints is not None:
            own = {"cpu": torch.get_rng_state()}
            if self.engine.device.type == "cuda":
                own["cuda"] = torch.cuda.get_rng_state(self.engine.device)
            random = self.engine.collect(own)
            if self.engine.is_main:
                state = {name: part.state_dict() for name, part in self.parts.items()}
                progressed = {"random": random, "progress": dict(vars(progress))}
                self.checkpoints.save(state | progressed)
        self.last_saved = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Return whether to save after ``step`` steps of an epoch; the same in all processes."""
        if self.checkpoints is None:
            return False
        several = self.engine.accelerator.num_processes > 1
        if several and step % _ASK_EVERY:
            return False
        minutes = (time.monotonic() - self.last_saved) / 60
        due = minutes >= self.engine.settings.checkpoint_minutes
        if several:
            asked = torch.tensor(float(due and self.engine.is_main), device=self.engine.device)
            due = bool(self.engine.average(asked) > 0)
        return due
