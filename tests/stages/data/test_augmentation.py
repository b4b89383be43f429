"""Order and augmentation depend only on seed, epoch and index."""

import numpy as np
import pytest
import torch

from stages.data.feed.augmentation import augment, crop_and_flip, epoch_order, pad
from stages.data.feed.random_bits import random_bits
from stages.sections.data import Augmentation


def splitmix64(state: int) -> int:
    """Compute the published generator's output for a state, in plain integers."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_bits_are_the_published_mixing_of_their_keys():
    # The published first output for the state 0.
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    for seed, purpose, epoch, index in ((0, 0, 0, 0), (7, 2, 199, 49_999), (3, 1, 0, 5)):
        state = 0
        for key in (seed, purpose, epoch, index):
            state = splitmix64(state ^ key)
        for company in ([index], [4, index, index, 9]):
            measured = random_bits(seed, epoch, torch.tensor(company), purpose)
            assert measured[len(company) // 2].item() % (1 << 64) == state


def test_bits_look_random():
    bits = random_bits(0, 0, torch.arange(20_000), 1)
    assert len(torch.unique(bits)) == 20_000
    upper = (bits.numpy().view(np.uint64) >> np.uint64(32)).astype(np.int64)
    for width in (5, 9):
        counts = np.bincount(upper % width, minlength=width)
        expected = 20_000 / width
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < 30  # far in the tail for at most 8 degrees of freedom
    other = random_bits(0, 1, torch.arange(20_000), 1)
    assert abs(np.corrcoef(bits.double(), other.double())[0, 1]) < 0.03


def test_an_order_is_a_permutation_and_changes_with_epoch_and_seed():
    orders = [epoch_order(0, 0, 1000), epoch_order(0, 1, 1000), epoch_order(1, 0, 1000)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0], epoch_order(0, 0, 1000))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("flip", [False, True])
def test_each_result_is_a_window_of_its_padded_image(mode, flip):
    images = np.random.default_rng(0).integers(1, 256, (50, 8, 8, 3), dtype=np.uint8)
    padded = pad(torch.from_numpy(images), 2, mode)
    border = ((0, 0), (2, 2), (2, 2), (0, 0))
    assert np.array_equal(padded, np.pad(images, border, "constant" if mode == "zero" else mode))
    indices = torch.tensor([3, 9, 49, 3])
    settings = Augmentation(crop_padding=2, pad_mode=mode, horizontal_flip=flip, seed=5)
    out = crop_and_flip(padded, indices, indices, settings, 8, epoch=7)
    assert torch.equal(out[0], out[3])  # the same sample and epoch
    for image, index in zip(out, indices, strict=True):
        windows = [padded[index, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
        windows += [w.flip(1) for w in windows] if flip else []
        assert any(torch.equal(image, window) for window in windows)


@pytest.mark.parametrize("crop", [{"crop_padding": 2}, {"crop": "resized", "crop_padding": 0}])
def test_the_choice_depends_on_the_sample_not_on_its_position(crop):
    images = torch.randint(0, 256, (6, 12, 12, 3), dtype=torch.uint8)
    settings = Augmentation(horizontal_flip=True, **crop)
    indices = torch.tensor([40, 3, 17])
    together = augment(images, torch.tensor([5, 0, 2]), indices, settings, 8, epoch=1)
    alone = augment(images[[2]], torch.tensor([0]), torch.tensor([17]), settings, 8, epoch=1)
    assert torch.equal(together[2:], alone)


def test_windows_and_mirrors_are_all_used():
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8, 1).repeat(1, 1, 1, 3)
    padded = pad(images, 1, "reflect")
    settings = Augmentation(crop_padding=1, horizontal_flip=True)
    first = torch.tensor([0])
    seen = [crop_and_flip(padded, first, first, settings, 8, epoch) for epoch in range(400)]
    assert len({image.numpy().tobytes() for image in seen}) == 9 * 2
