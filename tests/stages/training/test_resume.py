"""A training that is interrupted, wherever, ends in the weights of one that was not."""

import csv
import itertools
import json
import os
import pkgutil
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from stages import distill
from stages.params import load_params
from tests.disk import small_disk
from tests.forked import Child, forked
from tests.stages.conftest import write_unlabeled

STUDENT = Path("artifacts/distilled/model.safetensors")
HISTORY = Path("reports/distill/history.csv")
RESUMED = "an interrupted training goes on at"
# What a training is about to call for which time when it is killed. A checkpoint is written after
# every step, and the teacher's logits after every epoch.
KILLS = [
    ("stages.checkpoints.checkpoint.seal", 3),  # an empty partial
    ("stages.checkpoints.durable.os.fsync", 5),  # a whole one
    ("stages.checkpoints.durable.os.fsync", 10),  # the new checkpoint beside the two older ones
    ("stages.training.logits_store.seal", 1),
    ("stages.display.Display.step", 7),
    ("stages.distill.save_state", 1),
    ("stages.checkpoints.checkpoint.Checkpoints.clear", 1),
]


def train(function: str = "", call: int = 0) -> None:
    """The stage, in a process of its own, until it is to call the function for so many times."""
    if function:
        place, _, name = function.rpartition(".")
        owner = pkgutil.resolve_name(place)
        real, calls = getattr(owner, name), itertools.count(1)

        def counted(*given: Any, **named: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **named)

        setattr(owner, name, counted)
    distill.main(load_params())


def write_params(
    augmentation: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    content = {
        "data": data or {},
        "augmentation": {"crop_padding": 1} | (augmentation or {}),
        "training": {"precision": "fp32", "checkpoint_minutes": 1e-9},
        "distill": {"method": "kd", "epochs": 12, "batch_size": 10, "learning_rate": 0.01}
        | settings,
    }
    Path("params.yaml").write_text(json.dumps(content))


def finish() -> str:
    with forked(train) as child:
        printed = child.finish()
    assert child.process.exitcode == 0, printed
    return printed


def killed(child: Child) -> str:
    printed = child.finish()
    assert child.process.exitcode == -signal.SIGKILL, printed
    return printed


def untimed() -> list[dict[str, str]]:
    """The history without what another run measures otherwise."""
    rows = csv.DictReader(HISTORY.read_text().splitlines())
    timed = {"seconds", "images_per_second"}
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


@pytest.mark.usefixtures("distillable")
def test_wherever_it_is_killed_the_weights_are_the_same():
    write_params()
    finish()
    wanted, history = STUDENT.read_bytes(), untimed()
    assert not Path(".checkpoints").exists(), "checkpoints vanish on success"
    shutil.rmtree(STUDENT.parent)
    shutil.rmtree("logits")

    moments, printed = random.Random(0), ""
    for _ in range(2):
        with forked(train) as child:
            for line in child.output:
                printed += line
                if "kd: epoch" in line:
                    break
            time.sleep(moments.uniform(0, 0.1))
            child.process.kill()
            printed += killed(child)
    for function, call in KILLS:
        assert not STUDENT.exists()
        with forked(train, function, call) as child:
            printed += killed(child)
    assert printed.count(RESUMED) == 1 + len(KILLS)
    assert "damaged" not in printed
    assert STUDENT.read_bytes() == wanted  # and all that is left to do is to tidy up

    write_params(temperature=2.0, epochs=1)
    assert RESUMED not in finish(), "another parameter begins anew"
    write_params()
    assert RESUMED in finish()
    assert STUDENT.read_bytes() == wanted
    assert untimed() == history


RECIPE = {"optimizer": "adamw", "schedule": "cosine", "warmup": 0.1, "ema": 0.9}
RECIPE |= {"clip_gradient": 1.0, "label_smoothing": 0.1, "epochs": 2}


@pytest.mark.usefixtures("distillable")
def test_every_part_of_a_recipe_is_resumed():
    mixing = {"mixup": 0.2, "cutmix": 1.0, "policy": "trivial", "erasing": 0.25}
    write_unlabeled(Path("artifacts/data"))
    images = {"unlabeled": "digits", "sampling": "balanced", "class_weights": "balanced"}
    write_params(mixing, images, **RECIPE)
    finish()
    wanted, history = STUDENT.read_bytes(), untimed()
    for store in ("cold", "warm"):
        shutil.rmtree(STUDENT.parent)
        if store == "cold":
            shutil.rmtree("logits")
        with forked(train, "stages.display.Display.step", 8) as child:
            killed(child)
        assert RESUMED in finish()
        assert STUDENT.read_bytes() == wanted
        assert untimed() == history


def test_a_full_disk_stops_neither_the_training_nor_its_resumption(distillable, monkeypatch):
    write_params(epochs=3)
    finish()
    wanted = STUDENT.read_bytes()
    with small_disk(distillable, "size=5m") as disk:  # room for a few of the checkpoints
        (disk / "ballast").write_bytes(bytes(4_900_000))
        monkeypatch.setenv("ACKD_CHECKPOINTS", str(disk))
        assert "No space left on device" in finish()
    assert STUDENT.read_bytes() == wanted
