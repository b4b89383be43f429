"""Inputs of ``benchmarks.gpu`` (random images and weights), and rows of its tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.networks import draw_pair
from benchmarks.results import Json
from benchmarks.worker import Task
from models.errors import InputError
from stages.data.arrays import load_data
from stages.data.noise import write_noise


@dataclass(frozen=True)
class Pair:
    """Teacher and student, with the size and number of their random images."""

    teacher: str
    student: str
    image_size: int
    images: int
    learners: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Extent of the measurement."""

    work: str
    pairs: Mapping[str, Pair]
    """Pairs by name; the first one's student is small enough to leave a GPU idle."""
    repdistiller: str | None = None  # checkout
    batch_size: int = 128  # of every training
    seconds: float = 1.5  # per row, after a warm-up
    precisions: tuple[str, ...] = ("fp32", "bf16")
    """Precisions to measure; parts with a single precision use the last one."""
    compiled: tuple[bool, ...] = (False, True)
    """Whether to measure without compilation, with it, or both."""
    students: tuple[int, ...] = (2, 4, 8)  # numbers of students to train at once
    start: str = "spawn"  # method of multiprocessing

    @property
    def first(self) -> str:
        return next(iter(self.pairs))

    def task(self, name: str) -> Task:
        """Return a task for a pair, creating its images and weights if they are missing."""
        pair, folder = self.pairs[name], Path(self.work, name)
        data, classes = folder / "data", 100
        if not (folder / "student.pt").exists():
            data.mkdir(parents=True, exist_ok=True)
            size, few = pair.image_size, min(pair.images, 256)
            splits = {"train": (pair.images, size), "val": (few, size), "test": (few, size)}
            write_noise(data, splits, classes, size)
            draw_pair(pair.teacher, pair.student, load_data(data), folder)
        options = {"ackd": {"learners": list(pair.learners)}}
        shared = (str(data), str(folder), classes, self.batch_size, self.seconds)
        return Task("", pair.teacher, pair.student, *shared, options)


def attempt(titles: Json, measure: Callable[..., Json], *arguments: Any, **options: Any) -> Json:
    """Return a row of measurements, or one with the reason if measuring failed."""
    try:
        return titles | measure(*arguments, **options)
    except Exception as error:  # anything can fail on an unknown machine
        return titles | {"reason": reason(error)}


def reason(error: BaseException) -> str:
    """Format an error as a table cell."""
    text = " ".join(str(error).replace("|", "/").split())[:300]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
