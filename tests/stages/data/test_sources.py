"""Every scheme of ``data.source`` on real files."""

import io
import os
import socket
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from models.errors import InputError
from stages.data.sources.base import Source
from stages.data.sources.schemes import open_source
from stages.sections.data import Data

DIGITS = load_digits()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def digit(position: int) -> Image.Image:
    return Image.fromarray((DIGITS.images[position] * 15).astype(np.uint8))


def write_folder(folder: Path, classes: tuple[str, ...], count: int = 3) -> None:
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            digit(k * count + i).save(folder / name / f"{i}.png")


def test_digits_test_split_is_stratified_and_independent_of_the_seed():
    labels = [open_source(Data(seed=s)).open_split("test").labels for s in (0, 1)]
    assert labels[0] == labels[1]
    assert np.bincount(labels[0]).tolist() == pytest.approx(np.bincount(DIGITS.target) / 5, abs=1)


def test_image_folder_with_splits(tmp_path):
    write_folder(tmp_path / "train", ("b", "a"))
    write_folder(tmp_path / "val", ("a", "b"), 2)
    write_folder(tmp_path / "notes", ("x",))
    (tmp_path / "train" / "a" / "README.txt").write_text("no image")
    (tmp_path / "train" / "a" / ".hidden.png").write_text("no image")
    (tmp_path / "train" / "a" / "deeper").mkdir()
    digit(99).save(tmp_path / "train" / "a" / "deeper" / "9.PNG")
    source = open_source(Data(source=f"imagefolder:{tmp_path}"))
    assert sorted(source.split_names) == ["train", "val"]
    train = source.open_split("train")
    assert train.labels == ["a"] * 4 + ["b"] * 3
    assert train.describe(3) == "train/a/deeper/9.PNG"
    assert train.notes == ["skipped in train/ (1 .txt)"]
    assert source.notes == ["skipped notes: not a split, or without class folders"]
    with train.image(3) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(digit(99)))


def test_image_folder_with_named_splits(tmp_path):
    layout(tmp_path, "learn/a", "try/a")
    data = Data(source=f"imagefolder:{tmp_path}", train_split="learn", test_split="try")
    assert sorted(open_source(data).split_names) == ["learn", "try"]


def layout(root: Path, *folders: str) -> Source:
    for position, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        digit(position).save(root / folder / "0.png")
    return open_source(Data(source=f"imagefolder:{root}"))


@pytest.mark.parametrize(
    ("folders", "splits", "classes"),
    [
        (("Train/a", "Train/b", "Test/a"), ["Test", "Train"], ["a", "b"]),
        (("Training/a", "Training/b", "Testing/a"), ["Testing", "Training"], ["a", "b"]),
        (("train/a", "train/b", "dev/a", "eval/b"), ["dev", "eval", "train"], ["a", "b"]),
        # Without labels.
        (("train/a", "train/b", "test"), ["train"], ["a", "b"]),
        # A class of the vehicles.
        (("car", "plane", "train"), ["train"], ["car", "plane", "train"]),
        # Folders of file systems and storage boxes.
        (("a", "b", "__MACOSX/a", "a/@eaDir/0.png", "b/.thumbs"), ["train"], ["a", "b"]),
    ],
)
def test_splits_and_classes_are_told_apart(tmp_path, folders, splits, classes):
    source = layout(tmp_path, *folders)
    assert source.split_names == splits
    assert source.open_split(splits[-1]).labels == classes


@pytest.mark.parametrize(
    "folders", [("cat", "dog", "test/cat"), ("cat", "test", "train"), ("cat/x", "train/x")]
)
def test_classes_that_look_like_splits_are_refused(tmp_path, folders):
    with pytest.raises(InputError, match="may be splits or classes; name the splits in"):
        layout(tmp_path, *folders)


def test_skipped_files_are_counted(tmp_path):
    layout(tmp_path, "a", "b")
    for name in ("a/1.HEIC", "a/2.heic", "b/notes", "labels.csv"):
        (tmp_path / name).touch()
    digit(5).save(tmp_path / "a" / "3.jfif", "JPEG")
    split = open_source(Data(source=f"imagefolder:{tmp_path}")).open_split("train")
    assert split.labels == ["a", "a", "b"]
    counted = "2 .heic, 1 .csv beside the class folders, 1 without extension"
    assert split.notes == [f"skipped in the folder ({counted})"]
    (tmp_path / "a" / "0.png").unlink()
    (tmp_path / "a" / "3.jfif").unlink()
    with pytest.raises(InputError, match=r"a: the class has no images \(2 \.heic\); add images"):
        open_source(Data(source=f"imagefolder:{tmp_path}")).open_split("train")


def test_links_to_folders_are_followed_once(tmp_path):
    layout(tmp_path / "images", "a/inner", "b")
    layout(tmp_path / "elsewhere", "")
    more = tmp_path / "images" / "a" / "more"
    more.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "a" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "a" / "circle").symlink_to(tmp_path / "images")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "images" / "a")
    split = open_source(Data(source=f"imagefolder:{tmp_path / 'images'}")).open_split("train")
    assert split.labels == ["a", "a", "b"]


def test_a_class_name_that_is_not_utf8_is_refused(tmp_path):
    layout(tmp_path, "dog")
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(InputError, match=r"the name of folder 'caf.+xe9' is not UTF-8; rename it"):
        open_source(Data(source=f"imagefolder:{tmp_path}"))


@pytest.fixture
def save(tmp_path):
    def write(columns: dict[str, list[object]], features: datasets.Features) -> str:
        folder = tmp_path / "set"
        (folder / "data").mkdir(parents=True)
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
        return f"hf:{folder}"

    return write


IMAGES = [digit(i) for i in range(4)]
IMAGE, NAMES = datasets.Image(), datasets.ClassLabel(names=["cat", "dog"])
LABELED = datasets.Features(img=IMAGE, label=NAMES)


def png(image: Image.Image) -> bytes:
    image.save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


TEXT, NUMBER = datasets.Value("string"), datasets.Value("int64")


def test_hub_columns_are_found_by_type(save):
    features = datasets.Features(caption=TEXT, kind=NAMES, picture=IMAGE)
    where = save({"caption": ["x"] * 4, "kind": [0, 1, 1, 0], "picture": IMAGES}, features)
    source = open_source(Data(source=where))
    split = source.open_split("train")
    assert source.class_names == ["cat", "dog"]
    assert split.labels == [0, 1, 1, 0]
    np.testing.assert_array_equal(np.asarray(split.image(2)), np.asarray(IMAGES[2]))
    assert split.describe(2) == "row 2 of split 'train'"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [(("label", "fine_label", "other"), "label"), (("coarse_label", "fine_label"), "fine_label")],
)
def test_hub_prefers_the_usual_label(save, names, chosen):
    features = datasets.Features(img=IMAGE, **dict.fromkeys(names, NAMES))
    values = {name: [int(name == chosen)] * 4 for name in names}
    split = open_source(Data(source=save({"img": IMAGES, **values}, features))).open_split("train")
    assert split.labels == [1, 1, 1, 1]


def test_hub_takes_undeclared_labels_and_images(save):
    features = datasets.Features(file=datasets.Value("binary"), label=TEXT)
    where = save({"file": [png(IMAGES[1])] * 2, "label": ["cat", "dog"]}, features)
    source = open_source(Data(source=where, image_column="file"))
    split = source.open_split("train")
    assert source.class_names is None
    assert split.labels == ["cat", "dog"]
    np.testing.assert_array_equal(np.asarray(split.image(0)), np.asarray(IMAGES[1]))


def test_hub_takes_files_in_structs_as_pandas_writes_them(tmp_path):
    cells = [{"bytes": png(image), "path": "a.png"} for image in IMAGES]
    rows = pyarrow.table({"image": cells, "label": [0, 1, 1, 0]})
    pyarrow.parquet.write_table(rows, tmp_path / "train.parquet")
    split = open_source(Data(source=f"hf:{tmp_path}")).open_split("train")
    np.testing.assert_array_equal(np.asarray(split.image(2)), np.asarray(IMAGES[2]))


@pytest.mark.parametrize("whole", [True, False])
def test_hub_takes_what_save_to_disk_wrote(tmp_path, whole):
    rows = datasets.Dataset.from_dict({"img": IMAGES, "label": [0, 1, 1, 0]}, features=LABELED)
    (datasets.DatasetDict(train=rows) if whole else rows).save_to_disk(tmp_path / "set")
    source = open_source(Data(source=f"hf:{tmp_path / 'set'}"))
    assert source.split_names == ["train"]
    assert source.open_split("train").labels == [0, 1, 1, 0]


def test_hub_configurations_are_named(tmp_path):
    listed = ""
    for config, labels in (("fine", [0, 1, 2, 3]), ("coarse", [0, 0, 1, 1])):
        (tmp_path / config).mkdir()
        rows = pyarrow.table({"image": [png(image) for image in IMAGES], "label": labels})
        pyarrow.parquet.write_table(rows, tmp_path / config / "train.parquet")
        listed += f"- {{config_name: {config}, data_files: {config}/*.parquet}}\n"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    where = f"hf:{tmp_path}"
    assert open_source(Data(source=where, config="coarse")).open_split("train").labels[3] == 1
    for config in (None, "corse"):
        with pytest.raises(InputError, match="data.config is .*, expected .*: 'fine', 'coarse'"):
            open_source(Data(source=where, config=config))


@pytest.mark.parametrize(
    ("features", "data", "message"),
    [
        ({"img": IMAGE, "a": NAMES, "b": NAMES}, {}, "data.label_column: several .* one of a, b"),
        ({"img": IMAGE, "number": NUMBER}, {}, "data.label_column: no column .* img, number"),
        ({"x": IMAGE, "y": IMAGE, "label": NAMES}, {}, "data.image_column: several .* one of x, y"),
        (LABELED, {"label_column": "lable"}, "'lable' .* mean 'label'"),
        (LABELED, {"image_column": "image"}, "'image' .* mean 'img'"),
        (LABELED, {"image_column": "label"}, "'label' holds int64, expected images"),
        (LABELED, {"label_column": "img"}, "'img' holds .*, expected integers"),
    ],
)
def test_hub_columns_that_do_not_fit(save, features, data, message):
    columns = {name: IMAGES if kind is IMAGE else [0, 1, 0, 1] for name, kind in features.items()}
    where = save(columns, datasets.Features(**features))
    with pytest.raises(InputError, match=message):
        open_source(Data(source=where, **data))


@pytest.mark.parametrize("missing", [-1, None])
def test_hub_split_without_public_labels_is_refused(save, missing):
    where = save({"img": IMAGES, "label": [0, 1, missing, 0]}, LABELED)
    with pytest.raises(InputError, match="row 2 of split 'train' has no label"):
        open_source(Data(source=where)).open_split("train")


def test_hub_folder_needs_no_network(save, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a local folder must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    where = save({"img": IMAGES, "label": [0, 1, 1, 0]}, LABELED)
    assert open_source(Data(source=where)).open_split("train").labels == [0, 1, 1, 0]


def test_hub_folders_that_cannot_be_read(tmp_path):
    (tmp_path / "train.parquet").write_text("no parquet")
    with pytest.raises(InputError, match=r"could not read .*expected a folder in the layout"):
        open_source(Data(source=f"hf:{tmp_path}"))
    with pytest.raises(InputError, match="without revisions; remove @v1"):
        open_source(Data(source=f"hf:{tmp_path}@v1"))


def test_hub_out_of_reach(monkeypatch, capfd):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"could not read 'owner/name@main'.* hub is reachable"):
        open_source(Data(source="hf:owner/name@main"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digts", "the scheme 'digts' does not exist; did you mean 'digits'"),
        ("zip:x", "use one of digits, hf, imagefolder, torchvision"),
        ("hf", "expected hf:<where>"),
        ("imagefolder:", "expected imagefolder:<where>"),
        ("digits:8x8", "expected digits;"),
        ("imagefolder:/no/such/place", "'/no/such/place' is not a folder"),
        ("hf:/no/such/place", "neither a local folder nor an id of the hub"),
        ("torchvision:cifar10:x", "'cifar10' does not exist; did you mean 'CIFAR10'"),
        ("torchvision:zzz:x", "use one of CIFAR10"),
        ("torchvision:CIFAR10", "data.source names no folder; write torchvision:CIFAR10:<root>"),
    ],
)
def test_sources_that_do_not_exist(source, message):
    with pytest.raises(InputError, match=message):
        open_source(Data(source=source))


@pytest.mark.parametrize("key", ["config", "image_column", "label_column"])
def test_columns_belong_to_hub_sources(key):
    with pytest.raises(InputError, match=f"data.{key} is for hf: sources"):
        open_source(Data(**{key: "x"}))
