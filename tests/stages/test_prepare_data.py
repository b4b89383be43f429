import json
import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from stages import prepare_data
from stages.data.arrays import load_data
from stages.files import read_json, sha256
from stages.params import Params
from stages.sections.data import Data
from tests.disk import small_disk
from tests.forked import run_stage
from tests.stages.conftest import exit_of
from tests.stages.data.test_sources import DIGITS, digit

REAL = Path(os.environ.get("ACKD_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
REPORT = Path("reports/data.json")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project with its own cache, the current folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def prepare(**data: Any) -> dict[str, Any]:
    prepare_data.main(Params(data=Data(**data)))
    return read_json(Path("artifacts/data/manifest.json"))


def sums() -> dict[Path, str]:
    paths = (*Path("artifacts").rglob("*"), *Path("reports").rglob("*"))
    return {path: sha256(path) for path in paths if path.is_file()}


def array(name: str) -> np.ndarray:
    return np.load(f"artifacts/data/{name}.npy")


def write_folder(folder: Path, classes: str = "ab", count: int = 6, first: int = 0) -> Path:
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            digit(first + k * count + i).save(folder / name / f"{i}.jpg", quality=100)
    return folder


def test_the_manifest_and_the_report_are_of_the_arrays(project):
    manifest = prepare()
    assert sum(len(array(f"{name}_images")) for name in ("train", "val", "test")) == 1797
    assert (manifest["source"], manifest["image_size"]) == ("digits", 32)
    for name, part in manifest["splits"].items():
        images, labels = array(f"{name}_images"), array(f"{name}_labels")
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        assert images.shape == (part["count"], 32, 32, 3)
        assert part["per_class"] == [int((labels == k).sum()) for k in range(10)]
        for kind in ("images", "labels"):
            path = Path(f"artifacts/data/{name}_{kind}.npy")
            assert part.pop(f"{kind}_sha256") == sha256(path)
        assert len(load_data().split(name)) == part["count"]
    scaled = array("train_images").astype(np.float64) / 255
    np.testing.assert_allclose(manifest["mean"], scaled.mean(axis=(0, 1, 2)), rtol=1e-10)
    np.testing.assert_allclose(manifest["std"], scaled.std(axis=(0, 1, 2)), rtol=1e-10)
    notes = ["val is carved from 'train': 10% of each class"]
    assert read_json(REPORT) == manifest | {"notes": notes, "damaged": []}


def test_only_training_images_keep_a_margin(project):
    manifest = prepare(resize=40)
    train, test = array("train_images"), array("test_images")
    assert (train.shape[1:], test.shape[1:]) == ((40, 40, 3), (32, 32, 3))
    middle = np.asarray(load_data().images("train")[:5])
    np.testing.assert_array_equal(middle, train[:5, 4:36, 4:36])
    # The shorter side of all images is resized to 40 pixels.
    whole = prepare(image_size=40)
    assert whole["splits"]["train"]["images_sha256"] == manifest["splits"]["train"]["images_sha256"]
    np.testing.assert_array_equal(test, array("test_images")[:, 4:36, 4:36])


def test_a_photograph_is_kept_whole_where_that_is_asked_for(project):
    for path in write_folder(project / "images").rglob("*.jpg"):
        Image.new("L", (16, 8), 150 + 10 * int(path.stem)).save(path)
    for fit, columns in (("crop", 8), ("pad", 4), ("stretch", 8)):
        manifest = prepare(source="imagefolder:images", image_size=8, fit=fit)
        assert manifest["fit"] == load_data().fit == fit
        assert int((array("train_images")[0].max((1, 2)) > 0).sum()) == columns
        # A margin is for training alone.
        shown, repeated = array("val_images"), manifest["val_images_also_in_train"]
        manifest = prepare(source="imagefolder:images", image_size=8, resize=12, fit=fit)
        np.testing.assert_array_equal(array("val_images"), shown)
        assert array("train_images").shape[1:] == (12, 12, 3)
        assert manifest["val_images_also_in_train"] == repeated > 0


def test_own_size_leaves_pixels_as_they_are_and_the_test_may_validate(project):
    manifest = prepare(image_size=None, val_fraction=0)
    assert manifest["image_size"] == 8
    assert manifest["splits"]["val"] == manifest["splits"]["test"]
    levels = np.floor(DIGITS.images * 255 / 16 + 0.5).astype(np.uint8)
    written, labels = (
        np.concatenate([array(f"{name}_{kind}") for name in ("train", "test")])
        for kind in ("images", "labels")
    )
    assert (written == written[..., :1]).all()
    got, wanted = (
        sorted((image.tobytes(), int(k)) for image, k in zip(images, classes, strict=True))
        for images, classes in ((written[..., 0], labels), (levels, DIGITS.target))
    )
    assert got == wanted


def test_another_seed_makes_others_and_an_older_result_is_replaced(project):
    prepare(train_per_class=20)
    first = sums()
    Path("artifacts/data/stranger").touch()
    prepare(train_per_class=20, seed=1)
    assert (second := sums()).keys() == first.keys()
    assert second != first
    prepare(train_per_class=20)
    assert sums() == first


@pytest.mark.parametrize("size", [{"image_size": 16}, {"image_size": 8, "resize": 10}])
def test_identical_pixels_across_splits_are_counted(project, capsys, size):
    root = project / "images"
    write_folder(root / "train")
    write_folder(root / "val", count=2, first=20)
    write_folder(root / "test", count=3, first=30)
    shutil.copy(root / "train/a/0.jpg", root / "test/a/copy.jpg")
    shutil.copy(root / "train/a/1.jpg", root / "test/b/other_label.jpg")
    shutil.copy(root / "train/b/1.jpg", root / "val/b/copy.jpg")
    manifest = prepare(source=f"imagefolder:{root}", **size)
    assert manifest["test_images_also_in_train"] == 2
    assert manifest["val_images_also_in_train"] == 1
    printed = capsys.readouterr().out
    assert "12 train, 5 val, 8 test images of 2 classes" in printed
    assert "test: 2 images also in train" in printed


def test_unlabeled_images_are_those_that_are_in_no_split(project, capsys):
    root, more = write_folder(project / "images"), project / "more"
    for number, name in enumerate(("0.jpg", "deep/er/1.jpg", "2.jpg")):
        (more / name).parent.mkdir(parents=True, exist_ok=True)
        digit(100 + number).save(more / name, quality=100)
    for path in root.rglob("*.jpg"):
        shutil.copy(path, more / f"{path.parent.name}{path.name}")
    (more / "broken.jpg").write_text("no image")
    data: dict[str, Any] = {"source": "imagefolder:images", "image_size": 8, "resize": 10}
    plain = prepare(**data)
    message = (
        r"^data.unlabeled: imagefolder:more: 1 of the images cannot be read: broken.jpg .* or set"
    )
    with pytest.raises(InputError, match=message):
        prepare(**data, unlabeled="imagefolder:more")
    (project / "unreadable").mkdir()
    (project / "unreadable/broken.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"^data.unlabeled: .* because there are no others$"):
        prepare(**data, unlabeled="imagefolder:unreadable", damaged="skip")
    manifest = prepare(**data, unlabeled="imagefolder:more", damaged="skip")
    found = manifest.pop("unlabeled")
    assert manifest == plain
    assert (found["count"], found["left_out"]) == (3, 12)
    assert load_data().images("unlabeled").with_margin().shape == (3, 10, 10, 3)
    noted = {"source": "imagefolder:more", "count": 3, "left_out": 12}
    assert read_json(REPORT)["unlabeled"] == noted
    assert "; 3 unlabeled, 12 left out as duplicates" in capsys.readouterr().out
    # The rest of a partly labelled data set, whose labels are ignored.
    rest = prepare(train_per_class=20, unlabeled="digits")
    known = rest["splits"]["train"]["count"] + rest["splits"]["val"]["count"]
    assert rest["unlabeled"]["count"] == pytest.approx(1437 - known, abs=3)  # and a few duplicates
    with pytest.raises(InputError, match=r"data.unlabeled: all images of digits are also in"):
        prepare(unlabeled="digits")
    capsys.readouterr()
    with pytest.raises(InputError, match=r"^data.unlabeled: 'no' is not a folder; correct"):
        prepare(unlabeled="imagefolder:no")
    assert capsys.readouterr().out == "", "refused before any image was written"


def truncate(root: Path) -> None:
    path = root / "b/3.jpg"
    path.write_bytes(path.read_bytes()[:-20])


def no_class(root: Path) -> None:
    for name in "ab":
        shutil.rmtree(root / name)


def constant(root: Path) -> None:
    for path in root.rglob("*.jpg"):
        Image.new("L", (8, 8), 77).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "1 of the images cannot be read: b/3.jpg (image file is truncated"),
        (no_class, "images: no images found; expected a folder of image files for each class"),
        (constant, "a colour channel is constant over all"),
        (shutil.rmtree, "data.source: 'images' is not a folder; correct the path"),
    ],
)
def test_refusals_keep_the_older_result(project, damage, message):
    root = write_folder(project / "images", count=10)
    prepare(source="imagefolder:images", image_size=8)
    before = sums()
    damage(root)
    parameters = {"data": {"source": "imagefolder:images", "image_size": 8}}
    (project / "params.yaml").write_text(json.dumps(parameters))
    refusal = str(exit_of("prepare_data"))
    assert refusal.startswith("error: ")
    assert "\n" not in refusal
    assert message in refusal
    assert sums() == before


@pytest.mark.parametrize(
    ("pattern", "size", "message"),
    [
        ("b/5.jpg", (9, 9), r"b/5\.jpg has 9x9 pixels where others have 8x8; set data\.image_size"),
        ("*/*.jpg", (9, 7), r"has 9x7 pixels, expected a square; set data\.image_size"),
    ],
)
def test_own_size_must_be_one_and_square(project, pattern, size, message):
    for path in write_folder(project / "images").glob(pattern):
        Image.new("L", size).save(path)
    with pytest.raises(InputError, match=message):
        prepare(source="imagefolder:images", image_size=None)


def write_damaged(folder: Path) -> None:
    for k, path in enumerate(sorted(write_folder(folder).rglob("*.jpg"))):
        if k % 6 > 2 or k == 0:
            path.write_text("no image")


def test_damaged_images_are_named_at_once_or_skipped_except_whole_classes(project, capsys):
    for split in ("train", "val", "test"):
        write_damaged(project / "images" / split)
    source = {"source": "imagefolder:images", "image_size": 8}
    with pytest.raises(InputError, match="21 of the .* and 16 more; replace or") as caught:
        prepare(**source)
    assert str(caught.value).count("(not an image)") == 5
    manifest = prepare(**source, damaged="skip")
    assert [part["per_class"] for part in manifest["splits"].values()] == [[2, 3]] * 3
    train = load_data().split("train")
    assert train.images.shape == (5, 8, 8, 3)
    assert np.bincount(train.labels).tolist() == [2, 3]
    assert "21 of the images cannot be read" in capsys.readouterr().out
    skipped = read_json(REPORT)["damaged"]
    assert len(skipped) == 21
    assert "val/b/3.jpg (not an image)" in skipped
    for path in (project / "images/train").glob("a/*.jpg"):
        path.write_text("no image")
    with pytest.raises(InputError, match="replace them, because a class or split has no other"):
        prepare(**source, damaged="skip")


@pytest.mark.parametrize(
    ("room", "sentence"),
    [
        ("5000k", "artifacts/data: the images need 0.00552 GB, but this disk has only 0.0051"),
        ("5400k", "no space left on the disk"),  # enough for the images, but not for the labels
    ],
)
def test_a_full_disk_is_one_sentence(project, monkeypatch, room, sentence):
    with small_disk(project, f"size={room}") as disk:
        (disk / "params.yaml").write_text("data: {source: digits, image_size: 32}\n")
        monkeypatch.chdir(disk)
        code, printed = run_stage("prepare_data")
        left = [path for path in disk.rglob("*") if path.is_file()]
        monkeypatch.chdir(project)
    assert code == 1
    assert printed.splitlines()[-1].startswith(f"error: {sentence}")
    assert left == [disk / "params.yaml"]


@pytest.mark.usefixtures("project")
def test_unlabeled_images_need_room(monkeypatch):
    room = shutil.disk_usage(Path())._replace(free=6_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    prepare()
    with pytest.raises(
        InputError, match="the images need 0.0099. GB, but this disk has only 0.006"
    ):
        prepare(unlabeled="digits")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real images are not at {REAL}")
def test_cifar100(project):
    manifest = prepare(source=f"hf:{REAL / 'cifar100'}", train_per_class=50)
    train, val, test = (load_data().split(name) for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (5000, 5000, 10000)
    assert manifest["classes"][:2] == ["apple", "aquarium_fish"]  # fine, not coarse
    assert test.labels.tolist() == [i % 100 for i in range(10000)]
    rows = datasets.load_dataset(str(REAL / "cifar100"), split="test")
    for position in (0, 1234, 9999):
        np.testing.assert_array_equal(test.images[[position]][0], np.asarray(rows[position]["img"]))
    np.testing.assert_allclose(manifest["mean"], [0.5071, 0.4866, 0.4409], atol=0.006)
    np.testing.assert_allclose(manifest["std"], [0.2673, 0.2564, 0.2762], atol=0.006)
    known = {image.tobytes() for image in train.images[:]}
    twins = sum(image.tobytes() in known for image in test.images[:])
    assert manifest["test_images_also_in_train"] == twins
