"""Plain supervised training: the method that needs no teacher."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch, Distiller, Knowledge, Needs
from models.distillers.losses import at_least_float32


class Scratch(Distiller):
    """Cross entropy with the labels."""

    needs: ClassVar[Needs] = "nothing"

    def forward(self, batch: Batch, knowledge: Knowledge) -> dict[str, Tensor]:
        logits = at_least_float32(self.student(batch.images))
        return {"total": F.cross_entropy(logits, batch.labels)}
