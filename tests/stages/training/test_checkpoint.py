"""Checkpoints are complete whatever happens to their writer, and match their training."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.checkpoints.checkpoint import Checkpoints, fingerprint
from stages.checkpoints.durable import IN_USE
from stages.data.feed.base import FeedPlan
from stages.data.feed.memory import MemoryFeed
from stages.files import sha256
from stages.sections.data import Augmentation
from tests.disk import small_disk
from tests.splits import write_splits

ROOT = Path(__file__).parents[3]


def checkpoints(root: Path, print_of: str = "0" * 64) -> Checkpoints:
    return Checkpoints("distill", print_of, root)


def made_state(number: int, size: int = 1000) -> dict[str, Any]:
    return {"number": number, "weights": torch.full((size,), float(number))}


def number_of(state: dict[str, Any] | None) -> int:
    """Return the number of a complete state."""
    assert torch.equal(state["weights"], torch.full_like(state["weights"], state["number"]))
    return int(state["number"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != IN_USE)


def test_the_last_two_are_kept_and_the_last_is_loaded(tmp_path):
    keeper = checkpoints(tmp_path)
    assert keeper.load() is None
    for number in range(12):
        keeper.save(made_state(number))
        assert number_of(checkpoints(tmp_path).load()) == number
    assert names(keeper.folder) == ["00000010.checkpoint", "00000011.checkpoint"]
    assert checkpoints(tmp_path, "1" * 64).load() is None


def test_success_removes_them_and_nothing_else(tmp_path):
    root = tmp_path / ".checkpoints"
    first, second = checkpoints(root), checkpoints(root, "1" * 64)
    other = Checkpoints("train_teacher", "0" * 64, root)
    for keeper in (first, second, other):
        keeper.save(made_state(1))
    first.clear()
    assert first.load() is None
    assert number_of(second.load()) == 1
    second.clear()
    assert names(root) == ["train_teacher"]
    other.clear()
    assert names(tmp_path) == []
    other.clear()  # nothing is there, and that is no mistake


def test_the_environment_says_where(monkeypatch, here):
    for variable, place in (("", ".checkpoints"), (str(here / "elsewhere"), "elsewhere")):
        monkeypatch.setenv("ACKD_CHECKPOINTS", variable)
        Checkpoints("distill", "ab").save(made_state(1))
        assert names(here / place / "distill/ab") == ["00000000.checkpoint"]


def test_damaged_and_foreign_checkpoints_are_skipped(tmp_path, capsys):
    keeper, other = checkpoints(tmp_path), checkpoints(tmp_path, "1" * 64)
    other.save(made_state(1))
    for number in range(2):
        keeper.save(made_state(number))
    newest = keeper.folder / "00000001.checkpoint"
    whole, foreign = newest.read_bytes(), (other.folder / "00000000.checkpoint").read_bytes()
    for damaged in (b"", whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], foreign):
        newest.write_bytes(damaged)
        assert number_of(keeper.load()) == 0
        said = capsys.readouterr().out
        assert said == f"{newest}: damaged; resuming from an older one, if any\n"
    # The damaged one does not count among the last two: the good one is kept with the next.
    keeper.save(made_state(2))
    assert number_of(keeper.load()) == 2
    newest.write_bytes(b"damaged")
    assert number_of(keeper.load()) == 0
    assert names(keeper.folder) == ["00000000.checkpoint"]


def test_a_full_disk_keeps_the_old_one(tmp_path, capsys):
    with small_disk(tmp_path, "size=250k") as disk:
        keeper = checkpoints(disk)
        for number in range(2):
            keeper.save(made_state(number, size=25_000))  # 100 kB
        old = {path.name: sha256(path) for path in keeper.folder.iterdir()}
        for number in range(2, 6):
            keeper.save(made_state(number, size=25_000))
            assert number_of(keeper.load()) == 1
            assert {path.name: sha256(path) for path in keeper.folder.iterdir()} == old
        said = capsys.readouterr().out
        assert said.count("\n") == 1
        assert "could not be written (No space left on device)" in said
        assert "would resume from 00000001.checkpoint" in said
        # Once there is space it continues, and it reports the next shortage.
        keeper.save(made_state(6))
        assert number_of(keeper.load()) == 6
        keeper.save(made_state(7, size=75_000))
        assert capsys.readouterr().out.count("\n") == 1
        assert number_of(keeper.load()) == 6
        keeper.clear()  # a busy disk cannot be unmounted


def test_a_place_that_cannot_be_written_to_is_said_once(tmp_path, capsys):
    (tmp_path / "file").touch()
    keeper = checkpoints(tmp_path / "file")
    for number in range(3):
        keeper.save(made_state(number))
        assert keeper.load() is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "could not be written (Not a directory); training continues" in said
    assert "would resume from the start" in said
    keeper.clear()
    assert (tmp_path / "file").exists()


PROBE = """
import json
import sys
from pathlib import Path

import models.networks.resnet
import stages.entry
import stages.data.feed.augmentation
from stages.checkpoints.checkpoint import fingerprint


def now() -> str:
    return fingerprint("probe", {}, Path())


def after_a_change(path: str) -> str:
    old = Path(path).read_bytes()
    Path(path).write_bytes(old + b"# another line")
    changed = now()
    Path(path).write_bytes(old)
    return changed


if __name__ == "__main__":
    changed = {path: after_a_change(path) for path in sys.argv[1:]}
    print(json.dumps(changed | {"plain": now()}))
"""


def run_probe(project: Path, *command: str) -> Any:
    env = os.environ | {"PYTHONPATH": str(project)}
    return json.loads(subprocess.check_output([sys.executable, *command], cwd=project, env=env))


def test_the_code_that_computes_counts(tmp_path):
    for package in ("models", "stages"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    (tmp_path / "stages/probe.py").write_text(PROBE)
    (tmp_path / "manifest.json").touch()
    counts = ["models/networks/resnet.py", "stages/data/feed/augmentation.py"]
    counts += ["stages/probe.py", "models/networks/__init__.py"]
    does_not = ["stages/entry.py", "stages/report.py", "models/networks/wide_resnet.py"]
    found = run_probe(tmp_path, "-m", "stages.probe", *counts, *does_not)
    plain = found["plain"]
    assert len({plain, *(found[path] for path in counts)}) == len(counts) + 1
    assert {found[path] for path in does_not} == {plain}

    # In another folder, and imported instead of run, it is the same code.
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("models", "stages", "manifest.json"):
        shutil.move(tmp_path / name, moved / name)
    again = "import json; from stages import probe; print(json.dumps(probe.now()))"
    assert run_probe(moved, "-c", again) == plain


def test_it_does_not_depend_on_epochs_before(tmp_path, monkeypatch):
    images = {name: np.zeros((4, 8, 8, 3), np.uint8) for name in ("train", "val", "test")}
    data = write_splits(tmp_path, images, "ab")
    monkeypatch.delitem(sys.modules, "stages.data.feed.recolor", raising=False)
    feed = MemoryFeed(FeedPlan(data, Augmentation(policy="trivial"), 4, torch.device("cpu")))
    before = fingerprint("train_proxy", {}, tmp_path)
    list(feed.epoch(0))
    assert fingerprint("train_proxy", {}, tmp_path) == before


def test_settings_and_data_count(tmp_path):
    manifest, images = tmp_path / "manifest.json", tmp_path / "images.npy"
    manifest.write_text("{}")
    settings = {"epochs": 3, "nested": {"a": 1, "b": [1.5, None, "x"]}}

    def now(stage: str = "distill", **changed: Any) -> str:
        return fingerprint(stage, settings | changed, tmp_path)

    plain = now()
    assert len(plain) == 64
    turned = {"nested": {"b": [1.5, None, "x"], "a": 1}, "epochs": 3}
    assert fingerprint("distill", turned, tmp_path) == plain
    images.write_bytes(b"the manifest has its sum")
    assert now() == plain
    others = {now("train_teacher"), now(epochs=4), now(nested={"a": 1, "b": [1.5, None, "y"]})}
    manifest.write_text("{} ")
    assert len({plain, now(), *others}) == 5
