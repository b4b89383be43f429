"""Order and augmentation depend on seed, epoch and index, and on nothing else."""

import numpy as np
import pytest

from stages.data.augmentation import crop_and_flip, epoch_order, pad, random_bits


def splitmix64(state: int) -> int:
    """The published generator in plain integers: the output for a state."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_bits_are_the_published_mixing_of_their_keys() -> None:
    # The published first output for the state 0.
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    for seed, purpose, epoch, index in ((0, 0, 0, 0), (7, 2, 199, 49_999), (3, 1, 0, 5)):
        state = 0
        for key in (seed, purpose, epoch, index):
            state = splitmix64(state ^ key)
        assert int(random_bits(seed, epoch, np.array([index]), purpose)[0]) == state


def test_bits_do_not_depend_on_their_company() -> None:
    alone = [random_bits(1, 2, np.array([i]), 3)[0] for i in range(100)]
    assert np.array_equal(random_bits(1, 2, np.arange(100), 3), alone)


def test_bits_look_random() -> None:
    bits = random_bits(0, 0, np.arange(20_000), 1)
    assert len(np.unique(bits)) == 20_000
    for width in (5, 9):
        counts = np.bincount((bits % np.uint64(width)).astype(int), minlength=width)
        expected = 20_000 / width
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < 30  # far in the tail for at most 8 degrees of freedom
    other = random_bits(0, 1, np.arange(20_000), 1)
    assert abs(np.corrcoef(bits.astype(float), other.astype(float))[0, 1]) < 0.03


def test_an_order_is_a_permutation_and_changes_with_epoch_and_seed() -> None:
    orders = [epoch_order(0, 0, 1000), epoch_order(0, 1, 1000), epoch_order(1, 0, 1000)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert np.array_equal(orders[0], epoch_order(0, 0, 1000))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("flip", [False, True])
def test_each_result_is_a_window_of_its_padded_image(mode: str, flip: bool) -> None:
    images = np.random.default_rng(0).integers(1, 256, (50, 8, 8, 3), dtype=np.uint8)
    padded = pad(images, 2, mode)
    assert padded.shape == (50, 12, 12, 3)
    assert np.array_equal(padded[:, 2:-2, 2:-2], images)
    assert (padded[:, 0] == 0).all() == (mode == "zero")
    indices = np.array([3, 9, 49, 3])
    out = crop_and_flip(padded, indices, 2, flip, seed=5, epoch=7)
    assert np.array_equal(out[0], out[3])  # the same sample in the same epoch
    for image, index in zip(out, indices, strict=True):
        windows = [padded[index, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
        windows += [w[:, ::-1] for w in windows] if flip else []
        assert any(np.array_equal(image, window) for window in windows)


def test_windows_and_mirrors_are_all_used() -> None:
    images = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1).repeat(3, axis=3)
    padded = pad(images, 1, "reflect")
    seen = {crop_and_flip(padded, np.array([0]), 1, True, 0, e).tobytes() for e in range(400)}
    assert len(seen) == 9 * 2


def test_no_padding_and_no_flip_leave_the_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    out = crop_and_flip(pad(images, 0, "zero"), np.arange(5), 0, False, seed=0, epoch=0)
    assert np.array_equal(out, images)
