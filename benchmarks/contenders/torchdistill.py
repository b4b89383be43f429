"""torchdistill's distillation box and loss around the project's networks.

Its package has no loop over batches; ``train`` makes the same calls per batch as its example
``image_classification.py``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import RandomSampler
from torchdistill.core.distillation import get_distillation_box
from torchdistill.misc.log import MetricLogger, SmoothedValue
from torchvision import datasets, transforms

from benchmarks.contenders.peer_data import PacedLoader, serve_images
from benchmarks.networks import load_pair
from benchmarks.worker import Clock, Task


def train(task: Task, clock: Clock) -> None:
    """Train with its CIFAR-100 transforms; ``task.options`` has ``workers``."""
    serve_images(Path(task.data))
    normalize = transforms.Normalize((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), normalize]
    train_sets = {"train": datasets.CIFAR100(transform=transforms.Compose(steps))}
    teacher, student = load_pair(task)
    device = torch.device("cpu")
    how = {"device_ids": None, "distributed": False, "lr_factor": 1}
    box = get_distillation_box(
        teacher.eval(), student, train_sets, _configuration(task), device, **how
    )
    box.pre_epoch_process(epoch=0)
    log = MetricLogger(delimiter="  ")
    log.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
    log.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
    loader = PacedLoader(box.train_data_loader, clock)
    for images, labels, supplement in log.log_every(loader, 100, "Epoch: [0]"):
        start = time.time()
        images, labels = images.to(device), labels.to(device)  # noqa: PLW2901
        loss = box.forward_process(images, labels, supplement)
        box.post_forward_process(loss=loss)
        log.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
        log.meters["img/s"].update(len(images) / (time.time() - start))


def _configuration(task: Task) -> dict[str, Any]:
    logits = {"student_module_path": ".", "student_module_io": "output"}
    logits |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    weights = {"temperature": 4.0, "alpha": 0.1, "beta": 0.9, "reduction": "batchmean"}
    loss = {"criterion": {"key": "KDLoss", "kwargs": logits | weights}, "weight": 1.0}
    loader = {"batch_size": task.batch_size, "num_workers": task.options["workers"]}
    sampler = {"class_or_func": RandomSampler}
    return {
        "num_epochs": 1,
        "train_data_loader": {"dataset_id": "train", "sampler": sampler, "kwargs": loader},
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": loss}}},
    }
