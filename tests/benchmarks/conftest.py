"""A tiny data set, and a pair of networks for it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import study
from benchmarks.networks import write_pair
from benchmarks.results import DOCS, markers
from tests.forked import forked
from tests.splits import write_splits
from tests.warm_python import run_module

COUNT, CLASSES, SIZE = 102, 6, 32


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """Write random images in the format of prepare_data."""
    folder = tmp_path_factory.mktemp("benchmark-data")
    random = np.random.default_rng(0)
    shape = (COUNT, SIZE, SIZE, 3)
    splits = {s: random.integers(0, 256, shape, np.uint8) for s in ("train", "val", "test")}
    write_splits(folder, splits, "abcdef", [0.5] * 3, [0.3] * 3)
    return folder


@pytest.fixture(scope="session")
def weights(data_folder, tmp_path_factory):
    """Return the folder with a pair's weights, and its description."""
    folder = tmp_path_factory.mktemp("benchmark-weights")
    return folder, write_pair("resnet14", "resnet8", str(data_folder), str(folder))


@pytest.fixture
def checkout(tmp_path):
    """A fake checkout of RepDistiller, from which nothing is imported."""
    (tmp_path / "rep/helper").mkdir(parents=True)
    (tmp_path / "rep/helper/loops.py").touch()
    return tmp_path / "rep"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Write a page of docs with markers for every table to the current folder."""
    monkeypatch.chdir(tmp_path)
    DOCS.mkdir()
    names = ("plan", "edge", "gpu", "overhead", "training")
    (DOCS / "page.md").write_text("".join(line for name in names for line in markers(name)))
    return DOCS / "page.md"


@pytest.fixture
def forked_stages(monkeypatch):
    """Fork stages instead of starting them, so that they begin at once."""

    def run(command: list[str], cwd: Path, env: dict[str, str], check: bool) -> None:
        assert check
        python, module, name = command
        assert (python, module) == (sys.executable, "-m")
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            with forked(run_module, name, **env) as child:
                print(child.finish())
        assert child.exitcode == 0

    monkeypatch.setattr(study.subprocess, "run", run)
