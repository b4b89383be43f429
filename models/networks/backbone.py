"""The contract of every network: a stem, stages 1..S, and a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import InputError


class Features(NamedTuple):
    """What a network computes on its way to the logits.

    Attributes:
        stem: ``[B, C0, H0, W0]``, the input of stage 1.
        stages: the output of each stage, ``[B, Cs, Hs, Ws]``; the last is the map before pooling.
            Empty where a network's stages cannot be found.
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
    whatever else it has is the head), and says how the stem, the pooling and the classifier run
    where that is not what is written here.
    State dicts of the public model zoos therefore load as they are, and auxiliary learners can be
    attached to any network.

    Attributes:
        name: the name it was built by, e.g. ``resnet20``; ``models.build(name, num_classes)``
            makes another one of the same shape.
        num_classes: the number of logits.
        input_size: height and width that the network sees images in, whatever is given; None is
            what is given.
        is_fused: whether :meth:`fuse_branches` changed it.
    """

    stem_parts: ClassVar[tuple[str, ...]]
    stage_parts: ClassVar[tuple[tuple[str, ...], ...]]
    classifier_part: ClassVar[str] = "fc"

    name: str
    num_classes: int
    input_scale: Tensor | None
    input_shift: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: a state dict is the network's alone.
        self.register_buffer("input_scale", None, persistent=False)
        self.register_buffer("input_shift", None, persistent=False)
        self.trunk_is_frozen = False
        self.input_size: int | None = None
        self.is_fused = False

    def set_input(self, scale: Sequence[float], shift: Sequence[float]) -> None:
        """Have each channel of the images multiplied and shifted before the stem.

        A network that was trained with another normalisation than the data's then takes what all
        others take.
        """
        parameter = next(self.parameters())
        for name, values in (("input_scale", scale), ("input_shift", shift)):
            tensor = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            setattr(self, name, tensor.to(parameter))

    def renormalize(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` as the stem takes them.

        They are brought to ``input_size`` where that is set, by bicubic interpolation, and
        normalised as :meth:`set_input` says.
        """
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        if self.input_scale is None or self.input_shift is None:
            return images
        return images * self.input_scale + self.input_shift

    def stem(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to the input of stage 1."""
        for part in self.stem_parts:
            images = self.get_submodule(part)(images)
        return images

    def embed(self, last_map: Tensor) -> Tensor:
        """The last stage's map ``[B, C, H, W]`` to the pooled embedding ``[B, D]``.

        The mean over the map, not a pooling window of its size, so that any input size works.
        """
        return last_map.mean((2, 3))

    def last_layer(self) -> nn.Module:
        """Whose parameters are of these classes."""
        return self.get_submodule(self.classifier_part)

    def classify(self, embedding: Tensor) -> Tensor:
        """The pooled embedding ``[B, D]`` to logits ``[B, K]``."""
        logits: Tensor = self.last_layer()(embedding)
        return logits

    def freeze_trunk(self) -> None:
        """Leave only the classifier to be trained; the rest stays as it is in eval mode."""
        self.requires_grad_(False)
        self.last_layer().requires_grad_(True)
        self.trunk_is_frozen = True

    def train(self, mode: bool = True) -> Self:
        """As torch's; a frozen trunk keeps its running statistics."""
        return super().train(mode and not self.trunk_is_frozen)

    @property
    def num_stages(self) -> int:
        return len(self.stage_parts)

    def require_stages(self, user: str) -> None:
        """Refuse a network whose stages cannot be found.

        Raises:
            InputError: says that ``user``, such as a method, needs them.
        """
        if self.num_stages == 0:
            raise InputError(
                f"{user} needs the stages of {self.name}, which cannot be found; choose another"
                " network, or a method that does without, such as kd"
            )

    def features(self, images: Tensor) -> Features:
        """Every intermediate result for ``images`` of ``[B, 3, H, W]``."""
        return self.features_from(self.stem(self.renormalize(images)), stage=1)

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

    def fuse_branches(self) -> bool:
        """Merge the branches that only help training, in place, as their network's authors mean it.

        Returns:
            Whether there are any. Afterwards the network is in eval mode, and can only be run.
        """
        return False

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
