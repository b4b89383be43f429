"""The contract of every network: a stem, stages 1..S, and a head."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class Features(NamedTuple):
    """What a network computes on its way to the logits.

    Attributes:
        stem: ``[B, C0, H0, W0]``, the input of stage 1.
        stages: the output of each stage, ``[B, Cs, Hs, Ws]``; the last is the map before pooling.
        embedding: ``[B, D]``, the pooled last map.
        logits: ``[B, K]``.
    """

    stem: Tensor
    stages: tuple[Tensor, ...]
    embedding: Tensor
    logits: Tensor

    def stage_input(self, stage: int) -> Tensor:
        """The feature map that enters ``stage`` (counted from 1)."""
        return self.stem if stage == 1 else self.stages[stage - 2]


class Backbone(nn.Module):
    """A classification network that declares its parts without renaming its parameters.

    A subclass names the modules of its stem and of each stage (dotted names relative to itself;
    whatever else it has is the head), and says how the stem, the pooling and the classifier run.
    State dicts of the public model zoos therefore load as they are, and auxiliary learners can be
    attached to any network.

    Attributes:
        name: the name it was built by, e.g. ``resnet20``; ``models.build(name, num_classes)``
            makes another one of the same shape.
        num_classes: the number of logits.
    """

    stem_parts: ClassVar[tuple[str, ...]]
    stage_parts: ClassVar[tuple[tuple[str, ...], ...]]

    name: str
    num_classes: int

    def stem(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to the input of stage 1."""
        raise NotImplementedError

    def embed(self, last_map: Tensor) -> Tensor:
        """The last stage's map ``[B, C, H, W]`` to the pooled embedding ``[B, D]``."""
        raise NotImplementedError

    def classify(self, embedding: Tensor) -> Tensor:
        """The pooled embedding ``[B, D]`` to logits ``[B, K]``."""
        raise NotImplementedError

    @property
    def num_stages(self) -> int:
        return len(self.stage_parts)

    def features(self, images: Tensor) -> Features:
        """Every intermediate result for ``images`` of ``[B, 3, H, W]``."""
        return self.features_from(self.stem(images), stage=1)

    def features_from(self, entry: Tensor, stage: int) -> Features:
        """As :meth:`features`, entering at ``stage`` (counted from 1) with that stage's input.

        ``Features.stem`` is then the given ``entry``, and ``Features.stages`` holds the maps of
        the stages that ran.
        """
        maps = []
        feature_map = entry
        for parts in self.stage_parts[stage - 1 :]:
            for part in parts:
                feature_map = self.get_submodule(part)(feature_map)
            maps.append(feature_map)
        embedding = self.embed(feature_map)
        return Features(entry, tuple(maps), embedding, self.classify(embedding))

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to logits ``[B, K]``, always and only."""
        return self.features(images).logits

    @torch.no_grad()
    def probe(self, image_size: int) -> Features:
        """Every intermediate result for one black image: whoever builds on them reads the shapes.

        It runs in eval mode, because a pass in train mode would change the running statistics.
        """
        training = self.training
        parameter = next(self.parameters())
        images = torch.zeros(1, 3, image_size, image_size, device=parameter.device)
        try:
            return self.eval().features(images.to(parameter.dtype))
        finally:
            self.train(training)

    def keep_tail(self, stage: int) -> None:
        """Drop the stem and the stages before ``stage``; what is left keeps its parameter names.

        Afterwards only :meth:`features_from` at ``stage`` makes sense.
        """
        dropped = [
            *self.stem_parts,
            *(part for parts in self.stage_parts[: stage - 1] for part in parts),
        ]
        for part in dropped:
            self.set_submodule(part, nn.Identity())
