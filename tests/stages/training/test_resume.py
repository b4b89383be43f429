"""Trainings that are interrupted anywhere end with the weights of uninterrupted ones."""

import csv
import itertools
import json
import os
import pkgutil
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages import distill
from stages.checkpoints.checkpoint import Checkpoints
from stages.params import load_params
from stages.training.history import Progress
from stages.training.logits_store import made_by
from stages.training.resume import Resume
from tests.forked import Child, forked
from tests.stages.conftest import write_unlabeled

pytestmark = pytest.mark.usefixtures("distillable")
STUDENT = Path("artifacts/distilled/model.safetensors")
HISTORY = Path("reports/distill/history.csv")
RESUMED = "resuming an interrupted training at"
# The call, and its number, before which a training is killed. A checkpoint is written after every
# step, and the teacher's logits after every epoch.
KILLS = [
    ("stages.checkpoints.checkpoint.seal", 3),  # an empty partial
    ("stages.checkpoints.durable.os.fsync", 5),  # a complete one
    ("stages.checkpoints.durable.os.fsync", 10),  # the new checkpoint beside the two older ones
    ("stages.training.logits_store.seal", 1),
    ("stages.display.Display.step", 7),
    ("stages.distill.save_state", 1),
    ("stages.checkpoints.checkpoint.Checkpoints.clear", 1),
]


def train(function: str = "", call: int = 0) -> None:
    """Run the stage in a process, and kill it before a given call of the function."""
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
    augmentation: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **settings: Any
) -> None:
    content = {
        "data": data or {},
        "augmentation": {"crop_padding": 1} | (augmentation or {}),
        "training": {"precision": "fp32", "checkpoint_minutes": 1e-9},
        "distill": {"method": "kd", "epochs": 6, "batch_size": 10, "learning_rate": 0.01}
        | settings,
    }
    Path("params.yaml").write_text(json.dumps(content))


def finish() -> str:
    with forked(train) as child:
        printed = child.finish()
    assert child.exitcode == 0, printed
    return printed


def killed(child: Child) -> str:
    printed = child.finish()
    assert child.exitcode == -signal.SIGKILL, printed
    return printed


def untimed() -> list[dict[str, str]]:
    """Return the history without measured times."""
    rows = csv.DictReader(HISTORY.read_text().splitlines())
    timed = {"seconds", "images_per_second"}
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


def test_wherever_it_is_killed_the_weights_are_the_same():
    write_params()
    finish()
    wanted, history = STUDENT.read_bytes(), untimed()
    (key,) = Path("logits").glob("*/key.json")
    assert made_by().items() <= json.loads(key.read_text()).items()
    assert not Path(".checkpoints").exists(), "checkpoints vanish on success"
    shutil.rmtree(STUDENT.parent)
    shutil.rmtree("logits")

    printed = ""
    for function, call in KILLS:
        assert not STUDENT.exists()
        with forked(train, function, call) as child:
            printed += killed(child)
    assert printed.count(RESUMED) == len(KILLS) - 1
    assert f"{RESUMED} its end" in printed
    assert "damaged" not in printed
    assert STUDENT.read_bytes() == wanted  # only cleaning up remains

    write_params(temperature=2.0, epochs=1)
    assert RESUMED not in finish(), "another parameter begins anew"
    write_params()
    assert RESUMED in finish()
    assert STUDENT.read_bytes() == wanted
    assert untimed() == history


def test_each_process_gets_its_own_random_states(monkeypatch):
    class Process:
        is_main, device = True, SimpleNamespace(type="cuda")

        def __init__(self, index: int) -> None:
            self.accelerator = SimpleNamespace(scaler=None, process_index=index)

        def collect(self, own: dict[str, Any]) -> list[dict[str, Any]]:
            return [own, {"cpu": seeded(5), "cuda": torch.tensor([6])}]

    def seeded(seed: int) -> torch.Tensor:
        return torch.Generator().manual_seed(seed).get_state()

    restored: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: torch.tensor([4]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, _: restored.append(state))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        Resume({}, Process(0), Checkpoints("distill", "0" * 64)).save(Progress())
        for index, seed in enumerate((3, 5)):
            Resume({}, Process(index), Checkpoints("distill", "0" * 64)).load()
            assert torch.equal(torch.get_rng_state(), seeded(seed))
    assert torch.cat(restored).tolist() == [4, 6]


RECIPE = {"optimizer": "adamw", "schedule": "cosine", "warmup": 0.1, "ema": 0.9}
RECIPE |= {"clip_gradient": 1.0, "label_smoothing": 0.1, "epochs": 2}


def test_every_part_of_a_recipe_is_resumed():
    mixing = {"mixup": 0.2, "cutmix": 1.0, "policy": "trivial", "erasing": 0.25}
    write_unlabeled()
    images = {"unlabeled": "digits", "sampling": "balanced", "class_weights": "balanced"}
    write_params(mixing, images, **RECIPE)
    finish()
    wanted, history = STUDENT.read_bytes(), untimed()
    shutil.rmtree(STUDENT.parent)  # except the teacher's logits, which are read this time
    with forked(train, "stages.display.Display.step", 8) as child:
        killed(child)
    assert RESUMED in finish()
    assert STUDENT.read_bytes() == wanted
    assert untimed() == history
