from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from models.errors import InputError
from stages.files import new_file, new_folder, read_json, without_folders, write_csv, write_json


def stop(opening: AbstractContextManager[Path]) -> None:
    with opening as partial:
        (partial / "three" if partial.is_dir() else partial).write_text("half")
        raise KeyboardInterrupt


def test_a_file_appears_at_the_end_and_a_failure_leaves_the_old_one(tmp_path):
    path = tmp_path / "a/b.txt"
    with new_file(path) as partial:
        partial.write_text("x")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        stop(new_file(path))
    assert path.read_text() == "x"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_folder_replaces_the_old_one_and_a_failure_leaves_it(tmp_path):
    path = tmp_path / "out"
    for name in ("one", "two"):
        with new_folder(path) as partial:
            (partial / name).write_text(name)
    with pytest.raises(KeyboardInterrupt):
        stop(new_folder(path))
    assert [p.name for p in path.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_json_and_csv(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [0.1]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"b": 1, "a": [0.1]}
    write_csv(path, [{"epoch": 1, "loss": 1 / 3}, {"epoch": 2, "loss": 1e-9}])
    assert path.read_text() == "epoch,loss\n1,0.333333\n2,1e-09\n"
    for content, message in (
        ('{"b": ', "a.json: not readable as JSON"),
        ("[]", "expected a JSON object"),
        (None, "a.json: no such file; run `dvc repro`"),
    ):
        path.unlink()
        if content is not None:
            path.write_text(content)
        with pytest.raises(InputError, match=message):
            read_json(path)
        path.touch()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("imagefolder:/home/somebody/flowers", "imagefolder:.../flowers"),
        ("torchvision:CIFAR100:~/data", "torchvision:CIFAR100:.../data"),
        ("hf:/data/cifar100@v1", "hf:.../cifar100@v1"),
        ("~somebody/teacher.pth", ".../teacher.pth"),
        ("/classes.csv", ".../classes.csv"),
        *((name, name) for name in ("digits", "hf:uoft-cs/cifar100", "imagefolder:images/own")),
        *((name, name) for name in ("/", "ssh://pi@board/srv")),
    ],
)
def test_a_path_as_others_see_it(path, shown):
    assert without_folders(path) == shown
