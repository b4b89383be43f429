"""Base class and helpers of the methods that compare feature maps or embeddings."""

from typing import ClassVar

from torch import Tensor

from models.distillers.base import Batch, Distiller, Needs, Setting, TeacherOutputs
from models.distillers.losses import cross_entropy, kl_divergence
from models.networks.backbone import Backbone, Features
from models.networks.pooling import average_pool


class FeatureDistiller(Distiller):
    """``ce_weight * CE(z_s, y) + kd_weight * T^2 KL(p_t || p_s) + feature_weight * L_feature``.

    A ``kd_weight`` above 0 combines the method with KD; it is 0 if the reference uses no KD.

    Raises:
        InputError: the method compares maps, but a network has no known stages.
    """

    needs: ClassVar[Needs] = "features"
    compares_maps: ClassVar[bool] = True
    """Whether it compares the maps of stages, or only embeddings, which every network has."""
    temperature: float  # of KD
    ce_weight: float
    kd_weight: float
    feature_weight: float

    @classmethod
    def check_networks(cls, student: Backbone, teacher: Backbone | None) -> None:
        if cls.compares_maps:
            for network in (student, teacher):
                if network is not None:
                    network.require_stages(f"distill.method {cls.__name__.lower()}")

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the method's own loss, a scalar of at least float32, without teacher gradients."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Features:
        return self.student.features(images)

    def losses(self, outputs: Features, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        assert teacher.features is not None
        ce = cross_entropy(outputs.logits, batch)
        feature = self.feature_loss(outputs, teacher.features, batch)
        total = self.ce_weight * ce + self.feature_weight * feature
        losses = {"ce": ce, "feature": feature}
        if self.kd_weight > 0:
            losses["kd"] = kl_divergence(outputs.logits, teacher.features.logits, self.temperature)
            total = total + self.kd_weight * losses["kd"]
        return {"total": total} | losses


def probe_both(student: Backbone, setting: Setting) -> tuple[Features, Features]:
    """Compute the features of student and teacher for one image, to find out their shapes."""
    assert setting.teacher is not None
    return student.probe(setting.image_size), setting.teacher.probe(setting.image_size)


def at_common_size(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool two maps ``[B, C, H, W]`` to the smaller H and the smaller W of the two."""
    height, width = (min(student_map.shape[i], teacher_map.shape[i]) for i in (2, 3))
    return average_pool(student_map, height, width), average_pool(teacher_map, height, width)
