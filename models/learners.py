"""Auxiliary learners: attach them to any backbone, take them off again (ACKD, section 3.2).

``DNBM`` is a learner that branches off at the *input* of stage N and owns copies of the M stages
N..S, then its own pooling and classifier. The shared trunk is computed once, for the target
learner and for all that branch off it. The paper says "the Nth down-sampling layer" and is silent
on the rest; the reading taken is the one under which its three learners, D3B1, D2B2 and D1B3, are
full-depth networks of a three-stage student whose last feature maps have one shape, as Eq. 3 and
Eq. 4 need.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

import models
from models.backbone import Backbone, Features
from models.checkpoint import load_state, load_strictly
from models.errors import InputError


class Learners(nn.ModuleList):
    """Auxiliary learners of one target, freshly initialised from torch's global random state.

    Args:
        target: the network that they branch off; it is not kept.
        codes: ``["D3B1", "D2B2"]``; the same one may stand more than once.

    Attributes:
        names: the codes, the second of its kind as ``D3B1#2``.

    Raises:
        InputError: a code does not fit the target's number of stages, or they cannot be found.
    """

    def __init__(self, target: Backbone, codes: Sequence[str]) -> None:
        self.branch_stages = [_branch_stage(code, target) for code in codes]
        tails = [models.build(target.name, target.num_classes) for _ in codes]
        for tail, stage in zip(tails, self.branch_stages, strict=True):
            tail.keep_tail(stage)
        super().__init__(tails)
        seen: Counter[str] = Counter()
        self.names = []
        for code in codes:
            seen[code] += 1
            self.names.append(code if seen[code] == 1 else f"{code}#{seen[code]}")

    def forward(self, target: Features) -> list[Features]:
        """What each learner makes of the target's features; the trunk is not computed again."""
        return [
            tail.features_from(target.stage_input(stage), stage)
            for tail, stage in zip(self, self.branch_stages, strict=True)
            if isinstance(tail, Backbone)
        ]


def _branch_stage(code: str, target: Backbone) -> int:
    found = re.fullmatch(r"D(\d+)B(\d+)", code)
    stages = target.num_stages
    target.require_stages(f"an auxiliary learner ({code})")
    if found is None or int(found[1]) + int(found[2]) - 1 != stages or int(found[1]) < 1:
        fitting = ", ".join(f"D{n}B{stages - n + 1}" for n in range(stages, 0, -1))
        raise InputError(
            f"distill.ackd.learners: {code!r} does not fit {target.name}, which has {stages}"
            f" stages; use {fitting}"
        )
    return int(found[1])


class LearnerGroup(nn.Module):
    """A target learner with its auxiliary learners, for looking at them after the training."""

    def __init__(self, target: Backbone, learners: Learners) -> None:
        super().__init__()
        self.target = target
        self.learners = learners
        self.names = learners.names

    def forward_all(self, images: Tensor) -> tuple[Features, list[Features]]:
        """Features of the target and of each learner for ``[B, 3, H, W]``."""
        target = self.target.features(images)
        return target, self.learners(target)


def load_learners(path: Path) -> LearnerGroup:
    """The student in ``path`` (a file of the stage ``distill``) with its learners, in eval mode.

    ``learners`` is empty where the method has none.

    Raises:
        InputError: the file is missing, damaged, or was not written by that stage.
    """
    state, header = load_state(path)
    if not {"network", "num_classes", "learners"} <= header.keys():
        raise InputError(
            f"{path}: expected a file that the stage distill wrote; run `dvc repro distill`"
        )
    target = models.build(header["network"], header["num_classes"])
    group = LearnerGroup(target, Learners(target, header["learners"]))
    for prefix, module in (("student.", group.target), ("learners.", group.learners)):
        part = {
            name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)
        }
        load_strictly(module, part, path)
    return group.eval()
