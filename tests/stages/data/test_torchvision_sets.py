"""``torchvision:`` on files in torchvision's formats."""

import inspect
import struct
from pathlib import Path

import numpy as np
import pytest

from models.errors import InputError
from stages.data.sources.schemes import open_source, open_unlabeled
from stages.sections.data import Data
from tests.stages.data.test_sources import DIGITS, digit, write_folder


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_torchvision_array_set(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = (DIGITS.images * 15).astype(np.uint8)
    for prefix, rows in (("train", slice(0, 50)), ("t10k", slice(50, 60))):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images[rows])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", DIGITS.target[rows])
    source = open_source(Data(source=f"torchvision:MNIST:{tmp_path}"))
    assert source.split_names == ["train", "test"]
    assert source.class_names[3] == "3 - three"
    test = source.open_split("test")
    assert test.labels == DIGITS.target[50:60].tolist()
    np.testing.assert_array_equal(np.asarray(test.image(4)), images[54])


def test_torchvision_set_of_files(tmp_path):
    for split in ("train", "valid", "test"):
        write_folder(tmp_path / "country211" / split, ("AD", "AE"))
    source = open_source(Data(source=f"torchvision:Country211:{tmp_path}"))
    assert source.split_names == ["train", "valid", "test"]
    assert source.class_names == ["AD", "AE"]
    split = source.open_split("valid")
    assert split.labels == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(np.asarray(split.image(5)), np.asarray(digit(5)))


def test_unlabeled_images_of_stl10(tmp_path, monkeypatch):
    (tmp_path / "stl10_binary").mkdir()
    for name, count in (("train", 4), ("unlabeled", 6)):
        images = np.zeros((count, 3, 96, 96), np.uint8)
        (tmp_path / "stl10_binary" / f"{name}_X.bin").write_bytes(images.tobytes())
    (tmp_path / "stl10_binary/train_y.bin").write_bytes(bytes([1, 2, 2, 1]))
    monkeypatch.setattr("torchvision.datasets.STL10._check_integrity", lambda _: True)
    assert len(open_unlabeled(Data(unlabeled=f"torchvision:STL10:{tmp_path}")).labels) == 6


def test_torchvision_table_fits_the_library():
    from torchvision import datasets as library

    from stages.data.sources.torchvision_sets import SETS

    for name, splits in SETS.items():
        parameters = inspect.signature(getattr(library, name)).parameters
        assert "download" in parameters
        for arguments in splits.values():
            assert set(arguments) <= set(parameters), name


def test_torchvision_out_of_reach(tmp_path, monkeypatch, capfd):
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(InputError, match="torchvision's files of CIFAR10 are incomplete in '"):
        open_source(Data(source=f"torchvision:CIFAR10:{tmp_path}"))
    assert capfd.readouterr() == ("", "")
