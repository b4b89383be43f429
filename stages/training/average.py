"""An exponential moving average of the weights, often better than the last step's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stages.training.engine import Engine


class Average:
    """``a <- d a + (1 - d) w`` after each step, for weights and BatchNorm statistics.

    In step t, counted from 0, ``d = min(decay, (1 + t) / (10 + t))``, so the first weights count
    little, as in TensorFlow's ExponentialMovingAverage and in timm.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps = module, decay, 0
        self.averaged = [tensor.clone() for tensor in self._tensors()]

    def _tensors(self) -> list[Tensor]:
        state = self.module.state_dict().values()
        return [tensor for tensor in state if tensor.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averaged, self._tensors(), 1 - decay)
        self.steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the module the averaged weights until the block ends."""
        own = [tensor.clone() for tensor in self._tensors()]
        self.apply()
        try:
            yield
        finally:
            torch._foreach_copy_(self._tensors(), own)

    def merge(self, engine: Engine) -> None:
        """Merge the averaged BatchNorm statistics of all processes."""
        with self.applied():
            engine.average_statistics(self.module)
            torch._foreach_copy_(self.averaged, self._tensors())

    @torch.no_grad()
    def apply(self) -> None:
        torch._foreach_copy_(self._tensors(), self.averaged)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "averaged": self.averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        torch._foreach_copy_(self.averaged, state["averaged"])
