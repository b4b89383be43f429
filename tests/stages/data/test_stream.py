"""Training images that are streamed during training."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import torch

from models.errors import InputError
from stages.data.feed.base import FeedPlan, Shard
from stages.data.feed.memory import MemoryFeed
from stages.data.feed.stream import StreamFeed
from stages.sections.data import Augmentation
from tests.processes import assert_gone, children, linux

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]
SETTINGS = Augmentation(crop_padding=2, horizontal_flip=True, seed=4)
ONE_CORE = "ignore:This DataLoader will create"  # warning if a machine has fewer cores than workers
pytestmark = pytest.mark.filterwarnings(ONE_CORE)


def assert_same(found: Iterator[Shard], wanted: Iterator[Shard]) -> None:
    steps = 0
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.batch.images, b.batch.images)
        assert torch.equal(a.batch.labels, b.batch.labels)
        assert torch.equal(a.batch.indices, b.batch.indices)
        assert a.weight == b.weight
        steps += 1
    assert steps


@pytest.mark.parametrize(
    ("workers", "mode", "size", "process", "processes"),
    [
        (0, "zero", 16, 0, 1),
        (1, "reflect", 16, 0, 1),
        # The last batch has 8 images, because a single image would remain.
        (2, "zero", 7, 0, 2),
        (2, "zero", 7, 1, 2),
    ],
)
def test_the_batches_are_those_of_the_memory_feed(data, workers, mode, size, process, processes):
    settings = SETTINGS.model_copy(update={"pad_mode": mode})
    plan = FeedPlan(data, settings, size, CPU, process, processes)
    stream, memory = StreamFeed(plan, workers), MemoryFeed(plan)
    assert (len(stream), stream.steps) == (len(memory), memory.steps)
    for epoch, start in ((0, 0), (3, 2)):
        assert_same(stream.epoch(epoch, start), memory.epoch(epoch, start))
    assert list(stream.epoch(2, stream.steps)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_random_state_is_kept(data, workers):
    # Otherwise random numbers of methods would depend on the feed.
    before = torch.get_rng_state()
    list(StreamFeed(FeedPlan(data, SETTINGS, 16, CPU), workers=workers).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@linux
def test_workers_end_with_a_finished_or_abandoned_epoch(data):
    feed = StreamFeed(FeedPlan(data, SETTINGS, 16, CPU), workers=2)
    own = set(children())
    epoch = feed.epoch(0)
    next(epoch)
    assert len(set(children()) - own) == 2
    epoch.close()
    assert set(children()) == own
    list(feed.epoch(0))
    assert set(children()) == own


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_is_one_sentence(data, workers):
    feed = StreamFeed(FeedPlan(data, SETTINGS, 16, CPU), workers=workers)
    path = data.folder / "train_images.npy"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match=r"train_images.npy: missing or damaged") as caught:
        list(feed.epoch(0))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"train_images.npy: missing or damaged"):
        StreamFeed(FeedPlan(data, SETTINGS, 16, CPU))


PROGRAM = """
import sys, time
from pathlib import Path
import torch
from stages.data.arrays import load_data
from stages.data.feed.base import FeedPlan
from stages.data.feed.stream import StreamFeed
from stages.entry import run_stage
from stages.params import Augmentation

def main(params):
    data = load_data(Path(sys.argv[1]))
    feed = StreamFeed(FeedPlan(data, Augmentation(), 8, torch.device("cpu")), workers=2)
    for step, shard in enumerate(feed.epoch(0)):
        if step == 1:
            print("at work", flush=True)
            time.sleep(60)

run_stage(main)
"""


def start(folder: Path) -> tuple[Popen[str], list[int]]:
    """Start a training; return it with its workers once it is running."""
    command = [sys.executable, "-c", PROGRAM, folder]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ONE_CORE}
    process = Popen(command, stdout=PIPE, stderr=PIPE, text=True, cwd=ROOT, env=env)
    assert process.stdout.readline() == "at work\n"
    workers = children(process.pid)
    assert len(workers) == 2
    return process, workers


@linux
def test_no_worker_outlives_a_killed_training(data):
    process, workers = start(data.folder)
    process.kill()
    process.communicate()
    assert_gone(*workers)


@linux
def test_a_lost_worker_ends_the_training_with_one_sentence(data):
    process, workers = start(data.folder)
    os.kill(workers[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(f"error: DataLoader worker (pid {workers[1]}) is killed by signal")
    assert "ACKD_WORKERS=0" in errors
    assert errors.count("\n") == 1
    assert_gone(*workers)
