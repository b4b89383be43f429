import pytest

from models.errors import InputError
from stages.schedule import compressed
from stages.sections.methods import Distill
from stages.sections.training import Teacher


def test_fewer_epochs_keep_the_shape():
    teacher = Teacher(epochs=200, schedule="multi_step", milestones=[100, 150], learning_rate=0.1)
    assert compressed(teacher, 200) == teacher
    # From 32.5 and 48.75.
    changes = {"epochs": 65, "milestones": [32, 49]}
    assert compressed(teacher, 65) == teacher.model_copy(update=changes)
    assert compressed(teacher, 4).milestones == [2, 3]
    student = compressed(Distill(epochs=15), 1)
    assert (type(student), student.epochs, student.milestones) == (Distill, 1, [])
    with pytest.raises(InputError, match=r"teacher: 3 epochs are too few for the milestones \[100"):
        compressed(teacher, 3)
    with pytest.raises(InputError, match="15 epochs cannot be compressed into 16"):
        compressed(Distill(epochs=15), 16)
