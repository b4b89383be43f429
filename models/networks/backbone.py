"""The interface of all networks: a stem, stages 1..S, and a head."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import InputError


class Features(NamedTuple):
    """The intermediate results of a network."""

    stem: Tensor  # [B, C0, H0, W0], the input of stage 1
    stages: tuple[Tensor, ...]
    """The output of each stage, ``[B, Cs, Hs, Ws]``; the last is the map before pooling. Empty for
    a network without known stages."""
    embedding: Tensor  # [B, D], the pooled last map
    logits: Tensor  # [B, K]

    def stage_input(self, stage: int) -> Tensor:
        """Return the feature map that enters ``stage`` (counted from 1)."""
        return self.stem if stage == 1 else self.stages[stage - 2]


class Backbone(nn.Module):
    """A classification network that declares its parts without renaming its parameters.

    A subclass names the modules of its stem and of each stage by dotted names relative to itself;
    all other modules are the head. It overrides how the stem, the pooling and the classifier run if
    the defaults do not fit. As parameters keep their names, state dicts of public model zoos load
    unchanged.

    Attributes:
        name: the name it was built by, e.g. ``resnet20``; ``models.build(name, num_classes)``
            builds another network of the same shape.
        num_classes: the number of logits.
        input_size: height and width that images are resized to; None leaves them unchanged.
        is_fused: whether :meth:`fuse_branches` changed the network.
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
        # Not persistent, to keep the state dict that of the plain network.
        self.register_buffer("input_scale", None, persistent=False)
        self.register_buffer("input_shift", None, persistent=False)
        self.trunk_is_frozen = False
        self.input_size: int | None = None
        self.is_fused = False

    def set_input(self, scale: Sequence[float], shift: Sequence[float]) -> None:
        """Multiply and shift each channel of the images before the stem.

        This adapts a network that was trained with another normalisation to the data's.
        """
        parameter = next(self.parameters())
        for name, values in (("input_scale", scale), ("input_shift", shift)):
            tensor = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            setattr(self, name, tensor.to(parameter))

    def renormalize(self, images: Tensor) -> Tensor:
        """Resize images ``[B, 3, H, W]`` to ``input_size``, if set, and apply :meth:`set_input`."""
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        if self.input_scale is None or self.input_shift is None:
            return images
        return images * self.input_scale + self.input_shift

    def stem(self, images: Tensor) -> Tensor:
        """Map images ``[B, 3, H, W]`` to the input of stage 1."""
        for part in self.stem_parts:
            images = self.get_submodule(part)(images)
        return images

    def embed(self, last_map: Tensor) -> Tensor:
        """Pool the last stage's map ``[B, C, H, W]`` to the embedding ``[B, D]``.

        Takes the mean over the map instead of a fixed pooling window, so any input size works.
        """
        return last_map.mean((2, 3))

    def last_layer(self) -> nn.Module:
        """Return the layer that gives the logits."""
        return self.get_submodule(self.classifier_part)

    def last_layers(self) -> nn.ModuleList:
        """Return all layers whose parameters depend on the classes; some networks have two."""
        return nn.ModuleList([self.last_layer()])

    def reset_classifier(self) -> None:
        """Draw a new classifier with torch's initialisation.

        A library's initialisation for a thousand classes is too large for a few: the first steps
        would destroy what pretrained stages have learned.
        """
        for layer in self.last_layers().modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.reset_parameters()

    def classify(self, embedding: Tensor) -> Tensor:
        """Map the pooled embedding ``[B, D]`` to logits ``[B, K]``."""
        logits: Tensor = self.last_layer()(embedding)
        return logits

    def freeze_trunk(self) -> None:
        """Freeze everything but the classifier; the rest stays in eval mode."""
        self.requires_grad_(False)
        self.last_layers().requires_grad_(True)
        self.trunk_is_frozen = True

    def train(self, mode: bool = True) -> Self:
        """Set train mode, except that a frozen trunk keeps its running statistics."""
        return super().train(mode and not self.trunk_is_frozen)

    @property
    def num_stages(self) -> int:
        return len(self.stage_parts)

    def require_stages(self, user: str) -> None:
        """Raise InputError if ``user``, such as a method, needs stages and none are known."""
        if self.num_stages == 0:
            raise InputError(
                f"{user} needs the stages of {self.name}, which cannot be found; choose another"
                " network, or a method that does without, such as kd"
            )

    def features(self, images: Tensor) -> Features:
        """Compute all intermediate results for images ``[B, 3, H, W]``."""
        return self.features_from(self.stem(self.renormalize(images)), stage=1)

    def features_from(self, entry: Tensor, stage: int) -> Features:
        """Compute the intermediate results from ``stage`` (counted from 1) on, given its input.

        ``Features.stem`` is then ``entry``, and ``Features.stages`` has the maps of the stages that
        ran.
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
        """Map images ``[B, 3, H, W]`` to logits ``[B, K]``."""
        return self.features(images).logits

    def fuse_branches(self) -> bool:
        """Merge branches that only help training, as its authors designed; return whether any are.

        Afterwards the network is in eval mode and cannot be trained.
        """
        return False

    @torch.no_grad()
    def probe(self, image_size: int) -> Features:
        """Compute all intermediate results for one black image, to find out their shapes.

        Runs in eval mode, because a pass in train mode would change the running statistics.
        """
        training = self.training
        parameter = next(self.parameters())
        images = torch.zeros(1, 3, image_size, image_size, device=parameter.device)
        try:
            return self.eval().features(images.to(parameter.dtype))
        finally:
            self.train(training)

    def keep_tail(self, stage: int) -> None:
        """Drop the stem and the stages before ``stage``; the rest keeps its parameter names.

        Afterwards only :meth:`features_from` with this ``stage`` works.
        """
        for parts in (self.stem_parts, *self.stage_parts[: stage - 1]):
            for part in parts:
                self.set_submodule(part, nn.Identity())
