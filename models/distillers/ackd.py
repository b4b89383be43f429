"""Adversarial collaborative knowledge distillation (Liu, Huang & Liu, section 3).

The teacher teaches the attention-weighted ensemble of auxiliary learners, the ensemble teaches the
target learner, and discriminators keep the learners diverse. Our reading of ambiguous passages of
the paper is stated beside each equation.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from models.distillers.base import Batch, Distiller, Needs, Observation, Setting, TeacherOutputs
from models.distillers.losses import at_least_float32, cross_entropy, kl_divergence, sigmoid_ramp
from models.errors import InputError
from models.learners import GroupOutput, Learners
from models.networks.backbone import Backbone


class Attention(nn.Module):
    """Eq. 3: weight M learners per sample, from their last feature maps.

    The maps ``M x [B, C, H, W]`` are flattened and concatenated to ``[B, M*C*H*W]``, the input of a
    two-layer perceptron with a softmax. The shape of ``g`` printed in the paper does not fit a
    perceptron with M outputs; flattening everything per sample does. The paper does not state the
    hidden width; we use C.

    Args:
        map_shapes: ``(C, H, W)`` of each learner; a teacher tail may differ from the others.
        pooled: use each map's mean over positions instead, ``[B, M*C]``.
    """

    def __init__(self, map_shapes: Sequence[Sequence[int]], pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        inputs = sum(shape[0] if pooled else math.prod(shape) for shape in map_shapes)
        channels = map_shapes[0][0]
        self.hidden = nn.Linear(inputs, channels)
        self.weigh = nn.Linear(channels, len(map_shapes))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Compute weights ``[B, M]`` that sum to 1 for each sample."""
        parts = [m.mean((2, 3)) if self.pooled else m.flatten(1) for m in maps]
        scores = self.weigh(F.relu(self.hidden(torch.cat(parts, dim=1))))
        return F.softmax(at_least_float32(scores), dim=1)


class Discriminator(nn.Module):
    """1x1 convolutions with ReLU, from C to C/2 to C/4 channels to one logit per position.

    There is no BatchNorm, because its statistics would mix the maps of both sources.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, max(channels // 2, 1), max(channels // 4, 1))
        self.layers = nn.Sequential(
            nn.Conv2d(widths[0], widths[1], 1),
            nn.ReLU(),
            nn.Conv2d(widths[1], widths[2], 1),
            nn.ReLU(),
            nn.Conv2d(widths[2], 1, 1),
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to logits ``[B, 1, H, W]``, positive for its own learner's maps."""
        logits: Tensor = self.layers(feature_map)
        return logits


class Discriminators(nn.ModuleList):
    """One discriminator per learner, and their common objective."""

    def __init__(self, learners: int, channels: int) -> None:
        super().__init__(Discriminator(channels) for _ in range(learners))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Eq. 4 and 5: compute the adversarial objective, which the discriminators maximise.

        ``L_ad^i = E log D_i(h_i) + 1/(M-1) sum_{j != i} E log(1 - D_i(h_j))``, averaged over i. We
        read the fraction as applying to the whole sum; the expectation is over samples and
        positions. The maximum is 0; discriminators that guess reach ``-2 log 2``.
        """
        terms = []
        for i, discriminator in enumerate(self):
            own = F.logsigmoid(at_least_float32(discriminator(maps[i]))).mean()
            others = [
                F.logsigmoid(-at_least_float32(discriminator(feature_map))).mean()
                for j, feature_map in enumerate(maps)
                if j != i
            ]
            terms.append(own + torch.stack(others).mean())
        return torch.stack(terms).mean()

    def accuracy(self, maps: Sequence[Tensor]) -> Tensor:
        """Compute the discriminators' accuracy ``[B]``; own and others' maps count equally."""
        shares = []
        for i, discriminator in enumerate(self):
            own = (discriminator(maps[i]) > 0).float().flatten(1).mean(1)
            others = [
                (discriminator(feature_map) < 0).float().flatten(1).mean(1)
                for j, feature_map in enumerate(maps)
                if j != i
            ]
            shares.append((own + torch.stack(others).mean(0)) / 2)
        return torch.stack(shares).mean(0)


class Ackd(Distiller):
    """``L = l1 L_kd^a + l2 L_kd^s + l3 L_ad + l4 L_ce`` (Eq. 7).

    * ``L_kd^a`` (Eq. 2): teacher to ensemble, ``T^2 KL(p_t || p_e)``.
    * ``L_kd^s`` (Eq. 6): ensemble to target, ``T^2 KL(p_e || p_s)``. The ensemble is detached, or
      the learners would be pulled towards the target. As printed, Eq. 6 would maximise the
      divergence, but according to the text it is minimised.
    * ``L_ad`` (Eq. 4-5): the discriminators maximise it in a step of their own before the main
      step, on detached maps; in the main step they are frozen and the learners minimise it
      (``minimax``) or help the discriminators (``diversity``).
    * ``L_ce``: cross entropy of the target and of each learner, summed.

    These extensions are not in the paper and are off by default:

    * ``lambda_teacher_to_each``: ``T^2 KL(p_t || p_k)`` of each learner, summed;
    * ``lambda_teacher_to_target``: the same for the target;
    * ``ramp_up``: ``l2`` rises over the first epochs as in ONE, because the ensemble knows little
      at the start;
    * ``ramp_down``: the learners' own losses fall over the last epochs, by the same curve reversed,
      because the trunk that suits the learners need not be the best one for the target;
    * ``attention_balance``: ``M sum_k a_k^2 - 1`` of the batch's mean weights ``a``, the squared
      coefficient of variation used in mixtures of experts (Shazeer et al. 2017, section 4). It is 0
      for equal weights and M - 1 if one learner has all the weight, which happens soon as
      published;
    * ``attention_warm_up``: equal weights in the first epochs, for the same reason.

    Args:
        learners: for example ``["D3B1", "D2B2"]``. A single learner has neither attention nor
            adversary, because Eq. 4 divides by M - 1.
        attention: False weights all learners equally.
        adversarial: False omits the discriminators.
    """

    needs: ClassVar[Needs] = "logits"
    temperature: float  # T of Eq. 1
    lambda_teacher_to_learners: float  # l1
    lambda_learners_to_target: float  # l2
    lambda_adversarial: float  # l3
    lambda_ce: float  # l4
    lambda_teacher_to_each: float  # weight of the teacher's divergence from each learner
    lambda_teacher_to_target: float  # weight of the teacher's divergence from the target
    ramp_up: float  # fraction of all epochs in which l2 rises
    ramp_down: float  # fraction of all epochs in which the learners' own losses fall
    attention_pool: Literal["none", "avg"]
    """``avg`` feeds each map's mean over positions to the attention."""
    attention_balance: float  # weight of the term that balances the mean weights
    attention_warm_up: float  # fraction of all epochs, at the start, with equal weights
    objective: Literal["minimax", "diversity"]
    """Whether the learners work against the discriminators or with them."""
    discriminator_learning_rate: float  # learning rate of Adam; the paper states neither

    def __init__(
        self,
        student: Backbone,
        setting: Setting,
        *,
        learners: Sequence[str],
        attention: bool,
        adversarial: bool,
        **options: Any,
    ) -> None:
        super().__init__(student, setting, **options)
        self.learners = Learners(
            student, learners, setting.teacher, setting.image_size, copies=setting.copies
        )
        self.learner_names = self.learners.names
        with torch.no_grad():  # in eval mode, to keep the running statistics
            seen = self.learners.eval()(student.probe(setting.image_size))
        self.learners.train()
        map_shapes = [features.stages[-1].shape[1:] for features in seen]
        self.attention = None
        if attention and len(seen) > 1:
            self.attention = Attention(map_shapes, self.attention_pool == "avg")
        self.discriminators = None
        if adversarial and len(seen) > 1:
            channels = sorted({shape[0] for shape in map_shapes})
            if len(channels) > 1:
                raise InputError(
                    "distill.ackd.adversarial is true, but the learners' last maps have"
                    f" {' and '.join(map(str, channels))} channels, and a discriminator takes one"
                    " number; set it to false"
                )
            self.discriminators = Discriminators(len(seen), channels[0]).requires_grad_(False)

    def forward(self, images: Tensor) -> GroupOutput:
        """Compute target, learners, and the learners' attention-weighted ensemble (Eq. 3)."""
        target = self.student.features(images)
        learners = self.learners(target)
        logits = torch.stack([learner.logits for learner in learners], dim=1)
        if self.attention is None:
            weights = logits.new_full(logits.shape[:2], 1 / len(learners))
        else:
            weights = self.attention([learner.stages[-1] for learner in learners])
            if self.epoch < self.attention_warm_up * self.epochs:
                # Keep the attention in the graph, because data parallelism waits for its gradients.
                weights = 0 * weights + 1 / len(learners)
        ensemble = (weights.unsqueeze(2) * at_least_float32(logits)).sum(1)
        return GroupOutput(target, learners, weights, ensemble)

    def losses(
        self, outputs: GroupOutput, batch: Batch, teacher: TeacherOutputs
    ) -> dict[str, Tensor]:
        assert teacher.logits is not None
        target, learners, temperature = outputs.target, outputs.learners, self.temperature
        ce_target, *ce_learners = (
            cross_entropy(features.logits, batch) for features in (target, *learners)
        )
        kd_target = kl_divergence(target.logits, outputs.ensemble.detach(), temperature)
        losses = {
            "kd_learners": kl_divergence(outputs.ensemble, teacher.logits, temperature),
            "kd_target": kd_target,
            "ce_target": ce_target,
            "ce_learners": torch.stack(ce_learners).sum(),
        }
        ramp = sigmoid_ramp(self.epoch, self.ramp_up, self.epochs)
        fade = sigmoid_ramp(self.epochs - 1 - self.epoch, self.ramp_down, self.epochs)
        total = (
            fade * self.lambda_teacher_to_learners * losses["kd_learners"]
            + self.lambda_learners_to_target * ramp * kd_target
            + self.lambda_ce * (ce_target + fade * losses["ce_learners"])
        )
        if self.lambda_teacher_to_each > 0:
            losses["kd_each"] = torch.stack(
                [kl_divergence(one.logits, teacher.logits, temperature) for one in learners]
            ).sum()
            total = total + fade * self.lambda_teacher_to_each * losses["kd_each"]
        if self.lambda_teacher_to_target > 0:
            losses["kd_direct"] = kl_divergence(target.logits, teacher.logits, temperature)
            total = total + self.lambda_teacher_to_target * losses["kd_direct"]
        if self.attention is not None and self.attention_balance > 0:
            losses["balance"] = len(learners) * outputs.weights.mean(0).square().sum() - 1
            total = total + fade * self.attention_balance * losses["balance"]
        if self.discriminators is not None:
            losses["adversarial"] = self.discriminators(outputs.maps)
            side = 1.0 if self.objective == "minimax" else -1.0
            weight = fade * self.lambda_adversarial * side
            total = total + weight * losses["adversarial"]
        return {"total": total} | losses

    @property
    def adversary(self) -> Discriminators | None:
        return self.discriminators

    def adversary_loss(self, outputs: GroupOutput) -> Tensor:
        """Return the discriminators' loss, ``-L_ad`` on detached maps."""
        assert self.discriminators is not None
        objective: Tensor = self.discriminators(
            [feature_map.detach() for feature_map in outputs.maps]
        )
        return -objective

    def adversary_optimizer(self) -> Adam:
        assert self.discriminators is not None
        # The usual momenta of adversarial training; the paper names no optimizer.
        rate = self.discriminator_learning_rate
        return Adam(self.discriminators.parameters(), lr=rate, betas=(0.5, 0.999))

    def observe(self, images: Tensor) -> Observation:
        group = self(images)
        names = self.learner_names
        logits = {"target": group.target.logits}
        logits |= {name: f.logits for name, f in zip(names, group.learners, strict=True)}
        logits["ensemble"] = group.ensemble
        embeddings = {name: f.embedding for name, f in zip(names, group.learners, strict=True)}
        measures = {f"attention/{name}": group.weights[:, k] for k, name in enumerate(names)}
        if self.discriminators is not None:
            measures["discriminator_accuracy"] = self.discriminators.accuracy(group.maps)
        return Observation(logits, embeddings, measures)
