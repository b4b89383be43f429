"""Plain supervised training, without a teacher."""

from typing import ClassVar

from torch import Tensor

from models.distillers.base import Batch, Distiller, Needs, TeacherOutputs
from models.distillers.losses import cross_entropy


class Scratch(Distiller):
    """Cross entropy with the labels."""

    needs: ClassVar[Needs] = "nothing"
    needs_labels: ClassVar[bool] = True

    def losses(self, outputs: Tensor, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        return {"total": cross_entropy(outputs, batch)}
