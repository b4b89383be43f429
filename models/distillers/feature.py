"""Base class and helpers of the methods that compare feature maps or embeddings."""

from typing import ClassVar

import torch
from torch import Tensor

from models.distillers.base import Batch, Distiller, Needs, Setting, TeacherOutputs
from models.distillers.losses import at_least_float32, cross_entropy, kl_divergence
from models.networks.backbone import Backbone, Features


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


def average_pool(feature_map: Tensor, height: int, width: int) -> Tensor:
    """Pool ``[B, C, H, W]`` to ``[B, C, height, width]`` in at least float32.

    The windows are those of ``adaptive_avg_pool2d``, whose gradient is not deterministic on a GPU.
    Pooling is therefore written as products with one matrix for rows and one for columns.
    """
    feature_map = at_least_float32(feature_map)
    if feature_map.shape[2:] == (height, width):
        return feature_map
    rows = _windows(feature_map.shape[2], height, feature_map.device).to(feature_map.dtype)
    columns = _windows(feature_map.shape[3], width, feature_map.device).to(feature_map.dtype)
    with torch.autocast(feature_map.device.type, enabled=False):
        return torch.einsum("bchw,ih,jw->bcij", feature_map, rows, columns)


def _windows(length: int, parts: int, device: torch.device) -> Tensor:
    """Return a matrix ``[parts, length]`` whose rows average one window each."""
    part = torch.arange(parts, device=device).unsqueeze(1)
    place = torch.arange(length, device=device)
    first, last = part * length // parts, ((part + 1) * length - 1) // parts
    inside = ((first <= place) & (place <= last)).double()
    return inside / inside.sum(1, keepdim=True)
