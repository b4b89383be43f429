"""Plain supervision."""

import torch
from torch.nn import functional as F

import models
from models import distillers
from models.distillers.base import Batch
from tests.models.distillers.tiny import losses_of
from tests.setting import make_setting


def test_cross_entropy_alone():
    student = models.build("resnet8", 6)
    scratch = distillers.build("scratch", student, make_setting(), {}).eval()
    batch = Batch(torch.randn(5, 3, 32, 32), torch.tensor([0, 3, 5, 1, 1]), torch.arange(5))
    log_p = F.log_softmax(student(batch.images), 1)
    wanted = -torch.stack([log_p[i, y] for i, y in enumerate(batch.labels)]).mean()
    losses = losses_of(scratch, batch)
    assert set(losses) == {"total"}
    assert torch.allclose(losses["total"], wanted)
    assert set(scratch.state_dict()) == {f"student.{name}" for name in student.state_dict()}
