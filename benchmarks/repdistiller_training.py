"""TeacherOutputs distillation by RepDistiller's own loop, on the pipeline's images.

Its loop, its networks, its loss and its transforms are imported from a checkout; only what its
``train_student.py`` hard-codes (the data set's download, CUDA) is replaced.

Run by ``benchmarks.accuracy``: ``python -m benchmarks.repdistiller_training CHECKOUT WORK JSON``.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from stages.data.arrays import Images, load_data
from stages.files import write_json
from stages.machine import cores


class ImagesOf(Dataset[Any]):
    """(image, label), and the index where the loop wants it."""

    def __init__(self, split: Images, transform: Any, with_index: bool) -> None:
        self.split, self.transform, self.with_index = split, transform, with_index

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image = self.transform(Image.fromarray(self.split.images[[index]][0]))
        label = int(self.split.labels[index])
        return (image, label, index) if self.with_index else (image, label)


def main(checkout: Path, work: Path, settings: dict[str, Any]) -> None:
    """Write ``repdistiller-<seed>.json``; an interrupted run goes on after its last epoch."""
    # Its folder `models` bears the name of ours, of which only the data are needed here.
    data = load_data(work / "artifacts/data")
    teacher_state = _teacher_state(work)
    for name in [name for name in sys.modules if name.split(".")[0] == "models"]:
        del sys.modules[name]
    sys.path.insert(0, str(checkout))
    warnings.simplefilter("ignore")
    loops = importlib.import_module("helper.loops")
    util = importlib.import_module("helper.util")
    networks = importlib.import_module("models").model_dict
    kd_loss = importlib.import_module("distiller_zoo.KD").DistillKL

    torch.manual_seed(settings["seed"])
    student = networks[settings["network"]](num_classes=len(data.classes))
    teacher = networks[teacher_state["network"]](num_classes=len(data.classes))
    teacher.load_state_dict(teacher_state["state"])
    normalize = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    train_set = ImagesOf(data.split("train"), transforms.Compose(augment + normalize), True)
    test_set = ImagesOf(data.split("test"), transforms.Compose(normalize), False)
    workers = cores()
    batch_size = settings["batch_size"]
    train = DataLoader(train_set, batch_size=batch_size, shuffle=True, num_workers=workers)
    test = DataLoader(test_set, batch_size=batch_size, num_workers=workers)

    optimizer = torch.optim.SGD(
        student.parameters(),
        lr=settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )
    loop_options = SimpleNamespace(
        distill="kd",
        gamma=settings["kd"]["ce_weight"],
        alpha=settings["kd"]["kd_weight"],
        beta=0.0,
        print_freq=50,
        learning_rate=settings["learning_rate"],
        lr_decay_epochs=settings["milestones"],
        lr_decay_rate=0.1,
    )
    kd = kd_loss(settings["temperature"])
    criteria = nn.ModuleList([nn.CrossEntropyLoss(), kd, kd])
    both = nn.ModuleList([student, teacher])
    interrupted = work / f"repdistiller-{settings['seed']}.pt"
    done = 0
    if interrupted.exists():
        state = torch.load(interrupted, weights_only=True)
        done = state["epoch"]
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
    for epoch in range(done + 1, settings["epochs"] + 1):
        util.adjust_learning_rate(epoch, loop_options, optimizer)
        loops.train_distill(epoch, train, both, criteria, optimizer, loop_options)
        state = {"epoch": epoch, "student": student.state_dict()}
        state |= {"optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
        partial = interrupted.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(interrupted)
    accuracy: float | Tensor = loops.validate(test, student, criteria[0], loop_options)[0]
    result = {"accuracy": float(accuracy) / 100}
    write_json(work / f"repdistiller-{settings['seed']}.json", result)
    interrupted.unlink()


def _teacher_state(work: Path) -> dict[str, Any]:
    from models.networks.checkpoint import load_state

    state, header = load_state(work / "artifacts/proxy/model.safetensors")
    return {"state": state, "network": header["network"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
