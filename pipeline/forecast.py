"""How long the trainings of a run will take: by some steps of each, on this machine."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

import models
from models import distillers
from models.networks.backbone import Backbone
from stages.data.arrays import DataSet
from stages.data.feed.base import FeedPlan
from stages.data.feed.memory import MemoryFeed
from stages.data.sources.schemes import open_source
from stages.data.splits import choose_splits
from stages.files import read_json
from stages.formatting import duration
from stages.params import Params
from stages.prepare_data import REPORT
from stages.schedule import compressed
from stages.sections.training import Teacher, Training
from stages.training.engine import Engine, start_engine
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.loop import Trainer
from stages.training.run import setting_of

_STEPS = 3  # after one that does not count


class _Training(NamedTuple):
    """A training that will run.

    Attributes:
        what: the name that its progress will be shown under.
        network: that is trained.
        settings: its own.
        method: by which it learns.
        options: of the method.
        teacher: the network that teaches it.
        unlabeled: images of a batch that have no label.
    """

    what: str
    network: str
    settings: Training
    method: str = "scratch"
    options: Mapping[str, Any] = MappingProxyType({})
    teacher: str | None = None
    unlabeled: int = 0


class _Images(NamedTuple):
    """What will be trained on: labeled images, their classes, height and width."""

    labeled: int
    classes: int
    size: int


def forecast(params: Params, stages: Collection[str]) -> Iterator[str]:
    """A line for each training of these stages, as soon as its steps are timed, and their sum.

    The networks are untrained and the images random, which changes no time. The teacher's outputs
    are computed, as in a first run. Validation and what follows a training are left out.

    Raises:
        InputError: the folder of images has the wrong layout.
    """
    trainings = list(_trainings(params, stages))
    images = _images(params, stages) if trainings else None
    if images is None:
        if trainings:
            yield "training: the images are not counted yet; ask again after prepare_data"
        return
    engine = start_engine(params.training.model_copy(update={"compile": False, "tracker": "none"}))
    total = 0.0
    for training in trainings:
        settings = training.settings
        with TemporaryDirectory(prefix="ackd-forecast-") as folder:
            rate = _images_per_second(training, params, images, engine, Path(folder))
        steps = max(1, images.labeled // (settings.batch_size - training.unlabeled))
        seen = images.labeled + steps * training.unlabeled
        total += settings.epochs * seen / rate
        yield (
            f"{training.what}: about {duration(settings.epochs * seen / rate)} for"
            f" {settings.epochs} epochs of {seen:,} images, at {rate:.3g} images/s"
        )
    yield (
        f"training: about {duration(total)} in all, estimated from {_STEPS} steps of each,"
        f" timed just now in {engine.precision}, without validation"
    )


def _trainings(params: Params, stages: Collection[str]) -> Iterator[_Training]:
    teacher, student = params.teacher, params.distill
    taught_by = teacher.network
    if teacher.train != "none" and "train_teacher" in stages:
        yield _Training("teacher", teacher.network, teacher)
    if params.proxy.method == "early_stopped" and "train_proxy" in stages:
        settings = compressed(teacher, params.proxy.early_stopped.epochs)
        yield _Training("early-stopped teacher", teacher.network, settings)
    if params.proxy.method == "assistants":
        between = params.proxy.assistants
        for name in between.networks or between.candidates:
            if "train_proxy" in stages:
                settings = teacher.model_copy(update={"image_size": None})
                options = between.options()
                yield _Training(f"assistant {name}", name, settings, "kd", options, taught_by)
            taught_by = name
    if "distill" in stages:
        method, options, unlabeled = student.method, student.options(), params.unlabeled_per_batch
        yield _Training(method, student.network, student, method, options, taught_by, unlabeled)


def _images(params: Params, stages: Collection[str]) -> _Images | None:
    """None where they cannot be counted without reading or downloading a data set."""
    data = params.data
    if "prepare_data" not in stages:
        report = read_json(REPORT)
        count = report["splits"]["train"]["count"]
        return _Images(count, len(report["classes"]), report["image_size"])
    if data.source.partition(":")[0] not in {"digits", "imagefolder"} or data.image_size is None:
        return None
    choice = choose_splits(open_source(data), data)
    return _Images(len(choice.splits["train"].labels), len(choice.classes), data.image_size)


def _images_per_second(
    training: _Training, params: Params, images: _Images, engine: Engine, folder: Path
) -> float:
    """Measured in an empty ``folder``."""
    settings, unlabeled = training.settings, training.unlabeled
    data = _noise(folder, images, settings.batch_size - unlabeled, unlabeled, params.data.resize)
    teacher = None
    if training.teacher is not None:
        # An assistant sees what the student sees.
        sees = params.teacher if training.teacher == params.teacher.network else None
        teacher = _build(training.teacher, images.classes, sees).to(engine.device)
    student = _build(training.network, images.classes, settings)
    if params.teacher.train == "head" and training.what == "teacher":
        student.freeze_trunk()
    setting = setting_of(data, settings, engine, teacher)
    distiller = distillers.build(training.method, student, setting, training.options)
    distiller = engine.place(distiller, images.size).train()
    plan = FeedPlan(
        data, params.augmentation, settings.batch_size, engine.device, unlabeled=unlabeled
    )
    feed = MemoryFeed(plan)
    frozen = FrozenTeacher(teacher, distiller, engine, None, feed.slots)
    trainer = Trainer("", distiller, frozen, feed, data.split("val"), settings, engine)
    start = 0.0
    for epoch in range(1 + _STEPS):  # of one step each
        for shard in feed.epoch(epoch):
            trainer.step(shard)["total"].item()  # a GPU has done it only then
        start = start or time.perf_counter()
    return _STEPS * settings.batch_size / (time.perf_counter() - start)


def _build(name: str, classes: int, settings: Training | None) -> Backbone:
    network = models.build(name, classes)
    network.input_size = settings.image_size if isinstance(settings, Teacher) else None
    return network


def _noise(folder: Path, images: _Images, batch: int, unlabeled: int, side: int | None) -> DataSet:
    """A batch of random images and two to validate, as ``prepare_data`` would leave them.

    Args:
        folder: where they are written.
        images: their size and classes.
        batch: labeled images.
        unlabeled: images.
        side: of training images, where that is larger.
    """
    random, stored = np.random.default_rng(0), side or images.size
    counts = (("train", batch, stored), ("val", 2, images.size), ("unlabeled", unlabeled, stored))
    for name, count, pixels in counts:
        noise = random.integers(0, 256, (count, pixels, pixels, 3), dtype=np.uint8)
        np.save(folder / f"{name}_images.npy", noise)
        np.save(folder / f"{name}_labels.npy", np.arange(count) % images.classes)
    manifest = {
        "classes": [str(number) for number in range(images.classes)],
        "image_size": images.size,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "splits": {name: {"count": count} for name, count, _ in counts},
    }
    return DataSet(folder, manifest)
