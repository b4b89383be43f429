"""RepDistiller's own loop, loader, networks and losses, from a checkout of it.

Its packages ``models`` and ``dataset`` are imported from there: nothing here may import ours.
"""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import torch
from torch import nn

from benchmarks.contenders.peer_data import PacedLoader, serve_images
from benchmarks.worker import Clock, Task

#: Its classification weight and KD weight of ``scripts/run_cifar_distill.sh``.
_OPTIONS = Namespace(distill="kd", gamma=0.1, alpha=0.9, beta=0.0, kd_T=4.0, print_freq=100)


def train(task: Task, clock: Clock) -> None:
    """Train as its ``train_student.py`` does; ``task.options``: ``checkout`` and ``workers``."""
    sys.path.insert(0, task.options["checkout"])
    serve_images(task)
    networks = importlib.import_module("models").model_dict
    build_loaders = importlib.import_module("dataset.cifar100").get_cifar100_dataloaders
    divergence = importlib.import_module("distiller_zoo").DistillKL
    train_distill = importlib.import_module("helper.loops").train_distill

    workers = task.options["workers"]
    loader, _, _ = build_loaders(task.batch_size, num_workers=workers, is_instance=True)
    modules, criteria = nn.ModuleList(), nn.ModuleList()
    for name, role in ((task.student, "student"), (task.teacher, "teacher")):
        state = torch.load(Path(task.weights, f"{role}.pt"), weights_only=True)
        network = networks[name](num_classes=task.classes)
        network.load_state_dict(state)
        modules.append(network)
    criteria.extend([nn.CrossEntropyLoss(), divergence(_OPTIONS.kd_T), divergence(_OPTIONS.kd_T)])
    optimizer = torch.optim.SGD(modules[0].parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    train_distill(1, PacedLoader(loader, clock), modules, criteria, optimizer, _OPTIONS)
