"""The rules for choosing, carving, limiting and ordering splits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from stages.data.sources.base import Source, SourceSplit
from stages.data.splits import Choice, choose_splits
from stages.sections.data import Data


def source(names: Sequence[str] | None = None, **splits: list[int] | list[str]) -> Source:
    def open_split(name: str) -> SourceSplit:
        return SourceSplit(splits[name], lambda p: Image.new("L", (1, 1)), lambda p: f"{name}[{p}]")

    return Source(list(splits), open_split, names)


def positions(choice: Choice) -> dict[str, list[int]]:
    return {name: sorted(split.positions.tolist()) for name, split in choice.splits.items()}


def sizes(choice: Choice) -> tuple[int, ...]:
    """Return the sizes of training, validation and test."""
    return tuple(len(split.labels) for split in choice.splits.values())


def counts(choice: Choice) -> dict[str, list[int]]:
    """Return the number of images of each class, by split."""
    return {name: np.bincount(split.labels).tolist() for name, split in choice.splits.items()}


TEN = [0, 1] * 10


def test_splits_of_the_source_are_used_as_they_are():
    choice = choose_splits(source(train=TEN, val=[0, 1, 0], test=[1, 0]), Data())
    assert positions(choice) == {"train": list(range(20)), "val": [0, 1, 2], "test": [0, 1]}
    assert choice.classes == ["0", "1"]
    assert choice.notes == []


@pytest.mark.parametrize("name", ["validation", "valid", "val", "Dev", "eval"])
def test_a_validation_split_serves_as_the_test(name):
    choice = choose_splits(source(train=TEN, **{name: [1, 1, 0]}), Data(val_fraction=0.3))
    got = positions(choice)
    assert got["test"] == [0, 1, 2]
    assert len(got["val"]) == 6
    assert sorted(got["train"] + got["val"]) == list(range(20))
    assert any("serves as the test" in note for note in choice.notes)


def test_splits_are_known_in_any_case_and_form():
    choice = choose_splits(source(Training=TEN, VAL=[0], Testing=[1, 0], extra=[0, 1]), Data())
    assert sizes(choice) == (20, 1, 2)
    assert choice.notes == ["not used: extra"]


def test_nothing_is_carved_if_all_images_train():
    choice = choose_splits(source(train=TEN, test=[0, 1, 1]), Data(val_fraction=0))
    assert positions(choice) == {"train": list(range(20)), "val": [0, 1, 2], "test": [0, 1, 2]}
    assert choice.splits["val"].labels.tolist() == choice.splits["test"].labels.tolist()
    assert any("val uses the test images" in note for note in choice.notes)
    # A source's own validation split, as in CINIC-10, is used.
    choice = choose_splits(source(train=TEN, valid=[1], test=[0, 1]), Data(val_fraction=0))
    assert positions(choice) == {"train": list(range(20)), "val": [0], "test": [0, 1]}


def test_a_single_split_is_carved_twice_whatever_its_name():
    labels = ["b"] * 100 + ["a"] * 50
    choice = choose_splits(source(everything=labels), Data(val_fraction=0.25))
    # a fifth of each class, then a quarter of the rest
    assert counts(choice) == {"train": [30, 60], "val": [10, 20], "test": [10, 20]}
    together = [p for split in positions(choice).values() for p in split]
    assert sorted(together) == list(range(150))
    assert choice.classes == ["a", "b"]
    for split in choice.splits.values():
        assert [choice.classes[k] for k in split.labels] == [labels[p] for p in split.positions]


def test_five_images_a_class_are_enough():
    choice = choose_splits(source(all=[0, 1, 2] * 5), Data())
    assert counts(choice) == {"train": [3] * 3, "val": [1] * 3, "test": [1] * 3}
    with pytest.raises(InputError, match="class '0' has too few .*until it has three, or name"):
        choose_splits(source(all=[0, 1] * 2), Data())


def test_folds_test_each_image_once():
    labels = ["b"] * 11 + ["a"] * 5
    folds = [choose_splits(source(all=labels), Data(folds=5, fold=n)) for n in range(5)]
    tested = [p for choice in folds for p in positions(choice)["test"]]
    assert sorted(tested) == list(range(16))
    for choice in folds:
        a, b = counts(choice)["test"]
        assert (a, b) in {(1, 2), (1, 3)}
        assert counts(choice)["train"] == [4 - 1, 11 - b - 1]  # and one of each class validates
        assert sorted(p for split in positions(choice).values() for p in split) == list(range(16))
    assert "test is carved from 'all': part 4 of 5 of each class" in folds[4].notes
    # A validation split validates, and is not the test.
    choice = choose_splits(source(train=TEN, val=[0, 1]), Data(folds=10))
    assert sizes(choice) == (18, 2, 2)


def test_folds_that_cannot_be_made_are_refused():
    with pytest.raises(InputError, match="'a' has 5 images, fewer than data.folds, which is 6"):
        choose_splits(source(all=["b"] * 11 + ["a"] * 5), Data(folds=6))
    with pytest.raises(InputError, match="data.folds is 2, but there is a split 'testing' to test"):
        choose_splits(source(train=TEN, testing=[0, 1]), Data(folds=2))
    for given, problem in [
        ({"folds": 3, "fold": 3}, "fold is 3, expected 0 to 2"),
        ({"fold": 1}, "fold is 1, expected 0, because folds is null"),
        ({"folds": 3, "test_split": "a"}, "folds replaces test_split"),
    ]:
        with pytest.raises(ValueError, match=problem):
            Data.model_validate(given)


def test_named_splits_win():
    data = Data(train_split="b", val_split="test", test_split="a")
    choice = choose_splits(source(a=[0, 1], b=TEN, test=[1, 0, 1], train=[0]), data)
    assert sizes(choice) == (20, 3, 2)
    # One that is named for validation does not become the test.
    choice = choose_splits(source(train=TEN, val=[0, 1]), Data(val_split="val"))
    assert sizes(choice) == (16, 2, 4)


def test_the_draw_depends_only_on_the_seed_and_that_of_the_test_not_on_val_fraction():
    def drawn(**settings: Any) -> dict[str, list[int]]:
        return positions(choose_splits(source(all=[0, 1, 2] * 40), Data(**settings)))

    first, other = drawn(seed=3), drawn(seed=-4)
    assert first == drawn(seed=3)
    assert first["val"] != other["val"]
    assert first["test"] != other["test"]
    assert drawn(val_fraction=0.1)["test"] == drawn(val_fraction=0.5)["test"]


def test_train_per_class_is_nested_and_only_limits_training():
    labels = [0] * 40 + [1] * 5 + [2] * 40
    given = source(train=labels, test=[0, 1, 2])
    whole, ten, three = (choose_splits(given, Data(train_per_class=n)) for n in (None, 10, 3))
    assert counts(ten)["train"] == [10, 4, 10]  # one of five validates
    assert counts(three)["train"] == [3, 3, 3]
    trained = [set(positions(choice)["train"]) for choice in (three, ten, whole)]
    assert trained[0] < trained[1] < trained[2]
    assert positions(ten)["val"] == positions(whole)["val"]
    assert positions(ten)["test"] == positions(whole)["test"]


def test_any_prefix_is_balanced():
    labels = [0] * 5 + [1] * 3 + [2] * 5
    choice = choose_splits(source(train=TEN + [2] * 10, test=labels, val=[0, 1, 2]), Data())
    test = choice.splits["test"]
    assert test.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 2, 0, 2]
    assert test.positions.tolist() == [0, 5, 8, 1, 6, 9, 2, 7, 10, 3, 11, 4, 12]


def test_integers_sort_as_numbers_and_need_not_be_dense():
    choice = choose_splits(source(train=[10, 2, 10, 2], val=[2, 10], test=[10]), Data())
    assert choice.classes == ["2", "10"]
    assert choice.splits["test"].labels.tolist() == [1]


def test_declared_names_keep_their_numbers():
    names = ["cat", "dog", "fox"]
    choice = choose_splits(source(names, train=[2, 0, 2, 0], val=[0], test=[2]), Data())
    assert choice.classes == names
    assert choice.splits["test"].labels.tolist() == [2]
    assert "1 of 3 classes have no training image" in choice.notes
    with pytest.raises(InputError, match="test has images of 'dog', which training lacks"):
        choose_splits(source(names, train=[0, 2] * 5, test=[1, 0]), Data())


@pytest.mark.parametrize(
    ("splits", "data", "message"),
    [
        ({"train": TEN, "test": [0]}, Data(train_split="trian"), "train_split.*'trian'.*'train'"),
        ({"train": TEN, "test": [0]}, Data(val_split="zzz"), "val_split.*use one of train, test"),
        ({"train": TEN, "test": [0]}, Data(val_split="test", test_split="test"), "used twice"),
        ({"a": TEN, "b": [0]}, Data(), "no split is called train; name one of a, b"),
        ({"train": TEN, "Training": TEN}, Data(), "several splits are called train; name one"),
        ({"train": TEN, "test": []}, Data(), "split 'test' is empty"),
        ({"train": [], "test": [0]}, Data(), "split 'train' is empty"),
        ({"train": ["a"] * 9, "test": ["a"]}, Data(), "only one class"),
        ({"train": ["a", "b"] * 9, "val": ["a"], "test": ["c"]}, Data(), "test has images of 'c'"),
        ({"train": ["a", "b"] * 9, "val": ["d"], "test": ["a"]}, Data(), "val has images of 'd'"),
        ({"train": ["a", "a", "b"], "test": ["a"]}, Data(), "class 'b' has too few"),
    ],
)
def test_refusals(splits, data, message):
    with pytest.raises(InputError, match=message):
        choose_splits(source(**splits), data)
