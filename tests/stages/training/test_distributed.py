"""Two processes give what one would that accumulates the same parts of each batch."""

import copy
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from models import distillers
from models.checkpoint import load_network, load_state, save_network
from models.distillers.base import Distiller, Knowledge, Setting
from stages.data.arrays import DATA_FOLDER, load_data
from stages.data.feed import MemoryFeed
from stages.params import Params
from stages.sections.data import Augmentation
from stages.training.logits_store import round_logits
from stages.training.optimizer import build_optimizer
from tests.setting import make_setting
from tests.stages.training.test_loop import OPTIONS

PROCESSES = 2
CONTENT: dict[str, Any] = {
    "augmentation": {"crop_padding": 2, "horizontal_flip": True},
    "training": {"precision": "fp32"},
    # 48 images: batches of 14, 14, 14 and 6, of which each process sees half.
    "distill": {"epochs": 3, "batch_size": 14, "learning_rate": 0.02, "network": "resnet8"},
}
TIMED = {"seconds", "images_per_second"}


@pytest.fixture
def root(tiny_origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which a student can be distilled."""
    shutil.copytree(tiny_origin / "artifacts/data", tmp_path / "artifacts/data")
    torch.manual_seed(3)
    (tmp_path / "artifacts/proxy").mkdir()
    save_network(tmp_path / "artifacts/proxy/model.safetensors", models.build("resnet14", 3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACKD_LOGITS", str(tmp_path / "logits"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def write_params(root: Path, **distill: Any) -> None:
    content = CONTENT | {"distill": CONTENT["distill"] | distill}
    (root / "params.yaml").write_text(json.dumps(content))


def distill(root: Path, processes: int, **more: str) -> subprocess.CompletedProcess[str]:
    return run("distill", root, processes, **more)


def run(stage: str, root: Path, processes: int, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=root,
        env={**os.environ, "ACKD_PROCESSES": str(processes)} | more,
        capture_output=True,
        text=True,
        check=False,
    )


class Accumulated:
    """The reference: a copy of everything for each part of the batch, gradients averaged by hand.

    The copies run in threads, because the discriminators' step lies within the forward pass and
    needs the other part's gradient.
    """

    def __init__(self, method: str) -> None:
        self.data = load_data(DATA_FOLDER)
        self.settings = Params.model_validate(CONTENT).distill
        self.augmentation = Augmentation(**CONTENT["augmentation"])
        self.teacher = load_network(Path("artifacts/proxy/model.safetensors"))
        torch.manual_seed(self.settings.seed)
        student = models.build("resnet8", 3)
        first = distillers.build(method, student, make_setting(batch_size=7), OPTIONS[method])
        self.copies: list[Distiller] = [first, copy.deepcopy(first)]
        self.barrier = threading.Barrier(PROCESSES)
        self.hashes: list[set[str]] = [set(), set()]
        self.losses: list[float] = []
        self.errors: list[BaseException] = []

    def run(self) -> Distiller:
        threads = [
            threading.Thread(target=self._guarded, args=(rank,)) for rank in range(PROCESSES)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]
        return self.copies[0]

    def _guarded(self, rank: int) -> None:
        try:
            self._run_part(rank)
        except BaseException as error:
            self.errors.append(error)
            self.barrier.abort()

    def _average(self, tensors_of: Any) -> None:
        """Both copies' tensors become their mean; called by both threads."""
        if self.barrier.wait() == 0:
            for pair in zip(*(list(tensors_of(c)) for c in self.copies), strict=True):
                mean = sum(pair) / PROCESSES
                for tensor in pair:
                    tensor.copy_(mean)
        self.barrier.wait()

    def _run_part(self, rank: int) -> None:
        distiller = self.copies[rank]
        device = torch.device("cpu")
        feed = MemoryFeed(self.data, self.augmentation, 14, device, rank, PROCESSES)
        adversary = distiller.adversary_optimizer()
        apart = {id(p) for g in adversary.param_groups for p in g["params"]} if adversary else set()
        own = [p for p in distiller.parameters() if id(p) not in apart]
        optimizer, schedule = build_optimizer(own, self.settings, feed.steps)

        def step(loss: Tensor) -> None:
            adversary.zero_grad()
            (loss * share.weight).backward()
            self._average(lambda c: (p.grad for p in c.discriminators.parameters()))
            adversary.step()

        if adversary:
            distiller.step_adversary = step
        for epoch in range(self.settings.epochs):
            distiller.train()
            mean = 0.0
            for share in feed.epoch(epoch):
                for image in share.batch.images:
                    self.hashes[rank].add(hashlib.sha256(image.numpy().tobytes()).hexdigest())
                with torch.no_grad():
                    logits = round_logits(self.teacher(share.batch.images)).float()
                total = distiller(share.batch, Knowledge(logits))["total"]
                optimizer.zero_grad()
                (total * share.weight).backward()
                ids = apart
                self._average(
                    lambda c: [p.grad for n, p in c.named_parameters() if "discrim" not in n]
                )
                assert ids == apart
                optimizer.step()
                schedule.step()
                mean += total.item() * len(share.batch.labels)
            self.losses.append(mean / len(feed))
            with torch.no_grad():
                self._average(lambda c: [b for b in c.buffers() if b.is_floating_point()])


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """As many threads as the processes have: others sum in another order, which training widens."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("method", ["kd", "ackd"])
def test_two_processes_are_one_that_accumulates(root: Path, method: str) -> None:
    write_params(root, method=method)
    done = distill(root, PROCESSES)
    assert done.returncode == 0, done.stderr
    state, _ = load_state(root / "artifacts/distilled/model.safetensors")

    reference = Accumulated(method)
    wanted = reference.run().state_dict()
    assert set(state) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(state[name], tensor, rtol=2e-3, atol=2e-4, msg=name)
    # Both parts' mean losses of an epoch, one after the other as the threads came to them.
    rows = (root / "reports/distill/history.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss/total")
    measured = [float(row.split(",")[column]) for row in rows[1:]]
    pairs = zip(reference.losses[::2], reference.losses[1::2], strict=True)
    assert measured == pytest.approx([sum(pair) for pair in pairs], rel=1e-3)


def test_one_and_two_processes_see_the_same_images_and_write_the_same_files(root: Path) -> None:
    write_params(root, method="kd")
    layouts, headers = [], []
    for processes in (1, 2):
        done = distill(root, processes)
        assert done.returncode == 0, done.stderr
        state, header = load_state(root / "artifacts/distilled/model.safetensors")
        layouts.append({name: tensor.shape for name, tensor in state.items()})
        headers.append(header)
        (root / "artifacts/distilled/model.safetensors").unlink()
    assert layouts[0] == layouts[1]
    assert headers[0] == headers[1]
    assert json.loads((root / "reports/distill/environment.json").read_text())["processes"] == 2

    data = load_data(DATA_FOLDER)
    augmentation = Augmentation(**CONTENT["augmentation"])
    device = torch.device("cpu")

    def seen(rank: int, processes: int) -> list[str]:
        feed = MemoryFeed(data, augmentation, 14, device, rank, processes)
        images = [
            image for epoch in (0, 1) for share in feed.epoch(epoch) for image in share.batch.images
        ]
        return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]

    assert sorted(seen(0, 2) + seen(1, 2)) == sorted(seen(0, 1))


@pytest.mark.parametrize("method", ["scratch", "at", "sp", "cc", "vid", "crd", "semckd", "one"])
def test_what_methods_keep_is_right_in_two_processes(root: Path, method: str) -> None:
    write_params(root, method=method)
    done = distill(root, PROCESSES)
    assert done.returncode == 0, done.stderr
    state, _ = load_state(root / "artifacts/distilled/model.safetensors")
    # The layout is that of one process with a process's share of the batch.
    labels = torch.from_numpy(load_data(DATA_FOLDER).split("train").labels)
    teacher = load_network(root / "artifacts/proxy/model.safetensors")
    setting = Setting(teacher, 16, labels, batch_size=7, epochs=3)
    settings = Params.model_validate(CONTENT | {"distill": {"method": method}}).distill
    options = {} if method == "scratch" else getattr(settings, method).model_dump()
    if method != "scratch":
        options = {"temperature": settings.temperature} | options
    alone = distillers.build(method, models.build("resnet8", 3), setting, options).state_dict()
    assert {k: t.shape for k, t in state.items()} == {k: t.shape for k, t in alone.items()}
    assert all(tensor.isfinite().all() for tensor in state.values())
    if method == "crd":  # every sample was seen, by whichever process, and is remembered
        for side in ("student", "teacher"):
            lengths = state[f"memory_{side}.embeddings"].norm(dim=1)
            torch.testing.assert_close(lengths, torch.ones(48))


@pytest.mark.parametrize(
    "proxy",
    [
        {"method": "early_stopped", "epochs": 1},
        {"method": "assistants", "candidates": ["resnet8", "resnet14", "resnet8x4"]},
    ],
)
def test_proxies_are_trained_by_two_processes(root: Path, proxy: dict[str, Any]) -> None:
    short = {"epochs": 2, "batch_size": 14, "learning_rate": 0.02}
    content = CONTENT | {"teacher": short | {"network": "resnet14"}, "proxy": proxy}
    (root / "params.yaml").write_text(json.dumps(content))
    (root / "artifacts/teacher").mkdir()
    shutil.copy(root / "artifacts/proxy/model.safetensors", root / "artifacts/teacher")
    (root / "reports/teacher").mkdir(parents=True)
    (root / "reports/teacher/metrics.json").write_text('{"val_accuracy": 0.5}')
    done = run("train_proxy", root, PROCESSES)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((root / "reports/proxy/metrics.json").read_text())
    network = load_network(root / "artifacts/proxy/model.safetensors")
    assert network.name == metrics["network"] == metrics["chain"][-1]["network"]


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_the_run_in_a_sentence(root: Path, victim: int) -> None:
    write_params(root, method="kd", epochs=100_000)
    launcher = subprocess.Popen(
        [sys.executable, "-m", "stages.distill"],
        env={**os.environ, "ACKD_PROCESSES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if "epoch 3/" in line:
            break
    workers = children(launcher.pid)
    assert len(workers) == PROCESSES
    os.kill(workers[victim], signal.SIGKILL)
    _, stderr = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    last = stderr.splitlines()[-1]
    assert last.startswith(f"error: process {victim} of 2 was killed by SIGKILL, and the others")
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert not (root / "artifacts/distilled").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
def test_workers_do_not_outlive_their_launcher(root: Path) -> None:
    write_params(root, method="kd", epochs=100_000)
    launcher = subprocess.Popen(
        [sys.executable, "-m", "stages.distill"],
        env={**os.environ, "ACKD_PROCESSES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if "epoch 1/" in line:
            break
    workers = children(launcher.pid)
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end, "a worker goes on alone"
        time.sleep(0.1)


@pytest.mark.parametrize("text", ["two", "0", "-1"])
def test_a_number_of_processes_that_is_none_is_refused(root: Path, text: str) -> None:
    write_params(root)
    done = distill(root, 1, ACKD_PROCESSES=text)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"error: ACKD_PROCESSES is {text!r}, expected a number of processes, 1 or more\n"
    )
