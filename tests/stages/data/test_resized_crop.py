"""Random resized crops: equal to PIL's, and a function of only seed, epoch and sample."""

import numpy as np
import pytest
import torch
from PIL import Image

from stages.data.feed.base import FeedPlan
from stages.data.feed.memory import MemoryFeed
from stages.data.feed.resized_crop import choose_parts, resized_crops
from stages.data.feed.stream import StreamFeed
from stages.sections.data import Augmentation
from tests.splits import write_splits

CPU = torch.device("cpu")
SETTINGS = Augmentation(crop="resized", crop_padding=0, horizontal_flip=False, seed=3)
SIDE, SIZE = 48, 20


def noise(count: int, side: int = SIDE) -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (count, side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [20, 64], ids=["smaller", "larger"])
def test_it_is_the_crop_resized_as_pil_does_it(size):
    images, indices = noise(40), torch.arange(100, 140)
    found = resized_crops(images, indices, SETTINGS, size, epoch=5)
    parts = choose_parts(SIDE, indices, SETTINGS, epoch=5)
    for image, part, ours in zip(images.numpy(), parts, found.numpy(), strict=True):
        top, left, height, width = part
        crop = Image.fromarray(image[top : top + height, left : left + width])
        wanted = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))
        assert np.abs(ours.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("smallest", [0.08, 0.35])
def test_areas_and_sides_are_spread_over_their_ranges(smallest):
    settings = SETTINGS.model_copy(update={"crop_area": smallest})
    parts = np.array(choose_parts(1000, torch.arange(4000), settings, epoch=0))
    top, left, height, width = parts.T
    area, ratio = height * width / 1e6, width / height
    assert smallest - 0.001 < area.min() < smallest + 0.01
    assert ratio.min() > 0.749
    assert ratio.max() < 1.335
    assert top.min() == left.min() == 0
    assert max((top + height).max(), (left + width).max()) <= 1000
    # Expected values by a sum over a fine grid: a uniform area u and a log-uniform ratio, limited
    # to crops that fit, whose u times the longer side's square over the area is at most 1.
    areas = np.linspace(smallest, 1, 2001)[:, None]
    sides = np.exp(np.linspace(0, np.log(4 / 3), 2001))
    fits = areas * sides <= 1
    expected = (areas * fits).sum() / fits.sum()
    assert area.mean() == pytest.approx(expected, abs=4 * area.std() / 4000**0.5)
    assert np.log(ratio).mean() == pytest.approx(0, abs=4 * np.log(ratio).std() / 4000**0.5)
    free = top[height < 1000] / (1000 - height[height < 1000])
    assert free.mean() == pytest.approx(0.5, abs=0.02)


def test_the_choice_belongs_to_the_epoch_and_the_seed():
    indices = torch.tensor([40, 3, 17])
    same = choose_parts(SIDE, indices, SETTINGS, 0)
    assert choose_parts(SIDE, indices, SETTINGS, 0) == same
    assert choose_parts(SIDE, indices, SETTINGS, 1) != same
    assert choose_parts(SIDE, indices, SETTINGS.model_copy(update={"seed": 4}), 0) != same


def test_about_half_are_mirrored_in_place():
    images, indices = noise(64), torch.arange(64)
    plain = resized_crops(images, indices, SETTINGS, SIZE, epoch=0)
    flipping = SETTINGS.model_copy(update={"horizontal_flip": True})
    mirrored = 0
    for image, ours in zip(plain, resized_crops(images, indices, flipping, SIZE, 0), strict=True):
        if not torch.equal(image, ours):
            assert torch.equal(image.flip(1), ours)
            mirrored += 1
    assert 16 < mirrored < 48


def test_a_uniform_image_does_not_change():
    images = torch.full((4, SIDE, SIDE, 3), 255, dtype=torch.uint8)
    images[1], images[2] = 0, 77
    out = resized_crops(images, torch.arange(4), SETTINGS, SIZE, epoch=0)
    assert torch.equal(out, images[:, :SIZE, :SIZE])


@pytest.fixture
def data(tmp_path):
    """50 training images with a margin: 24 pixels for a size of 16."""
    splits = {"train": noise(50, 24), "val": noise(10, 16), "test": noise(10, 16)}
    return write_splits(tmp_path, {name: t.numpy() for name, t in splits.items()}, "abcde")


def test_streamed_and_kept_images_are_the_same(data):
    settings = SETTINGS.model_copy(update={"horizontal_flip": True})
    memory = MemoryFeed(FeedPlan(data, settings, 16, CPU))
    stream = StreamFeed(FeedPlan(data, settings, 16, CPU), workers=0)
    for kept, streamed in zip(memory.epoch(2), stream.epoch(2), strict=True):
        assert kept.batch.images.shape[2:] == (16, 16)
        assert torch.equal(kept.batch.images, streamed.batch.images)


def test_without_augmentation_the_centre_is_used(data):
    train = data.split("train").images
    assert train.shape == (50, 16, 16, 3)
    assert train.with_margin().shape == (50, 24, 24, 3)
    assert np.array_equal(train[3:9], train.with_margin()[3:9][:, 4:20, 4:20])
    assert np.array_equal(train.first(4)[[3, 1]], train[[3, 1]])
