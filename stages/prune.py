"""Stage ``prune``: keep only the target learner, and prove that its outputs do not change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from models.learners import LearnerGroup, load_learners
from models.measures import count_macs, count_parameters
from models.networks.checkpoint import build_described, describe, load_state, save_network
from stages.data.arrays import DataSet, load_data
from stages.data.feed.normalize import Normalize
from stages.entry import run_stage
from stages.files import new_folder, write_json
from stages.params import Params
from stages.training.device import prepare_device
from stages.training.evaluate import batches

DISTILLED = Path("artifacts/distilled/model.safetensors")
STUDENT_FOLDER = Path("artifacts/student")
REPORT = Path("reports/prune.json")


def main(params: Params) -> None:
    """Write ``artifacts/student`` and ``reports/prune.json``."""
    del params
    data = load_data()
    state, header = load_state(DISTILLED)
    group = load_learners(DISTILLED)
    student = group.target
    plain = build_described(header)
    images = _require_bit_equal(group, data)

    trained = Counter[str]()
    for name in sorted(state.keys() - set(header["buffers"])):
        trained[_part(name)] += state[name].numel()
    size = data.image_size
    parameters = {
        "training": sum(trained.values()),
        "student": count_parameters(student),
        "plain": count_parameters(plain),
    }
    macs = {
        "training": count_macs(group, size),  # without attention and discriminators
        "student": count_macs(student, size),
        "plain": count_macs(plain, size),
    }
    write_json(
        REPORT,
        {
            "network": plain.name,
            "parameters": parameters,
            "macs": macs,
            "dropped": {part: count for part, count in trained.items() if part != "student"},
            "bit_equal": True,
            "images": images,
        },
    )
    with new_folder(STUDENT_FOLDER) as folder:
        save_network(folder / "model.safetensors", student)
    dropped = parameters["training"] - parameters["student"]
    print(f"prune: dropped {dropped:,} parameters; outputs bit-equal on {images} test images")


def _part(name: str) -> str:
    top, _, rest = name.partition(".")
    return f"{top}.{rest.partition('.')[0]}" if top in {"learners", "discriminators"} else top


@torch.no_grad()
def _require_bit_equal(group: LearnerGroup, data: DataSet) -> int:
    """Check that the target's logits do not change without learners, on all test images.

    Returns:
        The number of test images.
    """
    device = prepare_device()
    alone = build_described(describe(group.target))
    alone.load_state_dict(group.target.state_dict())
    alone.eval().to(device)
    group.to(device)
    test = data.split("test")
    for images in batches(test, Normalize(data.mean, data.std, device)):
        if not torch.equal(alone(images), group(images)[0].logits):
            raise RuntimeError("the student's outputs changed when its learners were removed")
    group.cpu()
    return len(test)


if __name__ == "__main__":
    run_stage(main)
