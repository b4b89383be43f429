"""The teacher's outputs for each batch: computed, or read from the store."""

from __future__ import annotations

import torch
from torch import Tensor

from models.distillers.base import Batch, Distiller, TeacherOutputs
from models.errors import InputError
from models.networks.backbone import Backbone
from stages.training.engine import Engine
from stages.training.inference import FrozenNetwork
from stages.training.logits_store import LogitsStore, round_logits

_PART = 1 << 14  # samples whose logits the processes exchange at once


class FrozenTeacher:
    """The teacher's outputs, epoch by epoch.

    Logits are rounded to float16 wherever they come from, so that a student's weights are the same
    with the store warm, cold or off. Features are never stored.

    Args:
        teacher: on the engine's device; it is put into eval mode, as a frozen teacher's running
            statistics must not move.
        slots: of an epoch, all processes together.

    Raises:
        InputError: the method needs a teacher and there is none.
    """

    def __init__(
        self,
        teacher: Backbone | None,
        distiller: Distiller,
        engine: Engine,
        store: LogitsStore | None,
        slots: int,
    ) -> None:
        self.needs = distiller.needs
        self.engine = engine
        self.store = store if distiller.needs == "logits" else None
        self.slots = slots
        self.stored: Tensor | None = None
        self.kept: Tensor | None = None
        if self.needs != "nothing":
            if teacher is None:
                raise InputError(f"{type(distiller).__name__} needs a teacher, and none was given")
            self.teacher = teacher.eval().requires_grad_(False)
            self.teacher.to(memory_format=torch.channels_last)
            self.answers = FrozenNetwork(teacher, engine.settings.compile)

    def begin_epoch(self, epoch: int, start_step: int) -> None:
        """Look into the store; what an interrupted epoch did before ``start_step`` is not there."""
        self.kept = None
        self.stored = None if self.store is None else self.store.read(epoch)
        if self.store is not None and self.stored is None and start_step == 0:
            classes = self.teacher.num_classes
            self.kept = torch.zeros(self.slots, classes, dtype=torch.float16)

    def end_epoch(self, epoch: int) -> None:
        """Keep what was computed, if that is all of the epoch."""
        if self.store is None or self.kept is None:
            return
        if self.engine.accelerator.num_processes > 1:
            # Each process has filled its own rows of zeros: the sum of the bits is the whole. As
            # int32, because processes on CPUs cannot add int16; in parts, because all of it would
            # be twice as large again.
            for part in torch.split(self.kept.view(torch.int16), _PART):
                bits = part.to(self.engine.device, torch.int32)
                part.copy_(self.engine.accelerator.reduce(bits, reduction="sum"))
        if self.engine.is_main:
            self.store.write(epoch, self.kept)
        self.kept = None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutputs:
        """What the method needs of a batch."""
        if self.needs == "nothing":
            return TeacherOutputs()
        if self.needs == "features":
            with self.engine.accelerator.autocast():
                features = self.teacher.features(batch.images)
            return TeacherOutputs(features.logits.float(), features)
        if self.stored is not None:
            logits = self.stored[batch.slots].to(self.engine.device)
        else:
            with self.engine.accelerator.autocast():
                logits = round_logits(self.answers(batch.images))
            if self.kept is not None:
                self.kept[batch.slots] = logits.cpu()
        return TeacherOutputs(logits.float())
