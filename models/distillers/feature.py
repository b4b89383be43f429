"""What the methods that compare feature maps have in common."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from models.backbone import Backbone, Features
from models.distillers.base import Batch, Distiller, Knowledge, Needs, Setting
from models.distillers.losses import kl_divergence


class FeatureDistiller(Distiller):
    """``ce_weight * CE(z_s, y) + kd_weight * T^2 KL(p_t || p_s) + feature_weight * L_feature``.

    With ``kd_weight`` a method is combined with KD; it is 0 where the reference has it alone.
    """

    needs: ClassVar[Needs] = "features"

    def __init__(
        self,
        student: Backbone,
        setting: Setting,
        *,
        temperature: float,
        ce_weight: float,
        kd_weight: float,
        feature_weight: float,
    ) -> None:
        super().__init__(student, setting)
        self.temperature = temperature
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.feature_weight = feature_weight

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The method's own term, a float32 scalar; ``teacher`` has no gradient."""
        raise NotImplementedError

    def forward(self, batch: Batch, knowledge: Knowledge) -> dict[str, Tensor]:
        assert knowledge.features is not None
        student = self.student.features(batch.images)
        ce = F.cross_entropy(student.logits.float(), batch.labels)
        feature = self.feature_loss(student, knowledge.features, batch)
        total = self.ce_weight * ce + self.feature_weight * feature
        losses = {"ce": ce, "feature": feature}
        if self.kd_weight > 0:
            losses["kd"] = kl_divergence(
                student.logits, knowledge.features.logits, self.temperature
            )
            total = total + self.kd_weight * losses["kd"]
        return {"total": total} | losses
