"""Two processes equal one that accumulates the same parts of each batch."""

import copy
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
import torch

import models
from models import distillers
from models.distillers.base import Distiller, Setting, TeacherOutputs
from models.networks.checkpoint import load_network, load_state
from stages import launch
from stages.data.arrays import load_data
from stages.data.feed.base import FeedPlan, Shard
from stages.data.feed.memory import MemoryFeed
from stages.params import Params
from stages.sections.data import Augmentation
from stages.training.logits_store import round_logits
from stages.training.optimizer import build_optimizer
from tests.processes import assert_gone, children, linux
from tests.setting import make_setting
from tests.stages.conftest import made_once, write_distillable, write_unlabeled
from tests.stages.test_methods import METHODS
from tests.stages.training import two_processes
from tests.stages.training.test_loop import OPTIONS
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[3]
PROCESSES = 2
SHORT = {"epochs": 2, "batch_size": 14, "learning_rate": 0.02}
CONTENT: dict[str, Any] = {
    "augmentation": {"crop_padding": 2, "horizontal_flip": True},
    "training": {"precision": "fp32"},
    "teacher": SHORT | {"network": "resnet14"},
    # 48 images in batches of 14, 14, 14 and 6; each process sees half of each.
    "distill": SHORT | {"network": "resnet8"},
}


def start(module: str, root: Path, python: str = sys.executable) -> Popen[str]:
    env = os.environ | {"ACKD_PROCESSES": str(PROCESSES), "PYTHONPATH": str(ROOT)}
    command = [python, "-m", module]
    return Popen(command, cwd=root, env=env, stdout=PIPE, stderr=PIPE, text=True)


@pytest.fixture(scope="session")
def trained(tiny_origin):
    """The results of a launch of ``two_processes``; read-only."""

    def make() -> None:
        write_distillable(tiny_origin)
        write_unlabeled()
        shutil.copytree("artifacts/proxy", "artifacts/teacher")
        Path("reports/teacher").mkdir(parents=True)
        Path("reports/teacher/metrics.json").write_text('{"val_accuracy": 0.5}')
        Path("params.yaml").write_text(json.dumps(CONTENT))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("ACKD_LOGITS", "logits")
            process = start(two_processes.__name__, Path(), str(warm_python()))
        _, errors = process.communicate()
        assert process.returncode == 0, errors

    return made_once("two-processes", make)


class Accumulated:
    """The reference: a copy of everything per part of the batch, with averaged gradients."""

    def __init__(self, method: str, root: Path, unlabeled: int) -> None:
        data = load_data(root / "artifacts/data")
        self.settings = Params.model_validate(CONTENT).distill
        self.teacher = load_network(root / "artifacts/teacher/model.safetensors")
        torch.manual_seed(self.settings.seed)
        student = models.build("resnet8", 3)
        first = distillers.build(method, student, make_setting(batch_size=7), OPTIONS[method])
        self.copies: list[Distiller] = [first, copy.deepcopy(first)]
        augmentation, cpu = Augmentation(**CONTENT["augmentation"]), torch.device("cpu")
        one = FeedPlan(data, augmentation, 14, cpu, 0, PROCESSES, unlabeled=unlabeled)
        self.feeds = [MemoryFeed(plan) for plan in (one, replace(one, process=1))]
        steps = self.feeds[0].steps
        self.optimizers = [build_optimizer(c, self.settings, steps) for c in self.copies]
        self.adversaries = [c.adversary_optimizer() for c in self.copies if c.adversary]
        self.losses: list[float] = []  # the mean of each epoch

    def run(self) -> Distiller:
        for epoch in range(self.settings.epochs):
            for distiller in self.copies:
                distiller.train()
            parts = zip(*(feed.epoch(epoch) for feed in self.feeds), strict=True)
            self.losses.append(sum(map(self._step, parts)) / self.feeds[0].seen)
            with torch.no_grad():
                self._average(lambda c: [b for b in c.buffers() if b.is_floating_point()])
        return self.copies[0]

    def _step(self, shards: tuple[Shard, ...]) -> float:
        """Run a step and return the sum of the samples' losses."""
        outputs = [c(s.batch.images) for c, s in zip(self.copies, shards, strict=True)]
        if self.adversaries:
            for distiller, output, shard in zip(self.copies, outputs, shards, strict=True):
                distiller.adversary.zero_grad()
                distiller.adversary.requires_grad_(True)
                (distiller.adversary_loss(output) * shard.weight).backward()
            self._average(lambda c: [p.grad for p in c.adversary.parameters()])
            for distiller, adversary in zip(self.copies, self.adversaries, strict=True):
                adversary.step()
                distiller.adversary.requires_grad_(False)
        seen = 0.0
        for distiller, output, shard in zip(self.copies, outputs, shards, strict=True):
            with torch.no_grad():
                logits = round_logits(self.teacher(shard.batch.images)).float()
            total = distiller.losses(output, shard.batch, TeacherOutputs(logits))["total"]
            for name, parameter in distiller.named_parameters():
                if "discrim" not in name:
                    parameter.grad = None
            (total * shard.weight).backward()
            seen += total.item() * len(shard.batch.labels)
        self._average(lambda c: [p.grad for n, p in c.named_parameters() if "discrim" not in n])
        for optimizer, schedule in self.optimizers:
            optimizer.step()
            schedule.step()
        return seen

    def _average(self, tensors_of: Any) -> None:
        """Replace both copies' tensors by their mean."""
        for pair in zip(*(list(tensors_of(c)) for c in self.copies), strict=True):
            mean = sum(pair) / PROCESSES
            for tensor in pair:
                tensor.copy_(mean)


@pytest.fixture
def _one_thread():
    """Use as many threads as the processes; others sum in another order, and errors would grow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(
    ("name", "method", "unlabeled"), [("kd", "kd", 0), ("ackd", "ackd", 0), ("unlabeled", "kd", 5)]
)
def test_two_processes_are_one_that_accumulates(trained, name, method, unlabeled):
    state, _ = load_state(trained / name / "artifacts/model.safetensors")
    reference = Accumulated(method, trained, unlabeled)
    wanted = reference.run().state_dict()
    assert set(state) == set(wanted)
    for key, tensor in wanted.items():
        torch.testing.assert_close(state[key], tensor, rtol=2e-3, atol=2e-4, msg=key)
    rows = (trained / name / "reports/history.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss/total")
    measured = [float(row.split(",")[column]) for row in rows[1:]]
    assert measured == pytest.approx(reference.losses, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_what_methods_keep_is_right_in_two_processes(trained, method):
    state, header = load_state(trained / method / "artifacts/model.safetensors")
    # The layout equals that of one process with a process's part of the batch.
    labels = torch.from_numpy(load_data(trained / "artifacts/data").labels("train"))
    teacher = load_network(trained / "artifacts/teacher/model.safetensors")
    setting = Setting(teacher, 16, labels, batch_size=7, epochs=2)
    options = Params.model_validate({"distill": {"method": method}}).distill.options()
    alone = distillers.build(method, models.build("resnet8", 3), setting, options)
    layout = alone.state_dict()
    assert {k: t.shape for k, t in state.items()} == {k: t.shape for k, t in layout.items()}
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert (header["method"], header["teacher"]["network"]) == (method, "resnet14")
    assert header["buffers"] == [name for name, _ in alone.named_buffers()]
    environment = json.loads((trained / method / "reports/environment.json").read_text())
    assert environment["processes"] == PROCESSES
    if method == "crd":  # samples seen by either process are in memory
        for side in ("student", "teacher"):
            lengths = state[f"memory_{side}.embeddings"].norm(dim=1)
            torch.testing.assert_close(lengths, torch.ones(48))


@pytest.mark.parametrize("proxy", two_processes.PROXIES)
def test_proxies_are_trained_by_two_processes(trained, proxy):
    metrics = json.loads((trained / proxy / "reports/metrics.json").read_text())
    network = load_network(trained / proxy / "artifacts/model.safetensors")
    assert metrics["method"] == proxy
    assert network.name == metrics["network"] == metrics["chain"][-1]["network"]


# A launcher whose workers sleep.
IDLE = """
import time
from stages.launch import run_training_stage

def main(params):
    print("at work", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    run_training_stage(main, "idle")
"""


def workers_of(launcher: Popen[str], said: str) -> list[int]:
    """Return the launcher's workers after the first one has printed this."""
    assert any(said in line for line in launcher.stdout)
    workers = children(launcher.pid)
    assert len(workers) == PROCESSES
    return workers


@pytest.fixture
def idle(distillable):
    (distillable / "idle.py").write_text(IDLE)
    (distillable / "params.yaml").write_text(json.dumps(CONTENT))
    return start("idle", distillable)


@linux
def test_a_worker_that_is_killed_while_it_trains_is_named_before_those_who_miss_it(distillable):
    content = CONTENT | {"distill": CONTENT["distill"] | {"method": "kd", "epochs": 100_000}}
    (distillable / "params.yaml").write_text(json.dumps(content))
    launcher = start("stages.distill", distillable)
    workers = workers_of(launcher, "epoch 3/")
    os.kill(workers[1], signal.SIGKILL)
    _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    last = errors.splitlines()[-1]
    assert last.startswith("error: process 1 of 2 was killed by SIGKILL, and the others")
    assert_gone(*workers, seconds=0)
    assert not (distillable / "artifacts/distilled").exists()


@linux
def test_workers_do_not_outlive_their_launcher(idle):
    workers = workers_of(idle, "at work")
    idle.kill()
    idle.communicate()
    assert_gone(*workers)


@pytest.mark.parametrize("text", ["two", "0", "-1"])
def test_an_invalid_number_of_processes_is_refused(monkeypatch, text):
    monkeypatch.setenv("ACKD_PROCESSES", text)
    sentence = f"^error: ACKD_PROCESSES is '{text}', expected a number of processes, at least 1$"
    with pytest.raises(SystemExit, match=sentence):
        launch.run_training_stage(lambda _: None, "idle")


@pytest.mark.parametrize(("launcher", "checked"), [("", [3]), ("1", [])])
def test_torchruns_processes_check_their_settings(monkeypatch, launcher, checked):
    seen: list[int] = []
    monkeypatch.setattr(launch, "check_training", lambda _, processes: seen.append(processes))
    monkeypatch.setattr(launch, "run_stage", lambda stage: stage(Params()))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    if launcher:
        monkeypatch.setenv("ACKD_LAUNCHER", launcher)
    launch.run_training_stage(lambda _: seen.append(0), "idle")
    assert seen == [*checked, 0]
