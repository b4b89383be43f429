"""The stage as a user runs it: its files, their truth, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from models.errors import InputError
from stages import prepare_data
from stages.data.arrays import load_data
from stages.params import Params
from stages.sections.data import Data
from tests.disk import small_disk
from tests.forked import run_stage
from tests.stages.conftest import exit_of

REPO = Path(__file__).parents[2]
REAL = Path(os.environ.get("ACKD_TEST_DATA", REPO.parent / "shared" / "data"))
needs_real_images = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"the real images are not at {REAL}"
)
DIGITS = load_digits()
ARRAYS = [
    f"{split}_{kind}.npy" for split in ("train", "val", "test") for kind in ("images", "labels")
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project to run in, with a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def prepare(**data: Any) -> dict[str, Any]:
    prepare_data.main(Params(data=Data(**data)))
    return dict(json.loads(Path("artifacts/data/manifest.json").read_text()))


def write_params(folder: Path, **data: Any) -> None:
    (folder / "params.yaml").write_text(json.dumps({"data": data}))


def sums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("artifacts", "reports")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


def digit(position: int) -> Image.Image:
    return Image.fromarray((DIGITS.images[position] * 15).astype(np.uint8))


def write_folder(folder: Path, classes: str = "ab", count: int = 6, first: int = 0) -> Path:
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            digit(first + k * count + i).save(folder / name / f"{i}.jpg", quality=100)
    return folder


# what it writes


def test_manifest_says_what_the_arrays_hold(project: Path) -> None:
    manifest = prepare()
    data = load_data()
    pixels = {
        name: np.load(f"artifacts/data/{name}_images.npy") for name in ("train", "val", "test")
    }
    assert sum(len(images) for images in pixels.values()) == 1797
    assert manifest["source"] == "digits"
    assert manifest["image_size"] == 32
    for name, images in pixels.items():
        part = manifest["splits"][name]
        labels = np.load(f"artifacts/data/{name}_labels.npy")
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert images.shape == (part["count"], 32, 32, 3)
        assert part["per_class"] == [int((labels == k).sum()) for k in range(10)]
        for kind in ("images", "labels"):
            content = Path(f"artifacts/data/{name}_{kind}.npy").read_bytes()
            assert part[f"{kind}_sha256"] == hashlib.sha256(content).hexdigest()
        assert len(data.split(name)) == part["count"]  # type: ignore[arg-type]
    scaled = pixels["train"].astype(np.float64) / 255
    np.testing.assert_allclose(manifest["mean"], scaled.mean(axis=(0, 1, 2)), rtol=1e-10)
    np.testing.assert_allclose(manifest["std"], scaled.std(axis=(0, 1, 2)), rtol=1e-10)


def test_report_is_the_manifest_without_the_sums(project: Path) -> None:
    manifest = prepare(train_per_class=3, image_size=None)
    for part in manifest["splits"].values():
        del part["images_sha256"], part["labels_sha256"]
    report = json.loads(Path("reports/data.json").read_text())
    assert report == manifest | {
        "notes": ["val is carved from 'train': 10% of each class"],
        "damaged": [],
    }


def test_a_margin_is_kept_for_training_alone(project: Path) -> None:
    manifest = prepare(resize=40)
    assert manifest["image_size"] == 32
    train, test = (np.load(f"artifacts/data/{name}_images.npy") for name in ("train", "test"))
    assert train.shape[1:] == (40, 40, 3)
    assert test.shape[1:] == (32, 32, 3)
    data = load_data()
    middle = np.asarray(data.images("train")[:5])
    np.testing.assert_array_equal(middle, train[:5, 4:36, 4:36])
    # The shorter side is brought to 40 pixels for all of them alike.
    whole = prepare(image_size=40)
    assert whole["splits"]["train"]["images_sha256"] == manifest["splits"]["train"]["images_sha256"]
    larger = np.load("artifacts/data/test_images.npy")
    np.testing.assert_array_equal(test, larger[:, 4:36, 4:36])


def test_repeated_images_are_found_under_a_margin(project: Path) -> None:
    write_folder(project / "images/train")
    write_folder(project / "images/test", count=3)
    # The first six digits, which are class a of training.
    manifest = prepare(source="imagefolder:images", image_size=8, resize=10, val_fraction=0)
    assert manifest["test_images_also_in_train"] == 6


def test_all_of_training_trains_and_the_test_validates(project: Path) -> None:
    manifest = prepare(val_fraction=0)
    splits = manifest["splits"]
    assert splits["train"]["count"] + splits["test"]["count"] == 1797
    assert splits["val"] == splits["test"]


def test_own_size_leaves_pixels_as_they_are(project: Path) -> None:
    assert prepare(image_size=None)["image_size"] == 8
    written = np.concatenate(
        [np.load(f"artifacts/data/{name}_images.npy") for name in ("train", "val", "test")]
    )
    labels = np.concatenate(
        [np.load(f"artifacts/data/{name}_labels.npy") for name in ("train", "val", "test")]
    )
    levels = np.floor(DIGITS.images * 255 / 16 + 0.5).astype(np.uint8)
    assert (written == written[..., :1]).all()
    got = sorted(
        (image.tobytes(), int(k)) for image, k in zip(written[..., 0], labels, strict=True)
    )
    assert got == sorted(
        (image.tobytes(), int(k)) for image, k in zip(levels, DIGITS.target, strict=True)
    )


def test_equal_bytes_when_repeated_in_another_process(project: Path, tmp_path: Path) -> None:
    prepare(train_per_class=20)
    other = tmp_path / "elsewhere"
    other.mkdir()
    write_params(other, source="digits", image_size=32, train_per_class=20)
    environment = os.environ | {"PYTHONPATH": str(REPO), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-m", "stages.prepare_data"]
    subprocess.run(command, cwd=other, env=environment, capture_output=True, check=True)
    assert sorted(sums(project)) == sorted(
        [f"artifacts/data/{name}" for name in [*ARRAYS, "manifest.json"]] + ["reports/data.json"]
    )
    assert sums(project) == sums(other)
    prepare(train_per_class=20, seed=1)
    assert sums(project) != sums(other)


def test_an_older_result_is_replaced(project: Path) -> None:
    prepare()
    Path("artifacts/data/stranger").touch()
    prepare(train_per_class=5)
    assert not Path("artifacts/data/stranger").exists()
    assert len(load_data().split("train")) == 50


def test_identical_pixels_across_splits_are_counted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project / "images"
    write_folder(root / "train")
    write_folder(root / "val", count=2, first=20)
    write_folder(root / "test", count=3, first=30)
    shutil.copy(root / "train" / "a" / "0.jpg", root / "test" / "a" / "copy.jpg")
    shutil.copy(root / "train" / "a" / "1.jpg", root / "test" / "b" / "other_label.jpg")
    shutil.copy(root / "train" / "b" / "1.jpg", root / "val" / "b" / "copy.jpg")
    manifest = prepare(source=f"imagefolder:{root}", image_size=16)
    assert manifest["test_images_also_in_train"] == 2
    assert manifest["val_images_also_in_train"] == 1
    assert "test_images_also_in_train: 2" in capsys.readouterr().out


def test_what_was_decided_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(source=f"imagefolder:{write_folder(project / 'images', count=10)}", image_size=8)
    said = capsys.readouterr().out
    assert "test is carved from 'train': 20% of each class" in said
    assert "val is carved from 'train': 10% of each class" in said
    assert "14 train, 2 val, 4 test images of 2 classes, 8x8" in said


# what it refuses


def truncate(root: Path) -> None:
    path = root / "b" / "3.jpg"
    path.write_bytes(path.read_bytes()[:-20])


def write_text(root: Path) -> None:
    (root / "b" / "3.jpg").write_text("no image")


def empty_class(root: Path) -> None:
    (root / "c").mkdir()
    (root / "c" / "notes.txt").touch()


def unknown_class(root: Path) -> None:
    shutil.move(root / "a", root / "train" / "a")
    shutil.move(root / "b", root / "train" / "b")
    write_folder(root / "val", "ac")


def one_class(root: Path) -> None:
    shutil.rmtree(root / "b")


def no_class(root: Path) -> None:
    shutil.rmtree(root / "a")
    one_class(root)


def too_few(root: Path) -> None:
    for i in range(5):
        (root / "b" / f"{i}.jpg").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "1 of the images cannot be read: b/3.jpg (image file is truncated"),
        (write_text, "b/3.jpg (not an image); replace or remove them, or set data.damaged: skip"),
        (empty_class, "images/c: this class has no image (1 .txt); add images or remove the"),
        (unknown_class, "test has images of 'c', which do not occur in training"),
        (one_class, "only one class in training"),
        (no_class, "images: no images found; expected a folder of image files for each class"),
        (too_few, "class 'b' has too few training images to carve a split from"),
        (shutil.rmtree, "data.source: 'images' is not a folder; correct the path"),
    ],
)
def test_refusals_leave_nothing_behind(project: Path, damage: Any, message: str) -> None:
    damage(write_folder(project / "images"))
    write_params(project, source="imagefolder:images", image_size=8)
    said = str(exit_of("prepare_data"))
    assert said.startswith("error: ")
    assert "\n" not in said
    assert message in said
    assert list((project / "artifacts").rglob("*")) == []
    assert not (project / "reports").exists()


def write_damaged(folder: Path) -> Path:
    """Seven of twelve images."""
    for k, path in enumerate(sorted(write_folder(folder).rglob("*.jpg"))):
        if k % 6 > 2 or k == 0:
            path.write_text("no image")
    return folder


def test_all_damaged_images_are_named_at_once(project: Path) -> None:
    write_damaged(project / "images" / "train")
    write_folder(project / "images" / "test")
    with pytest.raises(InputError) as caught:
        prepare(source="imagefolder:images", image_size=8)
    assert "7 of the images cannot be read: " in str(caught.value)
    assert str(caught.value).count("(not an image)") == 5
    assert " and 2 more; replace or remove them" in str(caught.value)


def test_damaged_images_can_be_skipped(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val", "test"):
        write_damaged(project / "images" / split)
    manifest = prepare(source="imagefolder:images", image_size=8, damaged="skip")
    assert [part["per_class"] for part in manifest["splits"].values()] == [[2, 3]] * 3
    train = load_data().split("train")
    assert train.images.shape == (5, 8, 8, 3)
    assert np.bincount(train.labels).tolist() == [2, 3]
    assert "21 of the images cannot be read" in capsys.readouterr().out
    report = json.loads(Path("reports/data.json").read_text())
    assert len(report["damaged"]) == 21
    assert "val/b/3.jpg (not an image)" in report["damaged"]


def test_a_class_is_not_skipped_whole(project: Path) -> None:
    for path in write_folder(project / "images").glob("a/*.jpg"):
        path.write_text("no image")
    with pytest.raises(InputError, match="replace them, as a class or a split has no other"):
        prepare(source="imagefolder:images", image_size=8, damaged="skip")


def test_a_refusal_keeps_the_older_result(project: Path) -> None:
    prepare(image_size=None)
    before = sums(project)
    truncate(write_folder(project / "images"))
    with pytest.raises(InputError, match=r"b/3\.jpg"):
        prepare(source="imagefolder:images", image_size=8)
    assert sums(project) == before


def test_own_size_must_be_one(project: Path) -> None:
    root = write_folder(project / "images")
    Image.new("L", (9, 9)).save(root / "b" / "5.jpg")
    with pytest.raises(
        InputError, match=r"b/5\.jpg has 9x9 pixels where others have 8x8; set data"
    ):
        prepare(source="imagefolder:images", image_size=None)


def test_own_size_must_be_square(project: Path) -> None:
    root = write_folder(project / "images")
    for path in root.rglob("*.jpg"):
        Image.new("L", (9, 7)).save(path)
    with pytest.raises(
        InputError, match=r"has 9x7 pixels, expected a square; set data\.image_size"
    ):
        prepare(source="imagefolder:images", image_size=None)


def test_images_of_one_value_are_refused(project: Path) -> None:
    for path in write_folder(project / "images").rglob("*.jpg"):
        Image.new("L", (8, 8), 77).save(path)
    with pytest.raises(InputError, match="a colour channel is constant over all"):
        prepare(source="imagefolder:images", image_size=8)


@pytest.mark.parametrize("kilobytes", [64, 800, 5400])  # the first array, later ones
def test_a_full_disk_is_one_sentence(project: Path, kilobytes: int) -> None:
    with small_disk(project, f"size={kilobytes}k") as disk:
        write_params(disk, source="digits", image_size=32)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(disk)
            code, printed = run_stage("prepare_data")
        left = [path for path in disk.rglob("*") if path.is_file()]
    assert code == 1
    assert printed.splitlines()[-1].startswith("error: no space left on the disk")
    assert left == [disk / "params.yaml"]


# real sets


@needs_real_images
def test_cifar100(project: Path) -> None:
    manifest = prepare(source=f"hf:{REAL / 'cifar100'}", train_per_class=50)
    train, val, test = (load_data().split(name) for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (5000, 5000, 10000)
    assert manifest["classes"][:2] == ["apple", "aquarium_fish"]  # fine, not coarse
    assert len(manifest["classes"]) == 100
    assert test.labels.tolist() == [i % 100 for i in range(10000)]
    rows = datasets.load_dataset(str(REAL / "cifar100"), split="test")
    for position in (0, 1234, 9999):
        np.testing.assert_array_equal(test.images[[position]][0], np.asarray(rows[position]["img"]))
    np.testing.assert_allclose(manifest["mean"], [0.5071, 0.4866, 0.4409], atol=0.006)
    np.testing.assert_allclose(manifest["std"], [0.2673, 0.2564, 0.2762], atol=0.006)
    known = {image.tobytes() for image in train.images[:]}
    twins = sum(image.tobytes() in known for image in test.images[:])
    assert manifest["test_images_also_in_train"] == twins


@needs_real_images
def test_photographs_of_many_sizes(project: Path) -> None:
    manifest = prepare(source=f"imagefolder:{REAL / 'imagenet-18'}", image_size=64)
    assert {name: part["count"] for name, part in manifest["splits"].items()} == {
        "train": 519,
        "val": 57,
        "test": 62,
    }
    assert load_data().split("train").images.shape == (519, 64, 64, 3)


@needs_real_images
def test_one_split_is_carved(project: Path) -> None:
    manifest = prepare(source=f"hf:{REAL / 'cinic10-samples'}")
    assert {name: part["per_class"] for name, part in manifest["splits"].items()} == {
        "train": [144] * 10,
        "val": [16] * 10,
        "test": [40] * 10,
    }
