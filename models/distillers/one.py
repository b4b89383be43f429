"""On-the-fly native ensemble (Lan, Zhu & Gong 2018), a method without a teacher."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch, Distiller, Needs, Observation, Setting, TeacherOutputs
from models.distillers.losses import at_least_float32, cross_entropy, kl_divergence, sigmoid_ramp
from models.learners import GroupOutput, Learners
from models.networks.backbone import Backbone


class Gate(nn.Module):
    """Weight M branches per sample, from the map that all of them branch off.

    Computes ``softmax(ReLU(BatchNorm(Linear(mean_hw(h)))))`` of the map ``h``, ``[B, C, H, W]``.
    """

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(channels, branches)
        self.norm = nn.BatchNorm1d(branches)

    def forward(self, shared_map: Tensor) -> Tensor:
        """Compute weights ``[B, M]`` that sum to 1 for each sample."""
        scores = self.norm(self.weigh(shared_map.mean((2, 3))))
        return F.softmax(F.relu(at_least_float32(scores)), dim=1)


class One(Distiller):
    """``ce_weight * (CE(z_e, y) + sum_k CE(z_k, y)) + kd_weight w(t) sum_k T^2 KL(p_e || p_k)``.

    M - 1 freshly initialised branches, each with its own last stage and classifier, are added to
    the student and share its earlier stages. A gate weights the M logits of each sample,
    ``z_e = sum_k g_k z_k``, and the detached ensemble teaches all branches. Every loss is a mean
    over the batch. In epoch t, counted from 0, ``w(t) = exp(-5 (1 - t/R)^2)`` for ``t < R``, and 1
    afterwards.

    Follows section 3 of the paper and the authors' code, which adds the ramp ``w`` over the first
    80 of 300 epochs; here R is the same fraction of all epochs. To avoid log 0, the code adds 1e-7
    to ``p_e``, which is unnecessary with log-softmax. It also uses bottlenecks in networks of 44
    layers and more; here the student's architecture does not change. The reference's weights are 1
    and 1, with T = 3 and M = 3, and the branch it reports is the student.
    """

    needs: ClassVar[Needs] = "nothing"
    needs_labels: ClassVar[bool] = True
    temperature: float  # T
    ce_weight: float  # of the cross entropies
    kd_weight: float  # of the divergences after the ramp
    branches: int  # M, including the student's own last stage
    ramp_up: float  # R as a fraction of all epochs

    def __init__(self, student: Backbone, setting: Setting, **options: Any) -> None:
        super().__init__(student, setting, **options)
        last = student.num_stages
        codes = [f"D{last}B1"] * (self.branches - 1)
        self.learners = Learners(student, codes, copies=setting.copies)
        self.learner_names = self.learners.names
        shared_map = student.probe(setting.image_size).stage_input(last)
        self.gate = Gate(shared_map.shape[1], self.branches)

    @classmethod
    def check_networks(cls, student: Backbone, teacher: Backbone | None) -> None:
        student.require_stages("distill.method one")

    def forward(self, images: Tensor) -> GroupOutput:
        """Compute target, learners, and their gated ensemble."""
        target = self.student.features(images)
        learners = self.learners(target)
        weights = self.gate(target.stage_input(self.student.num_stages))
        logits = torch.stack([branch.logits for branch in (target, *learners)], dim=1)
        ensemble = (weights.unsqueeze(2) * at_least_float32(logits)).sum(1)
        return GroupOutput(target, learners, weights, ensemble)

    def losses(
        self, outputs: GroupOutput, batch: Batch, teacher: TeacherOutputs
    ) -> dict[str, Tensor]:
        ce_target, *ce_learners = (cross_entropy(logits, batch) for logits in outputs.logits)
        losses = {
            "ce_target": ce_target,
            "ce_learners": torch.stack(ce_learners).sum(),
            "ce_ensemble": cross_entropy(outputs.ensemble, batch),
        }
        ensemble = outputs.ensemble.detach()
        losses["kd"] = torch.stack(
            [kl_divergence(logits, ensemble, self.temperature) for logits in outputs.logits]
        ).sum()
        ce = losses["ce_target"] + losses["ce_learners"] + losses["ce_ensemble"]
        ramp = sigmoid_ramp(self.epoch, self.ramp_up, self.epochs)
        total = self.ce_weight * ce + self.kd_weight * ramp * losses["kd"]
        return {"total": total} | losses

    def observe(self, images: Tensor) -> Observation:
        group = self(images)
        branches = ["target", *self.learner_names]
        logits = dict(zip(branches, group.logits, strict=True)) | {"ensemble": group.ensemble}
        embeddings = {
            name: features.embedding
            for name, features in zip(self.learner_names, group.learners, strict=True)
        }
        measures = {f"attention/{name}": group.weights[:, k] for k, name in enumerate(branches)}
        return Observation(logits, embeddings, measures)
