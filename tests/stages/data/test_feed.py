"""Batches of training images."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import InputError
from stages.data.feed.base import FeedPlan
from stages.data.feed.memory import MemoryFeed
from stages.data.feed.normalize import Normalize
from stages.sections.data import Augmentation
from tests.splits import write_splits

CPU = torch.device("cpu")
TESTED = {name: np.zeros((4, 8, 8, 3), np.uint8) for name in ("val", "test")}


def test_normalisation(data):
    images = data.split("train").images[:4]
    out = Normalize(data.mean, data.std, CPU)(images)
    wanted = (images.astype(float) / 255 - data.mean) / data.std
    np.testing.assert_allclose(out.numpy(), wanted.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
    assert out.dtype == torch.float32


def test_an_epoch_sees_every_image_once_with_its_label(data):
    still = Augmentation(crop_padding=0, horizontal_flip=False)
    feed = MemoryFeed(FeedPlan(data, still, 16, CPU))
    shards = list(feed.epoch(3))
    assert all(shard.weight == 1 for shard in shards)
    batches = [shard.batch for shard in shards]
    assert [len(batch.labels) for batch in batches] == [16, 16, 16, 2]
    assert feed.steps == 4
    split = data.split("train")
    all_normalized = feed.normalize(split.images[:])
    found = []
    for batch in batches:
        for image, label in zip(batch.images, batch.labels, strict=True):
            (index,) = [i for i in range(50) if torch.equal(all_normalized[i], image)]
            assert split.labels[index] == label
            found.append(index)
    assert torch.cat([batch.indices for batch in batches]).tolist() == found
    assert sorted(found) == list(range(50))


def test_full_batches_drop_the_rest_of_an_epoch(data):
    feed = MemoryFeed(FeedPlan(data, Augmentation(), 16, CPU, full_batches=True))
    assert (feed.steps, feed.seen, len(feed)) == (3, 48, 50)
    assert [len(shard.batch.labels) for shard in feed.epoch(0)] == [16, 16, 16]
    # Another epoch leaves out other images.
    left = [
        set(range(50)) - {int(i) for shard in feed.epoch(e) for i in shard.batch.indices}
        for e in (0, 1)
    ]
    assert left[0] != left[1]
    with pytest.raises(InputError, match="batch_size is 16, which this method cannot divide"):
        MemoryFeed(FeedPlan(data, Augmentation(), 16, CPU, 0, 3, full_batches=True))


def test_the_batch_size_does_not_change_the_images(data):
    augmentation = Augmentation(crop_padding=2, horizontal_flip=True, seed=4)
    streams = []
    for batch_size in (7, 50):
        shards = MemoryFeed(FeedPlan(data, augmentation, batch_size, CPU)).epoch(2)
        streams.append(torch.cat([shard.batch.images for shard in shards]))
    assert torch.equal(*streams)
    other = torch.cat(
        [s.batch.images for s in MemoryFeed(FeedPlan(data, augmentation, 50, CPU)).epoch(3)]
    )
    assert not torch.equal(streams[0], other)


def test_an_epoch_resumes_where_it_stopped(data):
    feed = MemoryFeed(FeedPlan(data, Augmentation(crop_padding=2), 16, CPU))
    whole, rest = list(feed.epoch(1)), list(feed.epoch(1, start_step=2))
    assert len(rest) == 2
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.batch.images, b.batch.images)


@pytest.mark.parametrize("batch_size", [22, 49, 50])  # 50 images: 6, 1 or none are left
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("mixing", [0.0, 0.7])
def test_processes_share_each_batch(data, batch_size, processes, mixing):
    augmentation = Augmentation(
        crop_padding=2, horizontal_flip=True, mixup=mixing, cutmix=mixing, color_jitter=mixing
    )
    whole = list(MemoryFeed(FeedPlan(data, augmentation, batch_size, CPU)).epoch(0))
    parts = [
        list(MemoryFeed(FeedPlan(data, augmentation, batch_size, CPU, rank, processes)).epoch(0))
        for rank in range(processes)
    ]
    for step, shard in enumerate(whole):
        own = [part[step] for part in parts]
        images = {}
        for part in own:
            for index, image in zip(part.batch.indices.tolist(), part.batch.images, strict=True):
                assert index not in images
                images[index] = image
        assert set(images) == set(shard.batch.indices.tolist())
        for index, image in zip(shard.batch.indices.tolist(), shard.batch.images, strict=True):
            assert torch.equal(images[index], image)
        if mixing:
            targets = torch.cat([p.batch.targets for p in own])
            order = torch.cat([p.batch.indices for p in own]).argsort()
            assert torch.equal(targets[order], shard.batch.targets[shard.batch.indices.argsort()])
        # The weighted mean over processes equals the mean over the batch.
        mean = shard.batch.labels.double().mean()
        parts_mean = sum(p.weight * p.batch.labels.double().mean() for p in own) / processes
        assert torch.allclose(mean, torch.as_tensor(parts_mean))


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_no_process_ever_sees_a_single_image(data, processes):
    # BatchNorm on 1x1 maps cannot learn from one.
    for batch_size in range(2 * processes, 51):
        parts = [
            MemoryFeed(FeedPlan(data, Augmentation(), batch_size, CPU, rank, processes))
            for rank in range(processes)
        ]
        steps = list(zip(*(part.epoch(0) for part in parts), strict=True))
        assert min(len(shard.batch.labels) for step in steps for shard in step) >= 2
        sizes = [sum(len(shard.batch.labels) for shard in step) for step in steps]
        full, rest = divmod(50, batch_size)
        joined = [batch_size] * (full - 1) + [batch_size + rest]
        kept = [batch_size] * full + [rest] * (rest > 0)
        assert sizes == (joined if rest < 2 * processes else kept)
        assert len(sizes) == parts[0].steps


@pytest.mark.parametrize(
    ("settings", "size", "processes", "message"),
    [
        ({}, 7, 4, "batch_size is 7, expected at least two images for each of 4"),
        ({}, 51, 1, "batch_size is 51, but there are 50 training images"),
        (
            {"crop_padding": 8, "pad_mode": "reflect"},
            10,
            1,
            "augmentation.crop_padding is 8, too large to reflect",
        ),
    ],
)
def test_what_cannot_be_fed_is_refused(data, settings, size, processes, message):
    with pytest.raises(InputError, match=message):
        FeedPlan(data, Augmentation(**settings), size, CPU, 0, processes)


def test_smoothed_and_mixed_targets(data):
    feed = MemoryFeed(FeedPlan(data, Augmentation(), 50, CPU, label_smoothing=0.1))
    (shard,) = feed.epoch(0)
    wanted = 0.9 * torch.eye(5)[shard.batch.labels] + 0.1 / 5
    torch.testing.assert_close(shard.batch.targets, wanted)
    mixed = MemoryFeed(FeedPlan(data, Augmentation(mixup=1.0), 50, CPU))
    (plain,) = MemoryFeed(FeedPlan(data, Augmentation(), 50, CPU)).epoch(2)
    (shard,) = mixed.epoch(2)
    own, partner = torch.eye(5)[plain.batch.labels], torch.eye(5)[plain.batch.labels.flip(0)]
    row = int((own != partner).any(1).nonzero()[0])
    kept = float(shard.batch.targets[row] @ own[row])
    torch.testing.assert_close(shard.batch.targets, kept * own + (1 - kept) * partner)
    images = plain.batch.images
    torch.testing.assert_close(shard.batch.images, kept * images + (1 - kept) * images.flip(0))
    assert torch.equal(shard.batch.labels, plain.batch.labels)


def test_batches_identify_images_only_where_these_are_mixed(data):
    def identity(settings: Augmentation, size: int, processes: int = 1) -> dict[str, Any]:
        return MemoryFeed(FeedPlan(data, settings, size, CPU, 0, processes)).identity()

    assert identity(Augmentation(), 16) == identity(Augmentation(), 25)
    mixing = Augmentation(mixup=0.2)
    assert identity(mixing, 16) != identity(mixing, 25)
    # The two remaining images join another batch, with other partners.
    assert identity(mixing, 16) != identity(mixing, 16, processes=2)


@pytest.fixture
def uneven(tmp_path):
    """30, 8, 2 and 0 images of four classes."""
    made = write_splits(tmp_path, {"train": np.zeros((40, 8, 8, 3), np.uint8)} | TESTED, "abcd")
    np.save(tmp_path / "train_labels.npy", np.repeat([0, 1, 2], [30, 8, 2]))
    return made


def test_balanced_sampling_cycles_through_images_of_equally_frequent_classes(uneven):
    plan = FeedPlan(uneven, Augmentation(crop_padding=3), 8, CPU, sampling="balanced")
    feed = MemoryFeed(plan)
    epochs = [[shard.batch for shard in feed.epoch(epoch)] for epoch in range(3)]
    shown = torch.cat([batch.indices for epoch in epochs for batch in epoch])
    assert (feed.steps, feed.slots) == (5, 40)
    assert uneven.labels("train")[shown].tolist().count(2) == 3 * 13
    often = shown.bincount(minlength=40)
    for of_class in (often[:30], often[30:38], often[38:]):
        assert of_class.max() - of_class.min() <= 1
    for epoch in epochs:
        slots = torch.cat([batch.slots for batch in epoch])
        assert sorted(slots.tolist()) == list(range(40))
        labels = torch.cat([batch.labels for batch in epoch])
        assert labels.bincount().tolist() == [14, 13, 13]
    # Two processes see the same images as one.
    halves = [MemoryFeed(replace(plan, process=k, processes=2)) for k in (0, 1)]
    for batch, *parts in zip(epochs[2], *(half.epoch(2) for half in halves), strict=True):
        assert torch.equal(batch.indices[0::2], parts[0].batch.indices)
        assert torch.equal(batch.indices[1::2], parts[1].batch.indices)


def test_balanced_weights_give_classes_equal_influence(uneven):
    plan = FeedPlan(uneven, Augmentation(), 40, CPU, class_weights="balanced")
    ((batch, _),) = MemoryFeed(plan).epoch(0)
    assert batch.targets is not None
    for label in range(3):
        assert float(batch.targets[batch.labels == label].sum()) == pytest.approx(40 / 3)


def test_arrays_that_do_not_fit_the_manifest_are_refused(data):
    np.save(data.folder / "val_labels.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(
        InputError, match="val has 10 images and 3 labels, expected 10 by the manifest"
    ):
        data.split("val")
    (data.folder / "val_labels.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"val_labels.npy: missing or damaged"):
        data.split("val")
