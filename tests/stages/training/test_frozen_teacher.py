"""The teacher's logits for an epoch, gathered and stored."""

from types import SimpleNamespace

import torch
from torch import Tensor

import models
from models import distillers
from stages.sections.training import EngineSettings
from stages.training import frozen_teacher
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.logits_store import LogitsStore, round_logits
from tests.setting import make_setting
from tests.stages.training.test_loop import OPTIONS

SAMPLES, CLASSES = 50, 3


def test_what_the_processes_have_seen_is_put_together_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_teacher, "_PART", 16)  # the last part is smaller
    whole = round_logits(5 * torch.randn(SAMPLES, CLASSES))
    own = torch.arange(SAMPLES) % 2 == 0
    of_others = torch.where(own[:, None], 0, whole).view(torch.int16).split(16)
    sizes = []

    def add_the_others(bits: Tensor, reduction: str) -> Tensor:
        assert (bits.dtype, reduction) == (torch.int32, "sum")
        sizes.append(len(bits))
        return bits + of_others[len(sizes) - 1]

    accelerator = SimpleNamespace(num_processes=2, reduce=add_the_others)
    engine = SimpleNamespace(
        accelerator=accelerator,
        is_main=True,
        device=torch.device("cpu"),
        settings=EngineSettings(),
        average=lambda found: found / 2,  # the other process has stored nothing
    )
    store = LogitsStore({}, SAMPLES, CLASSES, root=tmp_path)
    student, teacher = (models.build("resnet8", CLASSES) for _ in range(2))
    kd = distillers.build("kd", student, make_setting(), OPTIONS["kd"])
    frozen = FrozenTeacher(teacher, kd, engine, store, SAMPLES)
    frozen.begin_epoch(0, 0)
    frozen.kept[own] = whole[own]
    frozen.end_epoch(0)
    assert sizes == [16, 16, 16, 2]
    stored = store.read(0)
    assert torch.equal(stored, whole)
    frozen.begin_epoch(0, 0)
    assert frozen.stored is None, "this process would not merge what the others compute"
    assert frozen.kept is not None
