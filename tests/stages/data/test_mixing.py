import numpy as np
import pytest
import torch

from stages.data.feed.mixing import draw_mix
from stages.sections.data import Augmentation


def test_mixup_is_the_same_blend_of_pixels_and_targets():
    mix = draw_mix(Augmentation(mixup=0.8), 1, 2, 8)
    own, other = torch.rand(2, 3, 3, 8, 8)
    targets, others = torch.eye(3), torch.eye(3).flip(0)
    assert mix.box is None
    assert 0 < mix.kept < 1
    torch.testing.assert_close(mix.images(own, other), other + mix.kept * (own - other))
    assert mix.targets(targets, others)[0].tolist() == pytest.approx([mix.kept, 0, 1 - mix.kept])


def test_cutmix_takes_the_share_of_the_pixels_that_it_takes_of_the_target():
    for step in range(50):
        mix = draw_mix(Augmentation(cutmix=1.0), 0, step, 16)
        taken = mix.images(torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16))
        assert float(taken.mean()) == pytest.approx(1 - mix.kept, abs=1e-6)
        (rows, columns) = torch.nonzero(taken[0, 0], as_tuple=True)
        if len(rows):
            extent = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert int(extent) == len(rows), "one rectangle"


def test_mixing_depends_on_seed_epoch_and_step():
    settings = Augmentation(mixup=0.5, cutmix=0.5)
    drawn = [draw_mix(settings, epoch, step, 32) for epoch in range(20) for step in range(50)]
    assert draw_mix(settings, 3, 4, 32) == drawn[3 * 50 + 4]
    for seed in (1, -1):
        assert draw_mix(settings.model_copy(update={"seed": seed}), 3, 4, 32) != drawn[3 * 50 + 4]
    assert len({mix.kept for mix in drawn if mix.box is None}) > 430
    blended = [mix.kept for mix in drawn if mix.box is None]
    assert 430 < len(blended) < 570
    # Of Beta(.5, .5): mean 1/2, variance 1/8.
    assert np.mean(blended) == pytest.approx(0.5, abs=0.06)
    assert np.var(blended) == pytest.approx(0.125, abs=0.02)
