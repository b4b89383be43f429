"""Our own training, as run by the stage ``distill``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.networks import load_pair
from benchmarks.worker import Clock, Task
from models.networks.backbone import Backbone
from stages.data.arrays import DataSet, load_data
from stages.data.feed.base import FeedPlan, Shard
from stages.data.feed.memory import MemoryFeed
from stages.sections.data import Augmentation
from stages.sections.methods import Ackd, Distill
from stages.sections.training import EngineSettings, Training
from stages.training.engine import start_engine
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.logits_store import LogitsStore
from stages.training.loop import Trainer
from stages.training.run import build_distiller

#: The augmentation of the peers' CIFAR-100 data sets.
_AUGMENTATION = Augmentation(crop_padding=4, horizontal_flip=True)


class PacedFeed(MemoryFeed):
    """A feed that repeats the first epoch until the clock ends the measurement."""

    clock: Clock

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Shard]:
        again = (super(PacedFeed, self).epoch(epoch, start_step) for _ in itertools.count())
        shards = itertools.chain.from_iterable(again)
        return self.clock.pace(shards, lambda shard: len(shard.batch.labels))


def train(task: Task, clock: Clock) -> None:
    """Train at the clock's pace.

    ``task.options`` has ``method``, ``store`` (whether to use a warm logits store), ``compile``,
    and optionally ``precision`` and ``ackd`` (the options of that method).
    """
    data, options = load_data(Path(task.data)), task.options
    precision = options.get("precision", "auto")
    engine = start_engine(EngineSettings(compile=options["compile"], precision=precision))
    teacher, student = load_pair(task)
    teacher.to(engine.device)
    settings = Training(epochs=200, batch_size=task.batch_size, learning_rate=0.05)
    method = Distill(method=options["method"], ackd=Ackd(**options.get("ackd", {})))
    distiller = build_distiller(
        method.method, student, method.options(), data, settings, engine, teacher
    )
    # A smaller last batch would trigger another compilation.
    plan = FeedPlan(data, _AUGMENTATION, task.batch_size, engine.device, full_batches=True)
    feed = PacedFeed(plan)
    feed.clock = clock
    store = _warm_store(data, teacher) if options["store"] else None
    frozen = FrozenTeacher(teacher, distiller, engine, store, len(feed))
    Trainer("benchmark", distiller, frozen, feed, data.split("val"), settings, engine).train()


def _warm_store(data: DataSet, teacher: Backbone) -> LogitsStore:
    """Create a store of random logits in the current folder; their values do not affect speed."""
    samples, classes = data.count("train"), teacher.num_classes
    store = LogitsStore({}, samples, classes, root=Path("logits"), max_bytes=10**11)
    store.write(0, torch.randn(samples, classes).half())
    return store
