"""Create the pair of networks that all contenders share, and count a step's multiply-adds."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models
from benchmarks.worker import Task
from models import distillers
from models.distillers.base import Batch, Distiller, Setting, TeacherOutputs
from models.measures import count_macs
from models.networks.backbone import Backbone
from stages.data.arrays import DataSet, load_data
from stages.data.feed.normalize import Normalize
from stages.sections.methods import Distill
from stages.training.engine import choose_precision

_CPU = torch.device("cpu")
_CALIBRATION_IMAGES = 64
_COUNTED = 4  # batch size of the step whose multiply-adds are counted


def write_pair(
    teacher_name: str, student_name: str, data_folder: str, folder: str
) -> dict[str, Any]:
    """Call :func:`draw_pair` and count the multiply-adds of a step.

    Returns:
        ``macs``: multiply-adds per image, for the teacher's forward pass (``teacher``) and for a
        whole step of each method without the teacher (``kd``, ``ackd``); ``precision``: the one
        that ``auto`` selects here; ``torch``: its version.
    """
    data = load_data(Path(data_folder))
    size = data.image_size
    teacher, student = draw_pair(teacher_name, student_name, data, Path(folder))
    labels = torch.from_numpy(data.labels("train"))
    setting = Setting(teacher, size, labels, len(labels), epochs=1)
    macs = {"teacher": float(count_macs(teacher, size))}
    for settings in (Distill(method="kd"), Distill(method="ackd")):
        distiller = distillers.build(settings.method, student, setting, settings.options())
        macs[settings.method] = count_step_macs(distiller, teacher, size)
    return {"macs": macs, "precision": choose_precision("auto", _CPU), "torch": torch.__version__}


def draw_pair(teacher: str, student: str, data: DataSet, folder: Path) -> tuple[Backbone, Backbone]:
    """Initialise both networks and write ``teacher.pt`` and ``student.pt`` for the contenders."""
    torch.manual_seed(0)
    drawn = models.build(teacher, len(data.classes)), models.build(student, len(data.classes))
    images = Normalize(data.mean, data.std, _CPU)(data.images("train")[:_CALIBRATION_IMAGES])
    # Set BatchNorm statistics, or the logits of deep networks would overflow.
    for module in drawn[0].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        drawn[0].train()(images)
    drawn[0].eval()
    for network, role in zip(drawn, ("teacher", "student"), strict=True):
        torch.save(network.state_dict(), folder / f"{role}.pt")
    return drawn


def load_pair(task: Task) -> tuple[Backbone, Backbone]:
    """Load the teacher and student that :func:`draw_pair` wrote."""

    def load(name: str, role: str) -> Backbone:
        network = models.build(name, task.classes)
        network.load_state_dict(torch.load(Path(task.weights, f"{role}.pt"), weights_only=True))
        return network

    return load(task.teacher, "teacher"), load(task.student, "student")


def one_batch(task: Task, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of noise in the size of the task's images, and labels."""
    size = load_data(Path(task.data)).image_size
    images = torch.randn(task.batch_size, 3, size, size)
    labels = torch.arange(task.batch_size) % task.classes
    return images.to(device, memory_format=torch.channels_last), labels.to(device)


def count_step_macs(distiller: Distiller, teacher: Backbone, image_size: int) -> float:
    """Count a training step's multiply-adds per image, with the adversary, without the teacher.

    torch counts the operations that actually run: three times the forward pass, minus gradients
    that are not needed, such as those of the images.
    """
    images = torch.randn(_COUNTED, 3, image_size, image_size)
    labels = torch.arange(_COUNTED) % distiller.student.num_classes
    batch = Batch(images, labels, torch.arange(_COUNTED))
    taught = teach(teacher, images)
    with FlopCounterMode(display=False) as counter:
        backward(distiller, batch, taught)
    operations: int = counter.get_total_flops()
    return operations / 2 / _COUNTED


@torch.no_grad()
def teach(teacher: Backbone, images: torch.Tensor) -> TeacherOutputs:
    """Return everything a method may need from the teacher."""
    features = teacher.eval().features(images)
    return TeacherOutputs(features.logits, features)


def backward(distiller: Distiller, batch: Batch, taught: TeacherOutputs) -> dict[str, torch.Tensor]:
    """Run a step's backward passes without updating weights; return all losses by name."""
    losses, outputs = {}, distiller(batch.images)
    if distiller.adversary is not None:
        distiller.adversary.requires_grad_(True)
        losses["adversary"] = distiller.adversary_loss(outputs)
        losses["adversary"].backward()  # type: ignore[no-untyped-call]
        distiller.adversary.requires_grad_(False)
    losses |= distiller.losses(outputs, batch, taught)
    losses["total"].backward()  # type: ignore[no-untyped-call]
    return losses
