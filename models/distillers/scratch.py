"""Plain supervised training: the method that needs no teacher."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch, Distiller, Knowledge, Needs


class Scratch(Distiller):
    """Cross entropy with the labels."""

    needs: ClassVar[Needs] = "nothing"

    def forward(self, batch: Batch, knowledge: Knowledge) -> dict[str, Tensor]:
        return {"total": F.cross_entropy(self.student(batch.images).float(), batch.labels)}
