"""The student, whom it learns from, and each method that it may learn by."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stages.sections.common import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Section
from stages.sections.training import Training


class Nothing(Section):
    """A method without parameters of its own."""


class Kd(Section):
    """Weights of cross entropy and of the distillation loss."""

    ce_weight: NonNegativeFloat = 0.1
    kd_weight: NonNegativeFloat = 0.9


class FeatureWeights(Section):
    """Weights of cross entropy, KD and the method's own term; with kd_weight, KD takes part."""

    ce_weight: NonNegativeFloat = 1.0
    kd_weight: NonNegativeFloat = 0.0
    feature_weight: NonNegativeFloat


class At(FeatureWeights):
    """Attention transfer."""

    feature_weight: NonNegativeFloat = 1000.0


class Sp(FeatureWeights):
    """Similarity-preserving distillation."""

    feature_weight: NonNegativeFloat = 3000.0


class Cc(FeatureWeights):
    """Correlation congruence."""

    feature_weight: NonNegativeFloat = 0.02
    variant: Literal["repdistiller", "rbf"] = "repdistiller"
    """As benchmarks compare it, or as published; a public code of ``rbf`` weighs it 100."""


class Vid(FeatureWeights):
    """Variational information distillation."""

    feature_weight: NonNegativeFloat = 1.0


class Crd(FeatureWeights):
    """Contrastive representation distillation."""

    feature_weight: NonNegativeFloat = 0.8
    embedding_size: PositiveInt = 128
    negatives: PositiveInt = 16384
    """Samples of other classes that each image is contrasted with."""
    contrast_temperature: PositiveFloat = 0.07
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Of what is remembered of each sample."""


class SemCkd(FeatureWeights):
    """Cross-layer distillation with semantic calibration."""

    kd_weight: NonNegativeFloat = 1.0
    feature_weight: NonNegativeFloat = 400.0


class One(Section):
    """On-the-fly native ensemble; it has no teacher."""

    ce_weight: NonNegativeFloat = 1.0
    kd_weight: NonNegativeFloat = 1.0
    branches: Annotated[int, Field(ge=2, le=64)] = 3
    """The student's own last stage among them."""
    ramp_up: Fraction = 0.2667
    """The share of all epochs in which the ensemble's weight rises."""


class Ackd(Section):
    """Adversarial collaborative distillation; the lambdas are those of Eq. 7."""

    learners: Annotated[
        list[Annotated[str, Field(pattern=r"^D[1-9](B[1-9]|T)$")]], Field(min_length=1)
    ] = [
        "D3B1",
        "D2B2",
    ]
    """DNBM: branches off at the input of stage N and owns copies of M stages. Not in the paper is
    DNT, which branches off there and goes on with the teacher's own stages, frozen."""
    lambda_teacher_to_learners: NonNegativeFloat = 1.0
    lambda_learners_to_target: NonNegativeFloat = 1.0
    lambda_adversarial: NonNegativeFloat = 1.0
    lambda_ce: NonNegativeFloat = 1.0
    lambda_teacher_to_each: NonNegativeFloat = 0.0
    """Not in the paper: each learner learns from the teacher, besides the ensemble of all."""
    lambda_teacher_to_target: NonNegativeFloat = 0.0
    """Not in the paper: the target learns from the teacher too."""
    ramp_up: Fraction = 0.0
    """Not in the paper: the share of all epochs in which the weight of the ensemble rises."""
    ramp_down: Fraction = 0.0
    """Not in the paper: the share of all epochs in which the learners' own losses fall away."""
    attention: bool = True
    """Learned weights of the learners (Eq. 3); without it each counts the same."""
    attention_pool: Literal["none", "avg"] = "none"
    """What the attention sees of the learners' maps: all of them, or means over positions."""
    adversarial: bool = True
    """Whether discriminators (Eq. 4-5) take part."""
    objective: Literal["minimax", "diversity"] = "minimax"
    """Whether the learners work against the discriminators (Eq. 7 as printed) or help them."""
    discriminator_learning_rate: PositiveFloat = 1e-3


class Distill(Training):
    """The student and how it learns."""

    network: str = "resnet8"
    method: Literal["scratch", "kd", "at", "sp", "cc", "vid", "crd", "semckd", "one", "ackd"] = (
        "ackd"
    )
    temperature: PositiveFloat = 4.0
    """Of every method but scratch; one was published with 3."""
    scratch: Nothing = Nothing()
    kd: Kd = Kd()
    at: At = At()
    sp: Sp = Sp()
    cc: Cc = Cc()
    vid: Vid = Vid()
    crd: Crd = Crd()
    semckd: SemCkd = SemCkd()
    one: One = One()
    ackd: Ackd = Ackd()

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the chosen method's class."""
        section: Section = getattr(self, self.method)
        shared = {} if self.method == "scratch" else {"temperature": self.temperature}
        return shared | section.model_dump()


class EarlyStopped(Section):
    """The teacher's network, trained anew in fewer epochs (ESKD)."""

    epochs: PositiveInt = 10
    """The teacher's schedule is compressed into them."""


class Assistants(Kd):
    """A chain of networks, each distilled by KD from the one before, the first from the teacher
    (TAKD); all are trained by the teacher's schedule."""

    networks: list[str] = []
    """From the one that learns from the teacher to the one that the student learns from."""
    candidates: list[str] = []
    """Instead of naming the assistant: networks to choose it from, the student's first. Each is
    trained alone, and the one whose accuracy on validation lies nearest the middle between the
    student's and the teacher's is taken."""
    temperature: PositiveFloat = 4.0

    def options(self) -> dict[str, Any]:
        """The keyword arguments of KD."""
        return self.model_dump(exclude={"networks", "candidates"})


class Proxy(Section):
    """Whom the student learns from."""

    method: Literal["teacher", "early_stopped", "assistants"] = "teacher"
    """The teacher itself; its network trained anew in fewer epochs; or the last of a chain of
    assistants."""
    teacher: Nothing = Nothing()
    early_stopped: EarlyStopped = EarlyStopped()
    assistants: Assistants = Assistants()

    @model_validator(mode="after")
    def _assistants_are_named(self) -> Proxy:
        networks, candidates = self.assistants.networks, self.assistants.candidates
        if self.method == "assistants" and not networks and len(candidates) < 2:
            raise ValueError(
                "assistants.networks must name one at least, such as [resnet44], or"
                " assistants.candidates two, such as [resnet20, resnet32, resnet44]"
            )
        if networks and candidates:
            raise ValueError(
                "give assistants.networks or assistants.candidates, and leave the other one empty"
            )
        return self
