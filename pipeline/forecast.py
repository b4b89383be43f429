"""Estimates how long trainings will take by timing some steps of each on this machine."""

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import models
from models.networks.backbone import Backbone
from stages.data.feed.base import FeedPlan
from stages.data.feed.memory import MemoryFeed
from stages.data.noise import write_noise
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
from stages.training.run import build_distiller

_STEPS = 3  # after a warm-up step


class _Training(NamedTuple):
    what: str  # as shown with its progress
    network: str
    settings: Training
    method: str = "scratch"
    options: Mapping[str, Any] = MappingProxyType({})
    teacher: str | None = None
    unlabeled: int = 0  # images per batch


class _Images(NamedTuple):
    """The training set: number of labelled images and of classes, height and width in pixels."""

    labeled: int
    classes: int
    size: int


def forecast(params: Params, stages: Collection[str]) -> Iterator[str]:
    """Yield a line for each training of these stages once it is timed, and then their sum.

    Untrained networks and random images take the same time as real ones. The teacher's outputs are
    computed, as in a first run. Validation and everything after training are left out.

    Raises:
        InputError: the folder of images has the wrong layout.
    """
    trainings = list(_trainings(params, stages))
    if not trainings:
        return
    images = _images(params, stages)
    if images is None:
        yield "training: the number of images is unknown until prepare_data has run"
        return
    engine = start_engine(params.training.model_copy(update={"compile": False, "tracker": "none"}))
    total = 0.0
    for training in trainings:
        settings = training.settings
        with TemporaryDirectory(prefix="ackd-forecast-") as folder:
            rate = _images_per_second(training, params, images, engine, Path(folder))
        steps = max(1, images.labeled // (settings.batch_size - training.unlabeled))
        seen = images.labeled + steps * training.unlabeled
        seconds = settings.epochs * seen / rate
        total += seconds
        yield (
            f"{training.what}: about {duration(seconds)} for {settings.epochs} epochs of {seen:,}"
            f" images, at {rate:.3g} images/s"
        )
    yield (
        f"training: about {duration(total)} in total without validation, estimated from {_STEPS}"
        f" steps each in {engine.precision}"
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
                # Weights of the teacher's own file do not fit it, so all of it is trained.
                fits = name == teacher.network or teacher.weights == "pretrained"
                train = teacher.train if fits else "all"
                settings = teacher.model_copy(update={"image_size": None, "train": train})
                options = between.options()
                yield _Training(f"assistant {name}", name, settings, "kd", options, taught_by)
            taught_by = name
    if "distill" in stages:
        method, options, unlabeled = student.method, student.options(), params.unlabeled_per_batch
        yield _Training(method, student.network, student, method, options, taught_by, unlabeled)


def _images(params: Params, stages: Collection[str]) -> _Images | None:
    """Return the training set, or None if counting it means reading or downloading data."""
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
    """Measure a training's throughput, with its data in an empty ``folder``."""
    settings, unlabeled = training.settings, training.unlabeled
    size, stored = settings.batch_size, params.data.resize or images.size
    splits = {"train": (size - unlabeled, stored), "val": (2, images.size)}
    splits["unlabeled"] = (unlabeled, stored)
    data = write_noise(folder, splits, images.classes, images.size)
    teacher = None
    if training.teacher is not None:
        # Assistants see images of the student's size.
        sees = params.teacher if training.teacher == params.teacher.network else None
        teacher = _build(training.teacher, images.classes, sees).to(engine.device)
    student = _build(training.network, images.classes, settings)
    if isinstance(settings, Teacher) and settings.train == "head":
        student.freeze_trunk()
    method, options = training.method, training.options
    distiller = build_distiller(method, student, options, data, settings, engine, teacher).train()
    plan = FeedPlan(data, params.augmentation, size, engine.device, unlabeled=unlabeled)
    feed = MemoryFeed(plan)
    frozen = FrozenTeacher(teacher, distiller, engine, None, feed.slots)
    trainer = Trainer("", distiller, frozen, feed, data.split("val"), settings, engine)
    start = 0.0
    for epoch in range(1 + _STEPS):  # of one step each
        for shard in feed.epoch(epoch):
            trainer.step(shard)["total"].item()  # waits for the GPU
        start = start or time.perf_counter()
    return _STEPS * size / (time.perf_counter() - start)


def _build(name: str, classes: int, settings: Training | None) -> Backbone:
    network = models.build(name, classes)
    network.input_size = settings.image_size if isinstance(settings, Teacher) else None
    return network
