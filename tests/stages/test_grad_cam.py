import numpy as np
import pytest
import torch
from PIL import Image

import models
from models.networks.backbone import Features
from stages.files import sha256
from stages.grad_cam import draw_looks, grad_cam, panel


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = models.build("resnet8", 5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
    return network.eval()


def test_equals_the_class_activation_map_of_a_network_with_pooling_and_one_linear_layer(network):
    # Grad-CAM equals CAM here, without a gradient (Selvaraju et al., section 3.1).
    images, classes = torch.randn(6, 3, 24, 24), torch.tensor([0, 1, 2, 3, 4, 0])
    features = network.features(images)
    maps = features.stages[-1].detach().numpy()
    weights = network.fc.weight.detach().numpy()[classes]
    expected = np.maximum(np.einsum("bc,bchw->bhw", weights, maps), 0)
    peak = expected.max((1, 2), keepdims=True)
    assert (peak > 0).sum() >= 3
    expected /= np.where(peak > 0, peak, 1)
    np.testing.assert_allclose(grad_cam(features, classes).numpy(), expected, atol=1e-5)
    alone = grad_cam(network.features(images[2:3]), classes[2:3])
    np.testing.assert_allclose(alone.numpy(), expected[2:3], atol=1e-5)


def test_is_zero_where_nothing_speaks_for_the_class():
    last_map = torch.rand(1, 2, 3, 3, requires_grad=True)
    logits = -last_map.mean((2, 3))
    heat = grad_cam(Features(last_map, (last_map,), logits, logits), torch.tensor([0]))
    assert torch.equal(heat, torch.zeros(1, 3, 3))


def test_the_panel_has_a_cell_for_each_image_and_network_and_is_reproducible(tmp_path):
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    images[0, :, :, 1] = 255
    looks = {}
    for network, sign in (("teacher", 1), ("target", -1)):
        last_map = torch.ones(2, 1, 4, 4, requires_grad=True)
        logits = sign * last_map.mean((2, 3)).expand(2, 2)
        looks[network] = Features(last_map, (last_map,), logits, logits)
    for name in ("first.png", "second.png"):
        draw_looks(tmp_path / name, images, torch.tensor([0, 1]), looks, ["$a$", "$b"])
    assert sha256(tmp_path / "first.png") == sha256(tmp_path / "second.png")
    with Image.open(tmp_path / "first.png") as file:
        panel = np.asarray(file.convert("RGBA"))
    height, width, _ = panel.shape
    image, teacher, target = (panel[height // 4, width * n // 6].tolist() for n in (1, 3, 5))
    assert image == [0, 255, 0, 255]
    assert teacher[0] > 100  # the bright end of the colour map over green
    assert target[0] < 10
    assert panel[2, 2, 3] == 0  # transparent around, for light and dark pages


def test_names_in_other_scripts_use_a_font_that_is_installed(tmp_path, monkeypatch):
    # Comes with matplotlib and has every character; a missing one would be a warning.
    monkeypatch.setattr("stages.grad_cam._OTHER_FONTS", {"Last Resort High-Efficiency"})
    with panel(tmp_path / "panel.png", 1, 1, (1, 1)) as (_, grid):
        grid[0][0].set_xlabel("桜")
