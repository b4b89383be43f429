"""Files appear whole or not at all."""

import hashlib
import json
from pathlib import Path

import pytest

from models.errors import InputError
from stages.files import (
    new_file,
    new_folder,
    read_json,
    sha256,
    without_folders,
    write_csv,
    write_json,
)


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    with new_file(path) as partial:
        partial.write_text("x")
        assert not path.exists()
    assert path.read_text() == "x"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    path.write_text("old")

    def fail() -> None:
        with new_file(path) as partial:
            partial.write_text("half")
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_a_folder_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for name in ("one", "two"):
        with new_folder(path) as partial:
            (partial / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["two"]

    def fail() -> None:
        with new_folder(path) as partial:
            (partial / "three").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.name for p in path.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [0.1]})
    assert json.loads(path.read_text()) == {"b": 1, "a": [0.1]}
    assert read_json(path) == {"b": 1, "a": [0.1]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"b": 1, "a": [0.1]}
    path.write_text('{"b": ')
    with pytest.raises(InputError, match=r"a.json: not readable as JSON"):
        read_json(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="expected a JSON object"):
        read_json(path)
    with pytest.raises(InputError, match=r"b.json: no such file; run `dvc repro`"):
        read_json(tmp_path / "b.json")


def test_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"epoch": 1, "loss": 1 / 3}, {"epoch": 2, "loss": 1e-9}])
    assert (tmp_path / "a.csv").read_text() == "epoch,loss\n1,0.333333\n2,1e-09\n"


def test_sums(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("imagefolder:/home/somebody/flowers", "imagefolder:.../flowers"),
        ("imagefolder:/mnt/flowers/", "imagefolder:.../flowers/"),
        ("torchvision:CIFAR100:~/data", "torchvision:CIFAR100:.../data"),
        ("hf:/data/cifar100@v1", "hf:.../cifar100@v1"),
        ("~somebody/teacher.pth", ".../teacher.pth"),
        ("/classes.csv", ".../classes.csv"),
        *(
            (name, name)
            for name in ("digits", "hf:uoft-cs/cifar100", "imagefolder:images/own", "/")
        ),
        ("ssh://pi@board/srv", "ssh://pi@board/srv"),
    ],
)
def test_a_path_as_others_see_it(path: str, shown: str) -> None:
    assert without_folders(path) == shown
