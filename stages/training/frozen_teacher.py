"""The teacher's outputs for each batch: computed, or read from the store."""

import torch
from torch import Tensor

from models.distillers.base import Batch, Distiller, TeacherOutputs
from models.networks.backbone import Backbone
from stages.training.engine import Engine
from stages.training.inference import FrozenNetwork
from stages.training.logits_store import LogitsStore, round_logits

_PART = 1 << 14  # samples per exchange of logits between processes


class FrozenTeacher:
    """Gives the teacher's outputs for each batch.

    Logits are always rounded to float16, so the student's weights are the same with the store warm,
    cold or off. Features are never stored.

    Args:
        teacher: on the engine's device; put into eval mode, which freezes its running statistics.
        slots: samples of an epoch, over all processes.
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
            assert teacher is not None
            self.teacher = teacher.eval().requires_grad_(False)
            self.teacher.to(memory_format=torch.channels_last)
            self.answers = FrozenNetwork(teacher, engine.settings.compile)

    def begin_epoch(self, epoch: int, start_step: int) -> None:
        """Read the epoch from the store, or prepare to keep it if it starts at its first step."""
        self.kept = self.stored = None
        if self.store is None:
            return
        stored = self.store.read(epoch)
        # Hosts may have different stores; all processes must read, or all compute and merge.
        found = torch.tensor(float(stored is not None), device=self.engine.device)
        if self.engine.average(found) == 1:
            self.stored = stored
        elif start_step == 0:
            classes = self.teacher.num_classes
            self.kept = torch.zeros(self.slots, classes, dtype=torch.float16)

    def end_epoch(self, epoch: int) -> None:
        """Store the epoch's logits if all of them were computed."""
        if self.store is None or self.kept is None:
            return
        if self.engine.accelerator.num_processes > 1:
            # Each process filled its own rows and left zeros elsewhere, so summing the bits merges
            # them: as int32, because CPU processes cannot add int16, and in parts to save memory.
            for part in torch.split(self.kept.view(torch.int16), _PART):
                bits = part.to(self.engine.device, torch.int32)
                part.copy_(self.engine.accelerator.reduce(bits, reduction="sum"))
        if self.engine.is_main:
            self.store.write(epoch, self.kept)
        self.kept = None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutputs:
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
