"""Auxiliary learners that branch off a backbone (ACKD, section 3.2).

A learner ``DNBM`` branches off at the *input* of stage N and has its own copies of the M stages
N..S, pooling and classifier. The trunk that it shares with the target is computed only once. The
paper only says "the Nth down-sampling layer". We chose the reading in which its learners D3B1, D2B2
and D1B3 are full-depth networks of a three-stage student with last feature maps of equal shape,
which Eq. 3 and Eq. 4 require.

``DNT`` is not in the paper: this learner branches off at the same point and continues with the
teacher's stages N..S, frozen.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from torch import Tensor, nn

import models
from models.errors import InputError
from models.networks.backbone import Backbone, Features
from models.networks.checkpoint import build_described, load_state, load_strictly


class GroupOutput(NamedTuple):
    """The results of a forward pass of target and learners."""

    target: Features
    learners: list[Features]
    weights: Tensor  # the weights of M ensemble members per sample, [B, M]
    ensemble: Tensor  # the ensemble's logits, [B, K], at least float32

    @property
    def logits(self) -> list[Tensor]:
        """The logits ``[B, K]`` of the target and of each learner."""
        return [branch.logits for branch in (self.target, *self.learners)]

    @property
    def maps(self) -> list[Tensor]:
        """The last feature map of each learner."""
        return [learner.stages[-1] for learner in self.learners]


class TeacherTail(nn.Module):
    """A teacher's stages N..S and classifier, frozen, on top of a student's trunk.

    As its stages are frozen, its losses train the trunk to produce features that the teacher's next
    stage can use, from the first step on; a freshly initialised learner has to be trained first. In
    object detection this is known as cross-head distillation (Wang et al. 2024).

    Args:
        teacher: the teacher, which is copied.
        stage: N.
        student_map: input of the student's stage N, ``[B, C, H, W]``.
        teacher_map: input of the teacher's stage N. If the channels differ, a trained 1x1
            convolution with BatchNorm maps the student's to the teacher's.

    Raises:
        InputError: the maps differ in height or width.
    """

    def __init__(
        self, teacher: Backbone, stage: int, student_map: Tensor, teacher_map: Tensor
    ) -> None:
        super().__init__()
        if student_map.shape[2:] != teacher_map.shape[2:]:
            sizes = [" x ".join(str(n) for n in m.shape[2:]) for m in (student_map, teacher_map)]
            raise InputError(
                f"distill.ackd.learners: D{stage}T needs maps of one size, but stage {stage} gets"
                f" {sizes[0]} in the student and {sizes[1]} in {teacher.name}; leave it out"
            )
        self.tail = copy.deepcopy(teacher).requires_grad_(False)
        self.tail.keep_tail(stage)
        self.tail.eval()
        given, wanted = student_map.shape[1], teacher_map.shape[1]
        self.adapt = (
            nn.Identity()
            if given == wanted
            else nn.Sequential(nn.Conv2d(given, wanted, 1, bias=False), nn.BatchNorm2d(wanted))
        )

    def train(self, mode: bool = True) -> Self:
        """Set train mode, but keep the frozen stages in eval mode to preserve their statistics."""
        super().train(mode)
        self.tail.eval()
        return self

    def features_from(self, entry: Tensor, stage: int) -> Features:
        return self.tail.features_from(self.adapt(entry), stage)


class Learners(nn.ModuleList):
    """Auxiliary learners of a target; DNBM are initialised from torch's global random state.

    Args:
        target: the network that they branch off; no reference to it is kept.
        codes: such as ``["D3B1", "D2B2"]``; a code may be repeated.
        teacher: the source of the stages of DNT.
        image_size: height and width in pixels, needed for DNT.
        copies: initialise each DNBM with the target's stages and a new classifier instead.

    Attributes:
        names: the codes; the second learner with the same code is ``D3B1#2``.

    Raises:
        InputError: a code does not fit the target's or the teacher's stages, or a network has no
            known stages.
    """

    def __init__(
        self,
        target: Backbone,
        codes: Sequence[str],
        teacher: Backbone | None = None,
        image_size: int | None = None,
        *,
        copies: bool = False,
    ) -> None:
        self.branch_stages = check_codes(codes, target, teacher)
        learners: list[nn.Module] = []
        for code, stage in zip(codes, self.branch_stages, strict=True):
            if is_teacher_tail(code):
                assert teacher is not None
                assert image_size is not None
                maps = (net.probe(image_size).stage_input(stage) for net in (target, teacher))
                learners.append(TeacherTail(teacher, stage, *maps))
            else:
                tail = models.build(target.name, target.num_classes)
                if copies:
                    tail.load_state_dict(target.state_dict())
                    tail.reset_classifier()
                tail.keep_tail(stage)
                learners.append(tail)
        super().__init__(learners)
        numbers = [codes[: i + 1].count(code) for i, code in enumerate(codes)]
        self.names = [
            code if number == 1 else f"{code}#{number}"
            for code, number in zip(codes, numbers, strict=True)
        ]

    def forward(self, target: Features) -> list[Features]:
        """Compute each learner's features from the target's, without running the trunk again."""
        return [
            tail.features_from(target.stage_input(stage), stage)
            for tail, stage in zip(self, self.branch_stages, strict=True)
            if isinstance(tail, Backbone | TeacherTail)
        ]


def is_teacher_tail(code: str) -> bool:
    """Return whether a learner consists of the teacher's stages."""
    return code.endswith("T")


def check_codes(codes: Sequence[str], target: Backbone, teacher: Backbone | None) -> list[int]:
    """Return the stage at whose input each learner branches off; raises as :class:`Learners`."""
    stages = target.num_stages
    fitting = {f"D{n}B{stages - n + 1}": n for n in range(stages, 0, -1)}
    if teacher is not None:
        fitting |= {f"D{n}T": n for n in range(stages, 0, -1)}
    for code in codes:
        target.require_stages(f"an auxiliary learner ({code})")
        if is_teacher_tail(code) and teacher is not None:
            teacher.require_stages(f"an auxiliary learner ({code})")
            if teacher.num_stages != stages:
                raise InputError(
                    f"distill.ackd.learners: {code!r} needs a teacher with as many stages as the"
                    f" student; {teacher.name} has {teacher.num_stages}, {target.name} has {stages}"
                )
        if code not in fitting:
            raise InputError(
                f"distill.ackd.learners: {code!r} does not fit {target.name}, which has {stages}"
                f" stages; use {', '.join(fitting)}"
            )
    return [fitting[code] for code in codes]


class LearnerGroup(nn.Module):
    """A target learner with its auxiliary learners, for analysis after training."""

    def __init__(self, target: Backbone, learners: Learners) -> None:
        super().__init__()
        self.target, self.learners, self.names = target, learners, learners.names

    def forward(self, images: Tensor) -> tuple[Features, list[Features]]:
        """Compute the features of the target and of each learner for images ``[B, 3, H, W]``."""
        target = self.target.features(images)
        return target, self.learners(target)


def load_learners(path: Path) -> LearnerGroup:
    """Load a student with its learners, in eval mode, from a file of the stage ``distill``.

    ``learners`` is empty if the method has none.

    Raises:
        InputError: the file is missing, damaged, or was not written by that stage.
    """
    state, header = load_state(path)
    if not {"network", "num_classes", "learners"} <= header.keys():
        raise InputError(
            f"{path}: expected a file that the stage distill wrote; run `dvc repro distill`"
        )
    target = build_described(header)
    teacher = None
    if any(is_teacher_tail(code) for code in header["learners"]):
        teacher = build_described(header["teacher"])
    learners = Learners(target, header["learners"], teacher, header.get("image_size"))
    group = LearnerGroup(target, learners)
    for prefix, module in (("student.", group.target), ("learners.", group.learners)):
        part = {
            name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)
        }
        load_strictly(module, part, path)
    return group.eval()
