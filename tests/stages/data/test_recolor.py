import pytest
import torch

from stages.data.feed.recolor import recolor
from stages.sections.data import Augmentation


@pytest.mark.parametrize(
    "changes", [{"policy": "trivial"}, {"policy": "rand"}, {"color_jitter": 0.4}, {"erasing": 0.5}]
)
def test_an_image_is_changed_by_seed_epoch_and_index_alone(changes):
    settings = Augmentation(**changes)
    images = torch.randint(0, 256, (24, 16, 16, 3), dtype=torch.uint8)
    indices = torch.arange(100, 124)
    before = torch.random.get_rng_state()
    changed = recolor(images, indices, settings, 3)
    assert torch.equal(torch.random.get_rng_state(), before), "the training's own numbers"
    order = torch.randperm(24)
    parts = [recolor(images[part], indices[part], settings, 3) for part in order.split(7)]
    assert torch.equal(torch.cat(parts), changed[order])
    assert changed.dtype == torch.uint8
    assert sum(not torch.equal(a, b) for a, b in zip(images, changed, strict=True)) > 4
    for other in (recolor(images, indices, settings, 4), recolor(images, indices + 1, settings, 3)):
        assert not torch.equal(other, changed)
