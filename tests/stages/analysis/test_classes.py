from pathlib import Path

import numpy as np
import pytest

from models.errors import InputError
from stages.analysis.classes import OneClass, by_class, compare_runs, read_baseline, write_classes
from stages.data.arrays import Images
from stages.files import read_csv

pytestmark = pytest.mark.usefixtures("here")
NAMES = ["cat", 'a, "b"', "none"]
HEAD = "class,images,images_digest,student_right"


def seen(seed: int, digest: str = "0") -> list[OneClass]:
    random = np.random.default_rng(seed)
    answers = [random.uniform(size=count) < 0.6 for count in (13, 24, 0)]
    return [OneClass(name, digest, right) for name, right in zip(NAMES, answers, strict=True)]


def test_written_classes_can_be_read_by_another_run():
    ours = seen(0)
    write_classes(ours, {"accuracy/student": [0.5, 1 / 3, None]}, None)
    for one, found in zip(ours, read_baseline(Path("reports/classes.csv"), NAMES), strict=True):
        assert (one.name, one.digest) == (found.name, found.digest)
        np.testing.assert_array_equal(one.right, found.right)
    rows = read_csv(Path("reports/classes.csv"))
    assert [row["accuracy/student"] for row in rows] == ["0.5", "0.333333", ""]
    assert [row["images"] for row in rows] == ["13", "24", "0"]


def test_runs_on_the_same_images_are_paired():
    ours, theirs = seen(0), seen(1)
    paired = compare_runs(ours, theirs)
    expected = [ours[k].right.mean() - theirs[k].right.mean() for k in range(2)]
    assert paired.paired
    assert paired.mean.gain == pytest.approx(np.mean(expected))
    assert [g and g.gain for g in paired.classes] == [*map(pytest.approx, expected), None]
    other = compare_runs(ours, seen(1, digest="1"))
    assert not other.paired
    # A file with gains can itself be a baseline.
    write_classes(ours, {}, paired)
    rows = read_csv(Path("reports/classes.csv"))
    assert float(rows[0]["gain"]) == pytest.approx(expected[0], abs=1e-6)
    assert rows[2]["gain_low"] == ""
    read_baseline(Path("reports/classes.csv"), NAMES)
    assert other.mean.gain == paired.mean.gain


def test_runs_without_a_common_class_are_refused():
    empty = [OneClass(name, "0", np.zeros(0, bool)) for name in NAMES]
    with pytest.raises(InputError, match="no class has test images in both runs"):
        compare_runs(seen(0), empty)


def test_a_digest_covers_only_the_images_of_its_class():
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 2, 3), dtype=np.uint8)
    labels, right = np.array([0, 1, 0, 1, 0, 1]), np.array([1, 0, 1, 1, 0, 1], bool)
    first = by_class(Images(images, labels), ["a", "b"], right)
    assert [one.right.tolist() for one in first] == [[True, True, False], [False, True, True]]
    images[3] += 1
    other = by_class(Images(images, labels), ["a", "b"], right)
    assert first[0].digest == other[0].digest
    assert first[1].digest != other[1].digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks the columns class, images, images_digest, student_right"),
        (f"{HEAD}\ncat,9,0,ff\n", "one bit per image"),
        (f"{HEAD}\ncat,8\n", "one bit per image"),
        (f"{HEAD}\ndog,1,0,80\n", r"has 1 classes \(dog\), expected"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(content, message):
    Path("other.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_baseline(Path("other.csv"), ["cat"])
