"""A training that is interrupted, wherever, ends in the weights of one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from models.checkpoint import save_network

KILLS = 25


@pytest.fixture
def root(tiny_origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which a student can be distilled."""
    shutil.copytree(tiny_origin / "artifacts/data", tmp_path / "artifacts/data")
    torch.manual_seed(3)
    (tmp_path / "artifacts/proxy").mkdir()
    save_network(tmp_path / "artifacts/proxy/model.safetensors", models.build("resnet8", 3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACKD_LOGITS", str(tmp_path / "logits"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def write_params(root: Path, minutes: float, **distill: Any) -> None:
    content = {
        "augmentation": {"crop_padding": 1},
        "training": {"precision": "fp32", "checkpoint_minutes": minutes},
        "distill": {"epochs": 200, "batch_size": 10, "learning_rate": 0.01} | distill,
    }
    (root / "params.yaml").write_text(json.dumps(content))


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stages.distill"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish() -> str:
    process = start()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def weights(root: Path) -> bytes:
    return (root / "artifacts/distilled/model.safetensors").read_bytes()


@pytest.mark.timeout(900)
def test_killed_at_random_moments_the_weights_are_the_same(root: Path) -> None:
    # A checkpoint after every step, so that many of the kills hit the writing of one.
    write_params(root, minutes=1e-9)
    finish()
    wanted = weights(root)
    history = (root / "reports/distill/history.csv").read_text()
    assert not list((root / ".checkpoints").rglob("*.*")), "checkpoints vanish on success"
    shutil.rmtree(root / "artifacts/distilled")

    moments = random.Random(0)
    resumed = 0
    for _ in range(KILLS):
        process = start()
        assert process.stdout is not None
        for line in process.stdout:
            resumed += "an interrupted training goes on at" in line
            if "kd: epoch" in line:
                break
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the training ended before it was killed"
        assert not (root / "artifacts/distilled").exists()
    assert resumed >= KILLS - 2
    assert "an interrupted training goes on at" in finish()
    assert weights(root) == wanted

    def untimed(text: str) -> list[list[str]]:
        rows = [line.split(",") for line in text.splitlines()]
        timed = [rows[0].index(name) for name in ("seconds", "images_per_second")]
        return [[cell for i, cell in enumerate(row) if i not in timed] for row in rows]

    assert untimed((root / "reports/distill/history.csv").read_text()) == untimed(history)


def test_another_parameter_begins_anew(root: Path) -> None:
    write_params(root, minutes=1e-9)
    process = start()
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 3/" in line:
            break
    process.kill()
    process.communicate()
    write_params(root, minutes=1e-9, temperature=2.0, epochs=2)
    assert "an interrupted training" not in finish()


def test_a_full_disk_stops_neither_the_training_nor_its_resumption(root: Path) -> None:
    disk = root / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    write_params(root, minutes=1e-9, epochs=4)
    finish()
    wanted = weights(root)
    size = "size=5m"  # room for a few of the checkpoints
    if subprocess.run([mount, "-t", "tmpfs", "-o", size, "tmpfs", disk], check=False).returncode:
        pytest.skip("a small disk could not be mounted here")
    try:
        (disk / "ballast").write_bytes(bytes(4_900_000))
        os.environ["ACKD_CHECKPOINTS"] = str(disk)
        output = finish()
    finally:
        os.environ.pop("ACKD_CHECKPOINTS", None)
        subprocess.run(["umount", disk], check=True)
    assert "space" in output
    assert weights(root) == wanted
