"""Stage ``prune``: keep only the target learner, and prove that its outputs do not change.

Branches that only help training, as MobileOne's and RepVGG's, are then fused. That changes the
outputs by rounding alone, which is measured and bounded.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from models.errors import InputError
from models.learners import LearnerGroup, load_learners
from models.measures import count_macs, count_parameters
from models.networks.backbone import Backbone
from models.networks.checkpoint import build_described, describe, load_state, save_network
from stages.data.arrays import DataSet, load_data
from stages.data.feed.normalize import Normalize
from stages.entry import run_stage
from stages.files import new_folder, write_json
from stages.params import Params
from stages.training.device import prepare_device
from stages.training.evaluate import batches, predict

DISTILLED = Path("artifacts/distilled/model.safetensors")
STUDENT_FOLDER = Path("artifacts/student")
REPORT = Path("reports/prune.json")

# What fusing may change a logit by, as a share of the largest one: ten times what float32 costs a
# deep network, and far below what changes answers.
_TOLERANCE = 1e-3


def main(params: Params) -> None:
    """Write ``artifacts/student`` and ``reports/prune.json``."""
    del params
    data = load_data()
    state, header = load_state(DISTILLED)
    group = load_learners(DISTILLED)
    plain = build_described(header)
    images = _require_bit_equal(group, data)
    student, fused = _fuse(group.target, data)

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
            "fused": fused,
            "images": images,
        },
    )
    with new_folder(STUDENT_FOLDER) as folder:
        save_network(folder / "model.safetensors", student)
    dropped = parameters["training"] - parameters["plain"]
    print(f"prune: dropped {dropped:,} parameters; outputs bit-equal on {images} test images")
    if fused is not None:
        print(
            f"prune: fused branches, {parameters['plain']:,} parameters became"
            f" {parameters['student']:,}; logits differ by at most"
            f" {fused['largest_difference']:.1e} (allowed: {fused['tolerance']:.1e})"
        )


def _part(name: str) -> str:
    top, _, rest = name.partition(".")
    return f"{top}.{rest.partition('.')[0]}" if top in {"learners", "discriminators"} else top


def _copied(network: Backbone) -> Backbone:
    """Another one with the same weights, in eval mode."""
    copy = build_described(describe(network))
    copy.load_state_dict(network.state_dict())
    return copy.eval()


def _fuse(student: Backbone, data: DataSet) -> tuple[Backbone, dict[str, Any] | None]:
    """The student with its branches fused, and what the report says of that.

    One that has none stays as it is.

    Raises:
        InputError: its logits on the test images would change by more than rounding.
    """
    fused = _copied(student)
    if not fused.fuse_branches():
        return student, None
    device = prepare_device()
    test, normalize = data.split("test"), Normalize(data.mean, data.std, device)
    # In full float32: GPUs would otherwise round each convolution's input to 10 bits.
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        before, after = (predict(n.to(device), test, normalize) for n in (student, fused))
    difference = float((after - before).abs().max())
    tolerance = _TOLERANCE * float(before.abs().max())
    if not difference <= tolerance:
        raise InputError(
            f"prune: fusing the branches of {student.name} changes its logits by up to"
            f" {difference:.1e}, where {tolerance:.1e} is allowed; train it for longer or at a"
            " lower learning rate, or choose another student"
        )
    changed = int((after.argmax(1) != before.argmax(1)).sum())
    student.cpu()
    return fused.cpu(), {
        "largest_difference": difference,
        "tolerance": tolerance,
        "changed_answers": changed,
    }


@torch.no_grad()
def _require_bit_equal(group: LearnerGroup, data: DataSet) -> int:
    """Check that the target's logits do not change without learners, on all test images.

    Returns:
        The number of test images.
    """
    device = prepare_device()
    alone = _copied(group.target).to(device)
    group.to(device)
    test = data.split("test")
    for images in batches(test, Normalize(data.mean, data.std, device)):
        if not torch.equal(alone(images), group(images)[0].logits):
            raise RuntimeError("the student's outputs changed when its learners were removed")
    group.cpu()
    return len(test)


if __name__ == "__main__":
    run_stage(main)
