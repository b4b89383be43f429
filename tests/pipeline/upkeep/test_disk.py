"""Whether images fit on the disk, and what DVC's configuration says about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.errors import InputError
from pipeline.dvc_config import Remote, cache_folder, links_outputs, remotes, shared_remote
from pipeline.upkeep.disk import image_bytes, require_space
from stages.params import Params, parse_params, read_yaml
from tests.pipeline.conftest import ROOT


def params_of(preset: str | None = None, **data: object) -> Params:
    values = read_yaml(ROOT / "params.yaml")
    if preset is not None:
        chosen = read_yaml(ROOT / f"presets/{preset}.yaml")
        for section in ("data", "augmentation", "report"):
            values[section] |= chosen[section]
    values["data"] |= data
    return parse_params(values)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "none"))
    Path(".dvc").mkdir()


def test_images_are_counted_by_what_is_known_before_a_run():
    assert image_bytes(params_of()) == 1797 * 3 * 32**2
    # docs/how-to-repeat-the-paper.md has 252 GB for the training images.
    imagenet = image_bytes(params_of("imagenet/resnet34_resnet18"))
    assert imagenet is not None
    assert 252e9 < imagenet < 270e9
    assert image_bytes(params_of(source="hf:some/thing")) is None
    assert image_bytes(params_of(train_per_class=16)) is None
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        Path("images/train", name).parent.mkdir(parents=True, exist_ok=True)
        Path("images/train", name).touch()
    own = params_of(source="imagefolder:images", image_size=None)
    assert image_bytes(own) is None
    assert image_bytes(params_of(source="imagefolder:images", resize=40)) == 3 * 3 * 40**2
    # What the last run of this source has counted.
    Path("reports").mkdir()
    splits = {"train": {"count": 5}, "test": {"count": 2}}
    counted = {"source": "imagefolder:images", "image_size": 10, "splits": splits}
    Path("reports/data.json").write_text(json.dumps(counted))
    assert image_bytes(own) == 3 * 7 * 10**2


def test_images_that_do_not_fit_are_refused_with_what_to_do(monkeypatch):
    def free(count: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=count))

    params, whole = params_of(), 1797 * 3 * 32**2
    free(2 * whole)
    assert require_space(Path(), params) == (
        "disk: 11.0 MB are free; new images take about 5.5 MB of it"
    )
    free(2 * whole - 1)
    with pytest.raises(
        InputError, match=r"the images take about 11.0 MB, and on this disk 11.0 MB are free; `ackd"
    ):
        require_space(Path(), params)
    # DVC's copies may be links, and what is there already is not new.
    Path(".dvc/config").write_text("[cache]\n    type = hardlink,symlink\n")
    require_space(Path(), params)
    free(0)
    with pytest.raises(InputError):
        require_space(Path(), params)
    Path("artifacts/data").mkdir(parents=True)
    Path("artifacts/data/train_images.npy").write_bytes(b"0" * whole)
    assert require_space(Path(), params).endswith("new images take about 0 bytes of it")
    assert require_space(Path(), params_of(source="hf:x")).endswith("images are not counted yet")


def test_dvcs_configuration_is_read_from_all_its_files(tmp_path):
    assert cache_folder(tmp_path) == tmp_path / ".dvc/cache"
    assert not links_outputs(tmp_path)
    Path("user").mkdir()
    Path("user/config").write_text("[cache]\n    type = hardlink,symlink\n    dir = /one\n")
    assert links_outputs(tmp_path)
    Path(".dvc/config").write_text(
        "[core]\n    remote = main\n['remote \"other\"']\n    url = s3://bucket/x\n"
        "['remote \"main\"']\n    url = ../store\n"
    )
    Path(".dvc/config.local").write_text("[cache]\n    dir = /two\n[core]\n    remote = other\n")
    assert cache_folder(tmp_path) == Path("/two")
    store = Remote("main", str(tmp_path / "store"))
    assert remotes(tmp_path) == [Remote("other", "s3://bucket/x"), store]
    assert shared_remote(tmp_path) == "main"
    Path(".dvc/config").write_text("no section\n")
    with pytest.raises(InputError, match="correct DVC's configuration"):
        remotes(tmp_path)
