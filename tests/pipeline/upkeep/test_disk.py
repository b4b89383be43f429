"""The estimate against what a real chain has left, and the refusal of a disk that is too small."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from ruamel.yaml import YAML

import pipeline.dvc_runner
from models.errors import InputError
from pipeline.dvc_config import Remote, cache_folder, links_outputs, remotes
from pipeline.sizes import bytes_and_time
from pipeline.upkeep.disk import Counts, Need, count_images, estimate, missing_space, require_space
from stages import distill, prepare_data, train_proxy, train_teacher
from stages.checkpoints.checkpoint import Checkpoints
from stages.checkpoints.durable import IN_USE
from stages.params import Params, load_params, parse_params, read_yaml
from tests.pipeline.conftest import ROOT

FACTOR = 1.5  # what pipeline/disk.py states


def by_place(needs: list[Need]) -> dict[str, int]:
    places: dict[str, int] = defaultdict(int)
    for need in needs:
        places[need.place.as_posix()] += need.bytes
    return places


def agrees(estimated: float, real: float) -> bool:
    return real / FACTOR < estimated < real * FACTOR


def changed(**sections: dict[str, object]) -> Params:
    values = read_yaml(ROOT / "params.yaml")
    for section, keys in sections.items():
        values[section] |= keys
    return parse_params(values)


def test_the_estimate_agrees_with_what_the_whole_chain_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``dvc.lock`` has the sizes of all outputs of its last run."""
    monkeypatch.chdir(ROOT)
    stages = YAML(typ="safe").load(ROOT / "dvc.lock")["stages"]
    real = {
        out["path"]: out["size"]
        for stage in stages.values()
        for out in stage.get("outs", [])
        if out["path"].startswith("artifacts/")
    }
    needs = estimate(Path(), load_params())
    estimated = by_place(needs)
    for path, size in real.items():
        if path not in ("artifacts/latency", "artifacts/analysis", "artifacts/litert"):
            assert agrees(estimated[path], size), (path, estimated[path], size)
    workspace = sum(need.bytes for need in needs if need.place.parts[0] == "artifacts")
    assert agrees(workspace, sum(real.values()))
    copies = sum(need.bytes for need in needs if need.what == "DVC's copies")
    assert copies == workspace


def test_it_agrees_with_a_training_that_runs_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACKD_LOGITS", "logits")
    monkeypatch.setattr(Checkpoints, "clear", lambda _self: None)
    short = {"epochs": 2, "batch_size": 32}
    params = changed(
        data={"image_size": 16, "train_per_class": 16},
        teacher={**short, "network": "resnet8"},
        proxy={"method": "assistants", "assistants": {"networks": ["resnet8"]}},
        distill={**short, "network": "resnet8"},
    )
    prepare_data.main(params)
    estimated = by_place(estimate(Path(), params))
    for stage in (train_teacher, train_proxy, distill):
        stage.main(params)
    for place in ("data", "teacher", "proxy", "distilled"):
        size, _ = bytes_and_time(Path("artifacts", place))
        assert agrees(estimated[f"artifacts/{place}"], size), place
    kept, _ = bytes_and_time(Path(".checkpoints"))
    assert agrees(estimated[".checkpoints"] * 2 / 3, kept)  # the third one is being written
    assert len(list(Path(".checkpoints").rglob(IN_USE))) == 3
    assert agrees(estimated["logits"], bytes_and_time(Path("logits"))[0])


@pytest.mark.parametrize("method", ["crd", "one", "semckd", "vid"])
def test_what_a_method_keeps_beside_the_student_counts(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def checkpoints(of: str) -> int:
        needs = estimate(Path(), changed(distill={"method": of}))
        assert ("teacher logits" in {need.what for need in needs}) == (of == "kd")
        (need,) = (n for n in needs if (n.stage, n.what) == ("distill", "checkpoints"))
        return need.bytes

    alone = checkpoints("kd")
    # Weights, momentum and the best epoch's, in three files.
    assert agrees(alone, 3 * 3 * 4 * 78_042)
    if method == "crd":  # two memories of 128 numbers an image
        assert agrees(checkpoints("crd") - alone, 3 * 2 * 4 * 128 * 1797)
    else:
        assert checkpoints(method) > 1.02 * alone


def test_images_are_counted_where_that_is_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    preset = read_yaml(ROOT / "presets/imagenet/resnet34_resnet18.yaml")
    params = changed(data=preset["data"], augmentation=preset["augmentation"])
    assert count_images(params) is None
    assert by_place(estimate(Path(), params))["artifacts/data"] == 0
    shutil.copytree(ROOT / "docs/paper", "docs/paper")
    params = changed(**{key: preset[key] for key in ("data", "augmentation", "report")})
    counts = count_images(params)
    assert counts == Counts(1_281_167, 100_000, 1000, 256, 224)
    assert 252e9 < counts.bytes < 270e9  # docs/how-to-repeat-the-paper.md says the training images
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        Path("images/train", name).parent.mkdir(parents=True, exist_ok=True)
        Path("images/train", name).touch()
    own = changed(data={"source": "imagefolder:images"})
    assert count_images(own) == Counts(3, 0, 2, 32, 32)


def test_a_disk_that_is_too_small_is_refused_with_what_to_do(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params()
    assert require_space(Path(), params).startswith("disk: a run of every stage takes about ")
    full = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: full)
    states = [SimpleNamespace(name="distill", state="will run")]
    monkeypatch.setattr(pipeline.dvc_runner, "load_status", lambda _root: states)
    with pytest.raises(InputError) as refusal:
        require_space(Path(), params)
    sentence = str(refusal.value)
    assert "checkpoints " in sentence
    assert "images" not in sentence  # that stage is up to date
    assert "1.0 MB are free" in sentence
    assert "`ackd gc` says what can go" in sentence
    states.clear()
    assert require_space(Path(), params) == "disk: what will run takes about 0 bytes: nothing"


def test_what_stands_there_now_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=100))
    needs = [Need("prepare_data", "images", Path("artifacts/data"), 1000)]
    assert "900 bytes too few" in str(missing_space(needs))
    Path("artifacts/data").mkdir(parents=True)
    Path("artifacts/data/train_images.npy").write_bytes(b"0" * 950)
    assert missing_space(needs) is None


def test_dvcs_configuration_is_read_from_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".dvc").mkdir()
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "none"))
    assert cache_folder(tmp_path) == tmp_path / ".dvc/cache"
    assert not links_outputs(tmp_path)
    (tmp_path / "config").write_text("[cache]\n    type = hardlink,symlink\n    dir = /one\n")
    assert links_outputs(tmp_path)
    (tmp_path / ".dvc/config").write_text(
        "[core]\n    remote = main\n['remote \"other\"']\n    url = s3://bucket/x\n"
        "    endpointurl = http://127.0.0.1:9000\n['remote \"main\"']\n    url = ../store\n"
    )
    (tmp_path / ".dvc/config.local").write_text("[cache]\n    dir = /two\n")
    assert cache_folder(tmp_path) == Path("/two")
    assert remotes(tmp_path) == [
        Remote("main", str(tmp_path / "store")),
        Remote("other", "s3://bucket/x", "http://127.0.0.1:9000"),
    ]
    (tmp_path / ".dvc/config").write_text("no section\n")
    with pytest.raises(InputError, match="correct DVC's configuration"):
        remotes(tmp_path)
