"""A schedule in fewer epochs keeps its shape, or is refused."""

import pytest

from models.errors import InputError
from stages.schedule import compressed
from stages.sections.methods import Distill
from stages.sections.training import Teacher


def test_milestones_keep_their_share() -> None:
    teacher = Teacher(epochs=200, schedule="multi_step", milestones=[100, 150], learning_rate=0.1)
    short = compressed(teacher, 65)
    assert (short.epochs, short.milestones) == (65, [32, 49])  # of 32.5 and 48.75
    assert short == teacher.model_copy(update={"epochs": 65, "milestones": [32, 49]})
    assert compressed(teacher, 200) == teacher


def test_a_cycle_is_as_long_as_its_epochs() -> None:
    student = compressed(Distill(epochs=15), 1)
    assert type(student) is Distill
    assert (student.epochs, student.schedule, student.milestones) == (1, "one_cycle", [])


@pytest.mark.parametrize(("epochs", "fits"), [(3, False), (4, True)])
def test_milestones_that_would_fall_together_are_refused(epochs: int, fits: bool) -> None:
    teacher = Teacher(epochs=200, schedule="multi_step", milestones=[100, 150])
    if fits:
        assert compressed(teacher, epochs).milestones == [2, 3]
        return
    with pytest.raises(InputError, match=r"3 epochs are too few for the milestones \[100, 150\]"):
        compressed(teacher, epochs)


def test_more_epochs_are_not_fewer() -> None:
    with pytest.raises(InputError, match="15 epochs cannot be compressed into 16"):
        compressed(Distill(epochs=15), 16)
