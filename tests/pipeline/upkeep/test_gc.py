"""What `ackd gc` says and removes, of real checkpoints and a real store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pipeline import cli
from pipeline.upkeep.gc import Item, find, remove
from stages.checkpoints.checkpoint import Checkpoints
from stages.training.logits_store import LogitsStore
from tests.pipeline.conftest import ROOT

DAY = 86400.0
TRAINING = """\
import sys, time, torch
from stages.checkpoints.checkpoint import Checkpoints
from stages.training.logits_store import LogitsStore
checkpoints = Checkpoints("distill", "a" * 64)
checkpoints.save({"weights": torch.zeros(100)})
store = LogitsStore({"teacher": 1}, 4, 3)
store.write(0, torch.zeros(4, 3, dtype=torch.float16))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACKD_LOGITS", "logits")
    for name in ("dvc.yaml", "params.yaml"):
        Path(name).touch()


def end(user: Checkpoints | LogitsStore) -> Path:
    """Its folder, as when the process that used it has ended."""
    assert user._held is not None
    user._held.close()
    return user.folder


def interrupted(number: int = 0) -> Path:
    checkpoints = Checkpoints("distill", f"{number:064x}")
    checkpoints.save({"weights": torch.zeros(100)})
    return end(checkpoints)


def kept_logits() -> Path:
    store = LogitsStore({"teacher": 1}, 4, 3)
    store.write(0, torch.zeros(4, 3, dtype=torch.float16))
    return end(store)


def age(folder: Path, days: float) -> None:
    then = time.time() - days * DAY
    for path in folder.iterdir():
        os.utime(path, (then, then))


def paths(found: list[Item], stays: bool = False) -> set[Path]:
    return {item.path for item in found if item.stays == stays}


def test_what_has_lain_idle_goes_and_the_rest_stays():
    old, new, answers = interrupted(1), interrupted(2), kept_logits()
    age(old, 8)
    age(answers, 30)
    store = LogitsStore({"teacher": 1}, 4, 3)
    assert store.read(0) is not None
    end(store)
    assert not find(("logits",), 7)  # reading is a use
    age(answers, 9)
    checkpoint, logits = found = find(("checkpoints", "logits"), 7)
    assert paths(found) == {old, answers}
    assert checkpoint.bytes == sum(path.stat().st_size for path in old.iterdir()) > 400
    assert checkpoint.why == "distill was interrupted 8 days ago; without them it would begin anew"
    assert "last used 9 days ago" in logits.why
    assert sum(remove(item) for item in found) == checkpoint.bytes + logits.bytes
    assert not old.exists()
    assert not answers.exists()
    assert paths(find(("checkpoints",), 0)) == {new}


def test_a_training_that_goes_on_keeps_its_files():
    python, own = [sys.executable, "-c", TRAINING], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(python, env=own, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "ready\n"
        folders = [Path(".checkpoints/distill", "a" * 64), next(Path("logits").iterdir())]
        for folder in folders:
            age(folder, 30)
        found = find(("checkpoints", "logits"), 0)
        training.kill()
    assert [(item.path, item.stays) for item in found] == [(path, True) for path in folders]
    assert paths(find(("checkpoints", "logits"), 0)) == set(folders)


def test_one_that_begins_between_finding_and_removing_keeps_its_files():
    folder = interrupted()
    (item,) = find(("checkpoints",), 0)
    again = Checkpoints("distill", f"{0:064x}")
    assert again.load() is not None
    assert remove(item) == 0
    assert folder.is_dir()
    again.clear()
    assert not Path(".checkpoints").exists()


def test_links_and_what_others_put_there_are_left_alone(tmp_path):
    outside = tmp_path / "outside" / ("b" * 64)
    outside.mkdir(parents=True)
    (outside / "00000000.checkpoint").write_text("precious")
    Path(".checkpoints/distill").mkdir(parents=True)
    Path(".checkpoints/distill", "b" * 64).symlink_to(outside)
    Path(".checkpoints/linked").symlink_to(outside.parent)
    Path("logits").mkdir()
    Path("logits", "b" * 64).symlink_to(outside)
    own = interrupted(3)
    (own / "notes.txt").write_text("mine")
    within = interrupted(4)
    (within / "00000007.checkpoint").symlink_to(outside / "00000000.checkpoint")
    Path(".checkpoints/distill/named").mkdir()
    assert paths(find(("checkpoints", "logits"), 0)) == set()
    assert (outside / "00000000.checkpoint").read_text() == "precious"


def test_the_command_says_first_and_removes_only_when_told():
    folder = interrupted()
    age(folder, 8)

    def gc(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, ["gc", "--only", "checkpoints", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    said = gc()
    assert f"checkpoints: {folder}, " in said
    assert "nothing was removed; `--yes` removes it" in said
    assert folder.is_dir()
    assert "nothing to free" in gc("--older-than", "9")
    assert " freed" in gc("--yes")
    assert not folder.exists()
