"""Choose the training, validation and test images of a source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from models.errors import InputError
from stages.data.arrays import SPLITS, Split
from stages.data.sources.base import SPLIT_NAMES, Source, SourceSplit, split_called, unknown
from stages.sections.data import Data

TEST_FRACTION = 0.2  # fraction of each class to test on if the source has no test split

_Array: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ChosenSplit:
    """The images of one split, in the order in which they are written."""

    source: SourceSplit
    positions: _Array  # indices into the source's split, [N]
    labels: _Array  # their class numbers, [N]


@dataclass(frozen=True)
class Choice:
    classes: Sequence[str]
    splits: dict[Split, ChosenSplit]
    notes: list[str]  # decisions made automatically, one sentence each


def choose_splits(source: Source, data: Data) -> Choice:
    """Choose training, validation and test images; all draws depend only on ``data.seed``.

    A split that ``params.yaml`` names is used unchanged. Otherwise:

    - training is the split with a name for training (:data:`SPLIT_NAMES`), or the only split;
    - test is the test split, or else the validation split, or else carved from training;
    - validation is the validation split, unless used as the test, or else carved from training.

    Carving takes the same fraction of each class. With ``data.val_fraction`` 0, validation uses the
    test images instead. ``data.train_per_class`` limits the rest. With ``data.folds``, test is part
    ``data.fold`` of as many disjoint parts of the training images.

    The images of each split are interleaved by class, so the first n are as balanced as possible.

    Raises:
        InputError: a split is unknown, empty or used twice; training has fewer than two classes; a
            class is too small to carve from, or is validated or tested but not trained; there are
            ``data.folds`` and a test split.
    """
    names, notes = _assign(source.split_names, data)
    opened = {split: source.open_split(name) for split, name in names.items()}
    for split, name in names.items():
        if not opened[split].labels:
            raise InputError(
                f"{data.source}: split {name!r} is empty; name another in data.{split}_split"
            )
    notes += [*source.notes, *(note for part in opened.values() for note in part.notes)]
    classes, labels = _number(source, {split: part.labels for split, part in opened.items()}, data)
    missing = len(classes) - len(np.unique(labels["train"]))
    if missing:
        notes.append(f"{missing} of {len(classes)} classes have no training image")

    positions = {split: np.arange(len(values)) for split, values in labels.items()}

    def take(split: Split, origin: Split, chosen: _Array) -> None:
        opened[split], labels[split] = opened[origin], labels[origin]
        positions[split] = chosen

    # Test before validation, so that val_fraction does not change the test images.
    for split, fraction in (("test", TEST_FRACTION), ("val", data.val_fraction)):
        if split not in names and fraction == 0:
            take(split, "test", positions["test"])
            notes.append(f"{split} uses the test images; they decide nothing")
        elif split not in names:
            groups = _shuffled_classes(positions["train"], labels["train"], data, split)
            if split == "test" and data.folds:
                carved = _fold(groups, data.fold, data.folds, classes)
                part = f"part {data.fold} of {data.folds}"
            else:
                carved, part = _draw(groups, fraction, classes), f"{fraction:.0%}"
            positions["train"] = np.setdiff1d(positions["train"], carved, assume_unique=True)
            take(split, "train", carved)
            notes.append(f"{split} is carved from {names['train']!r}: {part} of each class")
    if data.train_per_class is not None:
        # A larger number extends a smaller draw.
        groups = _shuffled_classes(positions["train"], labels["train"], data, "train")
        positions["train"] = np.concatenate([g[: data.train_per_class] for _, g in groups])

    splits: dict[Split, ChosenSplit] = {}
    for split in SPLITS:
        order = _interleaved(positions[split], labels[split])
        splits[split] = ChosenSplit(opened[split], order, labels[split][order])
    return Choice(classes, splits, notes)


def _assign(available: Sequence[str], data: Data) -> tuple[dict[Split, str], list[str]]:
    """Map our splits to the source's; missing ones must be carved."""
    wanted: dict[Split, str | None] = {s: getattr(data, f"{s}_split") for s in SPLITS}
    names = {split: name for split, name in wanted.items() if name is not None}
    for split, name in names.items():
        if name not in available:
            raise unknown(f"data.{split}_split: the split", name, available)

    def free(split: Split) -> list[str]:
        return [
            name
            for known in SPLIT_NAMES[split]
            for name in available
            if name.lower() == known and name not in names.values()
        ]

    notes = []
    if "train" not in names:
        found = free("train") or (available if len(available) == 1 else [])
        if len(found) != 1:
            raise InputError(
                f"{data.source}: {'several splits are' if found else 'no split is'} called train;"
                f" name one of {', '.join(available)} in data.train_split"
            )
        names["train"] = found[0]
    if data.folds and (found := free("test")):
        raise InputError(
            f"{data.source}: data.folds is {data.folds}, but there is a split {found[0]!r} to test"
            " on; set data.folds to null, or move its images into the training folders"
        )
    if "test" not in names and not data.folds and (found := [*free("test"), *free("val")]):
        names["test"] = found[0]
        if split_called(found[0]) != "test":
            notes.append(f"there is no test split: {found[0]!r} serves as the test")
    if "val" not in names and (found := free("val")):
        names["val"] = found[0]
    if unused := [name for name in available if name not in names.values()]:
        notes.append(f"not used: {', '.join(unused)}")
    if len(set(names.values())) < len(names):
        uses = ", ".join(f"{split} {name!r}" for split, name in names.items())
        raise InputError(
            f"{data.source}: a split is used twice ({uses}); name different splits in data"
        )
    return names, notes


def _number(
    source: Source, labels: dict[Split, Sequence[Any]], data: Data
) -> tuple[Sequence[str], dict[Split, _Array]]:
    """Return class names, and labels as class numbers; every class must occur in training."""
    trained = sorted(set(labels["train"]))
    if len(trained) < 2:
        raise InputError(f"{data.source}: only one class in training; expected two or more")
    names = source.class_names
    number = {value: i for i, value in enumerate(trained if names is None else range(len(names)))}
    for split, values in labels.items():
        strange = sorted(set(values) - set(trained))
        if strange:
            classes = ", ".join(repr(str(v) if names is None else names[v]) for v in strange[:4])
            more = f" and {len(strange) - 4} more" if len(strange) > 4 else ""
            raise InputError(
                f"{data.source}: {split} has images of {classes}{more}, which training lacks; add"
                " training images or remove these"
            )
    numbers = {split: np.array([number[v] for v in values]) for split, values in labels.items()}
    return names or [str(value) for value in trained], numbers


def _shuffled_classes(
    positions: _Array, labels: _Array, data: Data, split: Split
) -> list[tuple[int, _Array]]:
    """Return each class's positions, shuffled for a split and independently of other classes."""
    seed = [data.seed % 2**64, SPLITS.index(split)]
    by_class = positions[np.argsort(labels[positions], kind="stable")]
    numbers, starts = np.unique(labels[by_class], return_index=True)
    groups = np.split(by_class, starts[1:])
    return [
        (int(number), np.random.default_rng([*seed, int(number)]).permutation(group))
        for number, group in zip(numbers, groups, strict=True)
    ]


def _fold(
    groups: list[tuple[int, _Array]], fold: int, folds: int, classes: Sequence[str]
) -> _Array:
    """Take part ``fold`` of each class; the sizes of its ``folds`` parts differ by at most one."""
    for number, group in groups:
        if len(group) < folds:
            raise InputError(
                f"class {classes[number]!r} has {len(group)} images, fewer than data.folds, which"
                f" is {folds}; lower it or add images"
            )
    return np.sort(np.concatenate([group[fold::folds] for _, group in groups]))


def _draw(groups: list[tuple[int, _Array]], fraction: float, classes: Sequence[str]) -> _Array:
    """Draw a fraction of each class: at least one image, but not all."""
    drawn = []
    for number, group in groups:
        if len(group) < 2:
            raise InputError(
                f"class {classes[number]!r} has too few training images to carve a split from;"
                " add images until it has three, or name splits to validate and test on"
            )
        drawn.append(group[: min(max(1, round(fraction * len(group))), len(group) - 1)])
    return np.sort(np.concatenate(drawn))


def _interleaved(positions: _Array, labels: _Array) -> _Array:
    """Order positions in rounds of one image per class, in the order of the source."""
    by_class = np.sort(positions)
    by_class = by_class[np.argsort(labels[by_class], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rounds = np.arange(len(by_class)) - np.repeat(starts, counts)
    return by_class[np.lexsort((labels[by_class], rounds))]
