"""Gradients of weights that only meet padding."""

import pytest
import torch
from torch import nn

import models
from models.distillers import build
from models.distillers.base import Batch, Setting, TeacherOutputs
from stages.training.onednn import mask_padding_gradients


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_they_are_zero_on_maps_of_one_pixel(precision):
    size, cpu = 16, torch.device("cpu")  # four halvings leave one pixel, before a fifth
    setting = Setting(None, size, torch.zeros(8, dtype=torch.int64), 8, 1)
    torch.manual_seed(0)
    distiller = build("scratch", models.build("timm:resnet18", 3), setting, {})
    for module in distiller.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # zero initial weights would block gradients
    state = {name: tensor.clone() for name, tensor in distiller.state_dict().items()}
    mask_padding_gradients(distiller, size, cpu)
    assert all(torch.equal(state[name], t) for name, t in distiller.state_dict().items())
    batch = Batch(torch.randn(8, 3, size, size), torch.arange(8) % 3, torch.arange(8))
    for _ in range(3):  # reused memory with arbitrary content
        distiller.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            losses = distiller.losses(distiller(batch.images), batch, TeacherOutputs())
        losses["total"].backward()
        layer = distiller.student.get_submodule("layer4.0.conv1")
        gradient = layer.weight.grad
        assert gradient[:, :, 1, 1].any()
        gradient[:, :, 1, 1] = 0
        assert not gradient.any()
        other = distiller.student.get_submodule("layer3.0.conv1").weight.grad
        assert other.isfinite().all()
        assert (other != 0).float().mean() > 0.4
