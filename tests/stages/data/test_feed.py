"""The training images as batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import InputError
from stages.data.arrays import DataSet, load_data
from stages.data.feed import Normalize, TrainFeed
from stages.files import write_json
from stages.params import Augmentation

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in (("train", 50), ("val", 10), ("test", 10)):
        np.save(tmp_path / f"{split}_images.npy", rng.integers(0, 256, (count, 8, 8, 3), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(count, dtype=np.int64) % 5)
        splits[split] = {"count": count}
    manifest = {"classes": list("abcde"), "image_size": 8, "splits": splits}
    manifest |= {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.1]}
    write_json(tmp_path / "manifest.json", manifest)
    return load_data(tmp_path)


def test_normalisation(data: DataSet) -> None:
    images = data.split("train").images[:4]
    out = Normalize(data.mean, data.std, CPU)(images)
    wanted = (images.astype(float) / 255 - data.mean) / data.std
    np.testing.assert_allclose(out.numpy(), wanted.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
    assert out.dtype == torch.float32


def test_an_epoch_sees_every_image_once_with_its_label(data: DataSet) -> None:
    still = Augmentation(crop_padding=0, horizontal_flip=False)
    feed = TrainFeed(data, still, 16, CPU)
    batches = list(feed.epoch(3))
    assert [len(batch.labels) for batch in batches] == [16, 16, 16, 2]
    assert feed.steps == 4
    split = data.split("train")
    all_normalized = feed.normalize(split.images)
    found = []
    for batch in batches:
        for image, label in zip(batch.images, batch.labels, strict=True):
            (index,) = [i for i in range(50) if torch.equal(all_normalized[i], image)]
            assert split.labels[index] == label
            found.append(index)
    assert sorted(found) == list(range(50))


def test_the_batch_size_does_not_change_the_images(data: DataSet) -> None:
    augmentation = Augmentation(crop_padding=2, horizontal_flip=True, seed=4)
    streams = []
    for batch_size in (7, 50):
        batches = list(TrainFeed(data, augmentation, batch_size, CPU).epoch(2))
        streams.append(torch.cat([batch.images for batch in batches]))
    assert torch.equal(*streams)
    other = torch.cat([b.images for b in TrainFeed(data, augmentation, 50, CPU).epoch(3)])
    assert not torch.equal(streams[0], other)


def test_a_batch_larger_than_the_data_is_refused(data: DataSet) -> None:
    with pytest.raises(InputError, match="batch_size is 51, but there are 50 training images"):
        TrainFeed(data, Augmentation(), 51, CPU)


def test_a_border_that_cannot_be_reflected_is_refused(data: DataSet) -> None:
    with pytest.raises(
        InputError, match="augmentation.crop_padding is 8, which cannot be reflected"
    ):
        TrainFeed(data, Augmentation(crop_padding=8, pad_mode="reflect"), 10, CPU)


def test_arrays_that_do_not_fit_the_manifest_are_refused(data: DataSet) -> None:
    np.save(data.folder / "val_labels.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(
        InputError, match="val has 10 images and 3 labels where the manifest says 10"
    ):
        data.split("val")
    (data.folder / "val_labels.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"val_labels.npy: missing or damaged"):
        data.split("val")
