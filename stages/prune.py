"""Stage ``prune``: keep only the target learner, and prove that its outputs do not change.

Branches that only help training, such as MobileOne's and RepVGG's, are then fused. This changes
outputs only by rounding, which is measured and bounded.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from models.errors import InputError
from models.learners import LearnerGroup, load_learners
from models.measures import count_macs, count_parameters
from models.networks.backbone import Backbone
from models.networks.checkpoint import build_described, copied, load_state, save_network
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

# Largest change of a logit by fusing, relative to the largest logit: ten times the rounding error
# of a deep network in float32, and far too small to change predictions.
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
        top, _, rest = name.partition(".")
        several = top in {"learners", "discriminators"}
        trained[f"{top}.{rest.partition('.')[0]}" if several else top] += state[name].numel()
    size, after = data.image_size, {"student": student, "plain": plain}
    parameters = {"training": sum(trained.values())}
    parameters |= {name: count_parameters(network) for name, network in after.items()}
    macs = {"training": count_macs(group, size)}  # without attention and discriminators
    macs |= {name: count_macs(network, size) for name, network in after.items()}
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


def _fuse(student: Backbone, data: DataSet) -> tuple[Backbone, dict[str, Any] | None]:
    """Fuse the student's branches, if any, and return it with the report's entry."""
    fused = copied(student)
    if not fused.fuse_branches():
        return student, None
    device = prepare_device()
    test, normalize = data.split("test"), Normalize(data.mean, data.std, device)
    # Without TF32, in which GPUs would round each convolution's input to 10 bits.
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        before, after = (predict(n.to(device), test, normalize) for n in (student, fused))
    difference = float((after - before).abs().max())
    tolerance = _TOLERANCE * float(before.abs().max())
    if not difference <= tolerance:
        raise InputError(
            f"prune: fusing the branches of {student.name} changes its logits by up to"
            f" {difference:.1e}, expected at most {tolerance:.1e}; train it for longer or at a"
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
    """Check that no logit on the test images changes without learners; return their number."""
    device = prepare_device()
    alone = copied(group.target).to(device)
    group.to(device)
    test = data.split("test")
    for images in batches(test, Normalize(data.mean, data.std, device)):
        if not torch.equal(alone(images), group(images)[0].logits):
            raise RuntimeError("the student's outputs changed when its learners were removed")
    group.cpu()
    return len(test)


if __name__ == "__main__":
    run_stage(main)
