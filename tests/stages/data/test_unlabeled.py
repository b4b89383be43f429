import numpy as np
import pytest
import torch

from models.distillers.losses import cross_entropy
from models.errors import InputError
from stages.data.arrays import DataSet
from stages.data.feed.base import FeedPlan
from stages.data.feed.memory import MemoryFeed
from stages.data.feed.stream import StreamFeed
from stages.sections.data import Augmentation

CPU = torch.device("cpu")
STILL = Augmentation(crop_padding=0)


@pytest.fixture
def more(data):
    """50 labelled and 21 unlabelled images."""
    images = np.random.default_rng(1).integers(0, 256, (21, 8, 8, 3), np.uint8)
    np.save(data.folder / "unlabeled_images.npy", images)
    return data


def plan(
    data: DataSet, settings: Augmentation, *process: int, size: int = 16, unlabeled: int = 6
) -> FeedPlan:
    return FeedPlan(data, settings, size, CPU, *process, unlabeled=unlabeled)


def test_batches_have_a_share_of_unlabelled_images(more):
    feed = MemoryFeed(plan(more, STILL))
    assert (len(feed), feed.steps, feed.slots, feed.seen) == (50, 5, 80, 80)
    labeled = feed.normalize(more.split("train").images[:])
    unlabeled = feed.normalize(more.images("unlabeled")[:])
    every, shown = torch.cat([labeled, unlabeled]), []
    for epoch in range(2):
        slots = []
        for shard in feed.epoch(epoch):
            batch = shard.batch
            assert batch.labels[:10].tolist() == more.labels("train")[batch.indices[:10]].tolist()
            assert batch.labels[10:].tolist() == [-1] * 6
            assert torch.equal(batch.images, every[batch.indices])
            shown += batch.indices[10:].tolist()
            slots += batch.slots.tolist()
        assert sorted(slots) == list(range(80))
    # 60 in total: each of the 21 twice before any comes a third time.
    counts = np.bincount(np.array(shown) - 50, minlength=21)
    assert set(counts[:21]) == {2, 3}
    assert len(set(shown[:21])) == 21


def test_cross_entropy_averages_labelled_images(more):
    for shard in MemoryFeed(plan(more, STILL)).epoch(0):
        logits = torch.randn(16, 5)
        wanted = torch.nn.functional.cross_entropy(logits[:10], shard.batch.labels[:10])
        torch.testing.assert_close(cross_entropy(logits, shard.batch), wanted)


@pytest.mark.parametrize("mixing", [0.0, 0.7])
def test_workers_and_resumption_see_the_same(more, mixing):
    settings = Augmentation(crop_padding=2, mixup=mixing, cutmix=mixing, color_jitter=mixing)
    whole = list(MemoryFeed(plan(more, settings)).epoch(1))
    streamed = StreamFeed(plan(more, settings), 1).epoch(1, 2)
    for shard, other in zip(whole[2:], streamed, strict=True):
        for own, again in zip(shard.batch, other.batch, strict=True):
            assert torch.equal(own, again) if mixing or own is not None else again is None


# Without unlabelled images, 6, 1 or none of the 50 are left at the end.
@pytest.mark.parametrize(("size", "unlabeled"), [(16, 6), (22, 0), (49, 0), (50, 0)])
@pytest.mark.parametrize("mixing", [0.0, 0.7])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch(more, size, unlabeled, mixing, processes):
    settings = Augmentation(crop_padding=2, mixup=mixing, cutmix=mixing, color_jitter=mixing)
    ranks = [(), *((rank, processes) for rank in range(processes))]
    plans = [plan(more, settings, *rank, size=size, unlabeled=unlabeled) for rank in ranks]
    for shard, *parts in zip(*(MemoryFeed(each).epoch(1) for each in plans), strict=True):
        sizes = [len(part.batch.slots) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        order = torch.cat([part.batch.slots for part in parts]).argsort()
        for name in ("images", "labels", "indices", *(("mixed_classes",) if mixing else ())):
            joined = torch.cat([getattr(part.batch, name) for part in parts])[order]
            wanted = getattr(shard.batch, name)[shard.batch.slots.argsort()]
            assert torch.equal(joined, wanted), name
        logits = torch.randn(80, 5)
        losses = [p.weight * cross_entropy(logits[p.batch.slots], p.batch) for p in parts]
        wanted = cross_entropy(logits[shard.batch.slots], shard.batch)
        torch.testing.assert_close(sum(losses) / processes, wanted)


def test_mixed_images_have_partners_of_their_kind(more):
    settings = Augmentation(crop_padding=0, mixup=1.0)
    for shard in MemoryFeed(plan(more, settings)).epoch(0):
        mass = shard.batch.targets.sum(1)
        torch.testing.assert_close(mass[:10], torch.full((10,), 1.6))
        assert mass[10:].tolist() == [0] * 6


def test_missing_images_are_refused(more):
    (more.folder / "unlabeled_images.npy").unlink()
    with pytest.raises(InputError, match="unlabeled_images.npy: missing or damaged"):
        MemoryFeed(plan(more, STILL))
