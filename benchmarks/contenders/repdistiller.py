"""RepDistiller's own loop, loaders, networks and losses, imported from a checkout.

The checkout has packages ``models`` and ``dataset``, so this module must not import our ``models``.
``python -m benchmarks.contenders.repdistiller CHECKOUT`` runs a complete training for
``benchmarks.comparison``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.contenders.peer_data import PacedLoader, serve_images
from benchmarks.worker import Clock, Task

#: The options of ``scripts/run_cifar_distill.sh``, with the weights of classification and KD.
_OPTIONS = {"distill": "kd", "gamma": 0.1, "alpha": 0.9, "beta": 0.0, "print_freq": 100}
_SGD = {"momentum": 0.9, "weight_decay": 5e-4}
_TEMPERATURE = 4.0


def load(checkout: str, data: Path, batch_size: int, workers: int) -> tuple[Any, Any, Any]:
    """Return its network constructors by name, and loaders of the train and test images."""
    sys.path.insert(0, checkout)
    serve_images(data)
    loaders = importlib.import_module("dataset.cifar100").get_cifar100_dataloaders
    train, test, _ = loaders(batch_size, num_workers=workers, is_instance=True)
    return importlib.import_module("models").model_dict, train, test


def arguments(student: nn.Module, teacher: nn.Module, **options: Any) -> tuple[Any, ...]:
    """Return the arguments of its ``train_distill`` after epoch and loader, as its script does.

    Like that script, move the networks to the GPU if there is one, and enable cuDNN's autotuner.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = device == "cuda"
    kd = importlib.import_module("distiller_zoo").DistillKL(_TEMPERATURE)
    criteria = nn.ModuleList([nn.CrossEntropyLoss(), kd, kd])
    optimizer = torch.optim.SGD(student.parameters(), options["learning_rate"], **_SGD)  # type: ignore[arg-type]
    networks = nn.ModuleList([student, teacher]).to(device)
    return networks, criteria, optimizer, Namespace(**_OPTIONS, **options)


def train(task: Task, clock: Clock) -> None:
    """Train at the clock's pace; ``task.options`` has ``checkout`` and ``workers``."""
    workers = task.options["workers"]
    build, loader, _ = load(task.options["checkout"], Path(task.data), task.batch_size, workers)
    networks = []
    for name, role in ((task.student, "student"), (task.teacher, "teacher")):
        networks.append(build[name](num_classes=task.classes))
        state = torch.load(Path(task.weights, f"{role}.pt"), weights_only=True)
        networks[-1].load_state_dict(state)
    loops = importlib.import_module("helper.loops")
    loops.train_distill(1, PacedLoader(loader, clock), *arguments(*networks, learning_rate=0.05))


def main(checkout: str) -> None:
    """Train with the ``params.yaml`` of a study's folder, and write ``repdistiller.json``."""
    params, data = json.loads(Path("params.yaml").read_text()), Path("artifacts/data")
    distill = params["distill"]
    classes = len(json.loads((data / "manifest.json").read_text())["classes"])
    build, loader, test = load(checkout, data, distill["batch_size"], os.cpu_count() or 1)
    torch.manual_seed(distill["seed"])
    student = build[distill["network"]](num_classes=classes)
    teacher = build[params["teacher"]["network"]](num_classes=classes)
    teacher.load_state_dict(load_file("artifacts/proxy/model.safetensors"))
    rate, milestones = distill["learning_rate"], distill["milestones"]
    options = {"learning_rate": rate, "lr_decay_epochs": milestones, "lr_decay_rate": 0.1}
    given = arguments(student, teacher, **options)
    _, criteria, optimizer, options = given
    loops = importlib.import_module("helper.loops")
    for epoch in range(1, distill["epochs"] + 1):
        importlib.import_module("helper.util").adjust_learning_rate(epoch, options, optimizer)
        loops.train_distill(epoch, loader, *given)
    accuracy, *_ = loops.validate(test, student, criteria[0], options)
    Path("repdistiller.json").write_text(json.dumps({"accuracy": float(accuracy) / 100}))


if __name__ == "__main__":
    main(sys.argv[1])
