"""Plain supervised training: the method that needs no teacher."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch, Distiller, Needs, TeacherOutputs
from models.distillers.losses import at_least_float32


class Scratch(Distiller):
    """Cross entropy with the labels."""

    needs: ClassVar[Needs] = "nothing"

    def losses(self, outputs: Tensor, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        return {"total": F.cross_entropy(at_least_float32(outputs), batch.labels)}
