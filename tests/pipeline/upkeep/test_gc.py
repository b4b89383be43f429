"""What `ackd gc` says and removes, of real checkpoints, a real store and a real DVC cache."""

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
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_has_lain_idle_goes_and_the_rest_stays() -> None:
    old, new, answers = interrupted(1), interrupted(2), kept_logits()
    age(old, 8)
    age(answers, 30)
    store = LogitsStore({"teacher": 1}, 4, 3)
    assert store.read(0) is not None
    end(store)
    assert not find(Path(), ("logits",), 7)  # reading is a use
    age(answers, 9)
    checkpoint, logits = found = find(Path(), ("checkpoints", "logits"), 7)
    assert paths(found) == {old, answers}
    assert checkpoint.bytes == sum(path.stat().st_size for path in old.iterdir()) > 400
    assert checkpoint.why == "distill was interrupted 8 days ago; without them it would begin anew"
    assert "last used 9 days ago" in logits.why
    assert sum(remove(Path(), item) for item in found) == checkpoint.bytes + logits.bytes
    assert not old.exists()
    assert not answers.exists()
    assert paths(find(Path(), ("checkpoints",), 0)) == {new}


def test_a_training_that_goes_on_keeps_its_files() -> None:
    python, own = [sys.executable, "-c", TRAINING], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(python, env=own, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "ready\n"
        folders = [Path(".checkpoints/distill", "a" * 64), next(Path("logits").iterdir())]
        for folder in folders:
            age(folder, 30)
        found = find(Path(), ("checkpoints", "logits"), 0)
        training.kill()
    assert [(item.path, item.stays) for item in found] == [(path, True) for path in folders]
    assert paths(find(Path(), ("checkpoints", "logits"), 0)) == set(folders)


def test_one_that_begins_between_finding_and_removing_keeps_its_files() -> None:
    folder = interrupted()
    (item,) = find(Path(), ("checkpoints",), 0)
    again = Checkpoints("distill", f"{0:064x}")
    assert again.load() is not None
    assert remove(Path(), item) == 0
    assert folder.is_dir()
    again.clear()
    assert not Path(".checkpoints").exists()


def test_links_and_what_others_put_there_are_left_alone(tmp_path: Path) -> None:
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
    Path("artifacts").mkdir()
    Path("artifacts/.link.999999999.partial").symlink_to(outside)
    assert paths(find(Path(), ("checkpoints", "logits", "temporary"), 0)) == set()
    assert (outside / "00000000.checkpoint").read_text() == "precious"


def test_half_written_files_go_when_their_writer_is_gone() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = Path(f"artifacts/.data.{dead.pid}.partial")
    folder.mkdir(parents=True)
    (folder / "images.npy").write_bytes(b"0" * 1000)
    Path("reports/teacher").mkdir(parents=True)
    file = Path(f"reports/teacher/.metrics.json.{dead.pid}.partial")
    file.write_text("{")
    alive = Path(f"reports/.summary.json.{os.getpid()}.partial")
    alive.write_text("{")
    found = find(Path(), ("temporary",), 0)
    assert paths(found) == {folder, file}
    assert sum(remove(Path(), item) for item in found) == 1001
    assert alive.exists()
    assert not folder.exists()


def test_a_killed_experiments_folder_goes_and_a_running_ones_stays(tmp_path: Path) -> None:
    left, running = (Path(".dvc/tmp/exps/standalone", name) for name in ("tmpa", "tmpb"))
    for folder in (left, running):
        folder.mkdir(parents=True)
        (folder / "params.yaml").write_text("x")
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=running, stdin=-1) as process:
        found = find(tmp_path, ("temporary",), 0)
        process.kill()
    assert paths(found) == {tmp_path / left}
    assert paths(found, stays=True) == {tmp_path / running}


def test_the_cache_loses_what_nothing_refers_to(project: Path, tmp_path: Path) -> None:
    def run(*command: str, place: Path = project) -> None:
        subprocess.run(command, cwd=place, check=True, capture_output=True)

    def make(text: str) -> None:
        (project / "source.txt").write_text(text)
        run(sys.executable, "-m", "dvc", "repro")

    (project / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: cp source.txt out.txt\n    deps: [source.txt]\n"
        "    outs: [out.txt]\n"
    )
    make("released\n")
    run("git", "add", ".")
    run("git", "commit", "--quiet", "-m", "One")
    run("git", "tag", "student@v1.0.0")
    make("an experiment\n")
    run(sys.executable, "-m", "dvc", "exp", "save", "--name", "kept")
    make("nobody's\n")
    make("the present one\n")
    run("git", "commit", "--quiet", "--all", "-m", "Two")
    cached = {path for path in (project / ".dvc/cache/files").rglob("*") if path.is_file()}
    (item,) = find(project, ("cache",), 0)
    assert item.bytes == len("nobody's\n")
    assert "1 objects that neither workspace" in item.why
    # A process that is at work may have made what nothing refers to yet, in a clone as well.
    clone = tmp_path.with_name(f"{tmp_path.name}-clone")
    run("git", "clone", "--quiet", ".", str(clone))
    (clone / ".dvc/config.local").write_text(f"[cache]\n    dir = {project}/.dvc/cache\n")
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=clone, stdin=-1) as process:
        (kept,) = find(project, ("cache",), 0)
        process.kill()
    assert kept.stays
    assert f"DVC is at work ({clone})" in kept.why
    lock = project / ".dvc/tmp/rwlock"
    lock.write_text(f'{{"write": {{"out.txt": {{"pid": {os.getpid()}, "cmd": "repro"}}}}}}')
    (kept,) = find(project, ("cache",), 0)
    assert "DVC is at work" in kept.why
    lock.unlink()
    assert remove(project, item) == item.bytes
    left = {path.read_text() for path in cached if path.exists()}
    assert left == {"released\n", "an experiment\n", "the present one\n"}
    # One that lies elsewhere may be others' too.
    (project / ".dvc/config").write_text(f"[cache]\n    dir = {project.parent}\n")
    (kept,) = find(project, ("cache",), 0)
    assert "other projects may share it" in kept.why


def test_the_command_says_first_and_removes_only_when_told() -> None:
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
