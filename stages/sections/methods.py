"""The student, its proxy, and the options of every method."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stages.sections.common import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    of_pattern,
)
from stages.sections.training import Training

_OfLogits = Literal["kd", "dkd", "dist", "rld"]
_OfFeatures = Literal["at", "sp", "cc", "vid", "crd", "semckd", "reviewkd"]


class Nothing(Section):
    """A method without options."""


class KdWeights(Section):
    """Weights of cross entropy and of the distillation loss (KD)."""

    ce_weight: NonNegativeFloat = 0.1
    kd_weight: NonNegativeFloat = 0.9


class Kd(KdWeights):
    """Knowledge distillation."""

    standardize: bool = False
    """Standardize logits to mean 0 and variance 1; on CIFAR-100 published with weights 0.1 and 9 at
    T = 2."""


class Rld(Section):
    """Refined logit distillation."""

    ce_weight: NonNegativeFloat = 1.0
    alpha: NonNegativeFloat = 1.0  # weight of the teacher's confidence
    beta: NonNegativeFloat = 8.0
    """Weight of the relations among the classes ranked below the true class."""
    ramp_up: Fraction = 0.0833  # fraction of all epochs over which both weights rise


class Dkd(Rld):
    """Decoupled knowledge distillation."""

    alpha: NonNegativeFloat = 1.0  # weight of the target class against all others
    beta: NonNegativeFloat = 8.0
    """Weight of the relations among the other classes; 2 for thin ResNets."""
    standardize: bool = False
    """As for ``kd``; published with nine times ``alpha`` and ``beta`` at T = 2."""


class Dist(Section):
    """Distillation from a stronger teacher."""

    ce_weight: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 2.0  # weight of the correlations between the classes of a sample
    gamma: NonNegativeFloat = 2.0  # weight of the correlations between the samples of a class


class FeatureWeights(Section):
    """Weights of cross entropy, KD and the method's own loss."""

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
    """As in the usual benchmarks, or ``rbf`` as published, with weight 100 in a public version."""


class Vid(FeatureWeights):
    """Variational information distillation."""

    feature_weight: NonNegativeFloat = 1.0


class Crd(FeatureWeights):
    """Contrastive representation distillation."""

    feature_weight: NonNegativeFloat = 0.8
    embedding_size: PositiveInt = 128
    negatives: PositiveInt = 16384  # samples of other classes contrasted with each image
    contrast_temperature: PositiveFloat = 0.07
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5  # momentum of the memory bank


class SemCkd(FeatureWeights):
    """Cross-layer distillation with semantic calibration."""

    kd_weight: NonNegativeFloat = 1.0
    feature_weight: NonNegativeFloat = 400.0


class ReviewKd(FeatureWeights):
    """Knowledge review: each level of the student also learns from the levels above it."""

    feature_weight: NonNegativeFloat = 1.0
    ramp_up: Fraction = 0.0833  # fraction of all epochs over which the weight of the maps rises


class One(Section):
    """On-the-fly native ensemble, without a teacher."""

    ce_weight: NonNegativeFloat = 1.0
    kd_weight: NonNegativeFloat = 1.0
    branches: Annotated[int, Field(ge=2, le=64)] = 3  # includes the student's own last stage
    ramp_up: Fraction = 0.2667  # fraction of all epochs over which the weight of the ensemble rises


class Ackd(Section):
    """Adversarial collaborative distillation; the lambdas are from Eq. 7."""

    learners: Annotated[
        list[Annotated[str, of_pattern(r"D[1-9](B[1-9]|T)", "a code such as D3B1 or D3T")]],
        Field(min_length=1),
    ] = ["D3B1", "D2B2"]
    """DNBM branches off at the input of stage N and has its own copies of M stages. DNT, not in the
    paper, continues with the teacher's frozen stages."""
    lambda_teacher_to_learners: NonNegativeFloat = 1.0
    lambda_learners_to_target: NonNegativeFloat = 1.0
    lambda_adversarial: NonNegativeFloat = 1.0
    lambda_ce: NonNegativeFloat = 1.0
    lambda_teacher_to_each: NonNegativeFloat = 0.0
    """Not in the paper: each learner, not only their ensemble, learns from the teacher."""
    lambda_teacher_to_target: NonNegativeFloat = 0.0
    """Not in the paper: the target also learns from the teacher."""
    ramp_up: Fraction = 0.0
    """Not in the paper: fraction of all epochs over which the weight of the ensemble rises."""
    ramp_down: Fraction = 0.0
    """Not in the paper: fraction of all epochs over which the learners' own losses fade."""
    attention: bool = True
    """Learned weights for the learners (Eq. 3) instead of equal ones."""
    attention_pool: Literal["none", "avg"] = "none"
    """Input of the attention: the learners' whole feature maps, or their spatial means."""
    attention_balance: NonNegativeFloat = 0.0
    """Not in the paper: weight of a term that balances the learners' mean weights."""
    attention_warm_up: Fraction = 0.0
    """Not in the paper: fraction of all epochs, at the start, that use equal weights."""
    adversarial: bool = True
    """Whether to use discriminators (Eq. 4-5)."""
    objective: Literal["minimax", "diversity"] = "minimax"
    """Whether the learners work against the discriminators (Eq. 7 as printed) or help them."""
    discriminator_learning_rate: PositiveFloat = 1e-3


class Distill(Training):
    """The student and how it learns."""

    network: str = "resnet8"
    method: Literal["scratch", _OfLogits, _OfFeatures, "one", "ackd"] = "ackd"
    temperature: PositiveFloat = 4.0  # for every method but scratch; ONE was published with 3
    unlabeled_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Fraction of each batch from ``data.unlabeled``. An epoch shows each labeled image once, and
    continues through the unlabeled ones where the previous epoch stopped."""
    scratch: Nothing = Nothing()
    kd: Kd = Kd()
    dkd: Dkd = Dkd()
    dist: Dist = Dist()
    rld: Rld = Rld()
    at: At = At()
    sp: Sp = Sp()
    cc: Cc = Cc()
    vid: Vid = Vid()
    crd: Crd = Crd()
    semckd: SemCkd = SemCkd()
    reviewkd: ReviewKd = ReviewKd()
    one: One = One()
    ackd: Ackd = Ackd()

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of the chosen method's class."""
        section: Section = getattr(self, self.method)
        shared = {} if self.method == "scratch" else {"temperature": self.temperature}
        return shared | section.model_dump()


class EarlyStopped(Section):
    """The teacher's network, retrained for fewer epochs (ESKD)."""

    epochs: PositiveInt = 10  # the teacher's schedule is compressed to this length


class Assistants(KdWeights):
    """A chain of networks, each distilled by KD from the previous one, starting from the teacher
    (TAKD). All use the teacher's schedule."""

    networks: list[str] = []  # in order, from teacher to student
    candidates: list[str] = []
    """Networks to choose one assistant from, the student's first. Each is trained alone; the one
    with validation accuracy nearest the mean of student and teacher is chosen."""
    temperature: PositiveFloat = 4.0

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of KD."""
        return self.model_dump(exclude={"networks", "candidates"})


class Proxy(Section):
    """The network that the student learns from."""

    method: Literal["teacher", "early_stopped", "assistants"] = "teacher"
    """The teacher itself, its network retrained for fewer epochs, or the last of a chain of
    assistants."""
    teacher: Nothing = Nothing()
    early_stopped: EarlyStopped = EarlyStopped()
    assistants: Assistants = Assistants()

    @property
    def all_assistants(self) -> list[str]:
        """The networks of all assistants that are trained, with candidates."""
        chain = [*self.assistants.networks, *self.assistants.candidates]
        return chain if self.method == "assistants" else []

    @model_validator(mode="after")
    def _assistants_are_named(self) -> Self:
        networks, candidates = self.assistants.networks, self.assistants.candidates
        if self.method == "assistants" and not networks and len(candidates) < 2:
            raise ValueError(
                "assistants.networks must name at least one network, such as [resnet44], or"
                " assistants.candidates at least two, such as [resnet20, resnet32, resnet44]"
            )
        if len(set(candidates)) < len(candidates):
            raise ValueError("assistants.candidates must name each network once")
        if networks and candidates:
            raise ValueError(
                "set assistants.networks or assistants.candidates, and leave the other empty"
            )
        return self
