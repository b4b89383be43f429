from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import InputError
from stages.data.arrays import DataSet
from stages.data.feed.base import FeedPlan
from stages.data.feed.memory import MemoryFeed
from stages.data.feed.mixing import draw_mix
from stages.sections.data import Augmentation
from tests.splits import write_splits

CPU = torch.device("cpu")
TESTED = {name: np.zeros((4, 8, 8, 3), np.uint8) for name in ("val", "test")}


def feed_of(
    data: DataSet, augmentation: Augmentation, size: int, *process: int, **more: Any
) -> MemoryFeed:
    return MemoryFeed(FeedPlan(data, augmentation, size, CPU, *process, **more))


def images_of(feed: MemoryFeed, epoch: int) -> torch.Tensor:
    return torch.cat([shard.batch.images for shard in feed.epoch(epoch)])


def test_an_epoch_sees_every_image_once_with_its_label(data):
    feed = feed_of(data, Augmentation(crop_padding=0, horizontal_flip=False), 16)
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
    feed = feed_of(data, Augmentation(), 16, full_batches=True)
    assert (feed.steps, feed.seen, len(feed)) == (3, 48, 50)
    assert [len(shard.batch.labels) for shard in feed.epoch(0)] == [16, 16, 16]
    # Another epoch leaves out other images.
    first, second = (
        {int(i) for shard in feed.epoch(e) for i in shard.batch.indices} for e in (0, 1)
    )
    assert first != second


def test_the_batch_size_does_not_change_the_images(data):
    augmentation = Augmentation(crop_padding=2, horizontal_flip=True, seed=4)
    few, many = (feed_of(data, augmentation, size) for size in (7, 50))
    assert torch.equal(images_of(few, 2), images_of(many, 2))
    assert not torch.equal(images_of(many, 2), images_of(many, 3))


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_no_process_ever_sees_a_single_image(data, processes):
    # BatchNorm on 1x1 maps cannot learn from one.
    for batch_size in range(2 * processes, 51):
        parts = [feed_of(data, Augmentation(), batch_size, k, processes) for k in range(processes)]
        steps = list(zip(*(part.epoch(0) for part in parts), strict=True))
        assert min(len(shard.batch.labels) for step in steps for shard in step) >= 2
        sizes = [sum(len(shard.batch.labels) for shard in step) for step in steps]
        full, rest = divmod(50, batch_size)
        joined = [batch_size] * (full - 1) + [batch_size + rest]
        kept = [batch_size] * full + [rest] * (rest > 0)
        assert sizes == (joined if rest < 2 * processes else kept)
        assert len(sizes) == parts[0].steps


def test_smoothed_and_mixed_targets(data):
    (shard,) = feed_of(data, Augmentation(), 50, label_smoothing=0.1).epoch(0)
    wanted = 0.9 * torch.eye(5)[shard.batch.labels] + 0.1 / 5
    torch.testing.assert_close(shard.batch.targets, wanted)
    (plain,) = feed_of(data, Augmentation(), 50).epoch(2)
    (shard,) = feed_of(data, Augmentation(mixup=1.0), 50).epoch(2)
    own, partner = torch.eye(5)[plain.batch.labels], torch.eye(5)[plain.batch.labels.flip(0)]
    row = int((own != partner).any(1).nonzero()[0])
    kept = float(shard.batch.targets[row] @ own[row])
    torch.testing.assert_close(shard.batch.targets, kept * own + (1 - kept) * partner)
    images = plain.batch.images
    torch.testing.assert_close(shard.batch.images, kept * images + (1 - kept) * images.flip(0))
    assert torch.equal(shard.batch.labels, plain.batch.labels)


def test_batches_identify_images_only_where_these_are_mixed(data):
    def identity(mixup: float, size: int, processes: int = 1) -> dict[str, Any]:
        return feed_of(data, Augmentation(mixup=mixup), size, 0, processes).identity()

    assert identity(0.0, 16) == identity(0.0, 25)
    assert identity(0.2, 16) != identity(0.2, 25)
    # The two remaining images join another batch, with other partners.
    assert identity(0.2, 16) != identity(0.2, 16, processes=2)


def test_another_image_size_makes_other_images(data):
    smaller = replace(data, manifest=data.manifest | {"image_size": data.image_size - 1})
    feeds = [feed_of(data_, Augmentation(), 16) for data_ in (data, smaller)]
    assert feeds[0].identity() != feeds[1].identity()


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
    ((batch, _),) = feed_of(uneven, Augmentation(), 40, class_weights="balanced").epoch(0)
    for label in range(3):
        assert float(batch.targets[batch.labels == label].sum()) == pytest.approx(40 / 3)


def test_the_class_of_a_mixed_image_is_that_of_its_larger_part_not_of_its_heavier_target(uneven):
    feed = feed_of(uneven, Augmentation(mixup=1.0), 40, class_weights="balanced")
    mixed = [shard.batch for epoch in range(8) for shard in feed.epoch(epoch)]
    kept = [draw_mix(Augmentation(mixup=1.0), epoch, 0, 8).kept for epoch in range(8)]
    assert min(kept) < 0.5 < max(kept)
    for batch, share in zip(mixed, kept, strict=True):
        wanted = batch.labels if share > 0.5 else batch.labels.flip(0)
        assert torch.equal(batch.mixed_classes, wanted)
    assert any(not torch.equal(b.mixed_classes, b.targets.argmax(1)) for b in mixed)


def test_arrays_that_do_not_fit_the_manifest_are_refused(data):
    np.save(data.folder / "val_labels.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(InputError, match="val has 10 images and 3 labels, expected 10 by the man"):
        data.split("val")
    (data.folder / "val_labels.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"val_labels.npy: missing or damaged"):
        data.split("val")
