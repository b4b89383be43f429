import os

import numpy as np
import pytest

from models.errors import InputError
from stages.data.arrays import ImageFile, write_header


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 4, 5, 3), np.uint8)


@pytest.fixture
def images(tmp_path, pixels):
    np.save(tmp_path / "train_images.npy", pixels)
    return ImageFile(tmp_path / "train_images.npy")


@pytest.mark.parametrize(
    "rows",
    [
        *(slice(None), slice(3, 7), slice(18, 40), slice(40, 50), slice(-3, None)),
        *(slice(1, 15, 4), [5, 0, 19, 5, -1], np.array([7, 2]), []),
    ],
    ids=str,
)
def test_indexing_is_numpys(images, pixels, rows):
    wanted = pixels[np.asarray(rows, int)] if isinstance(rows, list) else pixels[rows]
    np.testing.assert_array_equal(images[rows], wanted)
    assert images[rows].flags.writeable


def test_an_index_beyond_the_end_is_refused(images):
    for row in (20, -21):
        with pytest.raises(IndexError):
            images[[0, row]]


def test_reading_only_the_first_images(images, pixels):
    part = images.first(6)
    assert len(part) == 6
    np.testing.assert_array_equal(part[4:10], pixels[4:6])
    with pytest.raises(IndexError):
        part[[6]]
    assert len(images.first(99)) == len(images) == 20


def test_headers_of_numpy(tmp_path, pixels):
    with (tmp_path / "ours.npy").open("wb") as handle:
        write_header(handle, np.uint8, pixels.shape)
        handle.write(pixels.tobytes())
    np.testing.assert_array_equal(np.load(tmp_path / "ours.npy"), pixels)
    np.testing.assert_array_equal(ImageFile(tmp_path / "ours.npy")[:], pixels)


def test_damaged_and_other_files_are_refused(tmp_path, pixels):
    path = tmp_path / "val_images.npy"
    with pytest.raises(InputError, match=r"val_images.npy: missing or damaged .*No such file"):
        ImageFile(path)
    np.save(path, pixels)
    whole = path.read_bytes()
    for content in (b"", b"\x93NUMPY", whole[:60], whole[:-1], whole + b"\0", b"x" * 300):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"val_images.npy: missing or damaged .*dvc repro"):
            ImageFile(path)
    for other in (pixels.astype(np.float32), pixels[0], np.asfortranarray(pixels)):
        np.save(path, other)
        with pytest.raises(InputError, match=r"expected uint8 \[N, H, W, 3\]"):
            ImageFile(path)


def test_a_file_that_is_cut_or_removed_while_it_is_read(images):
    os.truncate(images.path, images.path.stat().st_size - 61)
    assert images[:18].shape == (18, 4, 5, 3)
    with pytest.raises(InputError, match="truncated after it was opened"):
        images[[2, 19]]
    images.path.unlink()
    with pytest.raises(InputError, match=r"missing or damaged .*No such file"):
        images[:1]
