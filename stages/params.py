"""The schema of ``params.yaml``: what changes a result, and the one place of every default."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from models.errors import InputError
from stages.devices.urls import parse_url

PARAMS_FILE = Path("params.yaml")

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]


#: Of a bundle: one to three numbers, of which the first that differs decides which is the newer.
VERSION = r"^\d{1,9}(\.\d{1,9}){0,2}$"


class Section(BaseModel):
    """A part of ``params.yaml``; unknown keys are refused, and no value is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Data(Section):
    """Where the images come from."""

    source: str = "digits"
    """``digits``, ``hf:<folder or hub id>[@revision]``, ``imagefolder:<path>`` or
    ``torchvision:<name>:<root>``."""
    image_size: PositiveInt | None = 32
    """Height and width in pixels; null keeps the images' own size, which must then be one."""
    resize: PositiveInt | None = None
    """What the shorter side is brought to before the middle is cropped; null takes image_size. A
    larger one leaves training images a margin, which random crops are taken from too."""
    image_column: str | None = None
    label_column: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of the training images of each class, where the source has no split to validate on; 0 leaves
    training whole, as benchmarks do, and validates on the test images."""
    train_per_class: PositiveInt | None = None
    """Limits a trial run; validation and test stay whole."""
    seed: int = 0
    feed: Literal["auto", "memory", "stream"] = "auto"
    """Training images in memory, or read while training; auto takes memory where they fit. The
    result is the same."""

    @model_validator(mode="after")
    def _resize_leaves_enough(self) -> Data:
        if self.resize is not None and (self.image_size is None or self.resize < self.image_size):
            raise ValueError(
                f"resize is {self.resize}, expected image_size or more, which is"
                f" {'null' if self.image_size is None else self.image_size}"
            )
        return self


class Augmentation(Section):
    """Random changes of the training images; all are keyed by (seed, epoch, sample)."""

    crop: Literal["shift", "resized"] = "shift"
    """A window of the image's size somewhere in the padded image, or a part of 8 to 100 % of the
    area and of sides 3:4 to 4:3, brought to the image's size (random resized crop)."""
    crop_padding: Annotated[int, Field(ge=0)] = 2
    pad_mode: Literal["zero", "reflect"] = "zero"
    horizontal_flip: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _only_shifts_are_padded(self) -> Augmentation:
        if self.crop == "resized" and self.crop_padding:
            raise ValueError("crop_padding belongs to crop: shift; set it to 0 here")
        return self


class Training(Section):
    """SGD with momentum, shared by everything that is trained."""

    epochs: PositiveInt = 15
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: PositiveFloat = 0.1
    schedule: Literal["one_cycle", "multi_step"] = "one_cycle"
    milestones: list[PositiveInt] = []
    """Epochs after which ``multi_step`` divides the learning rate by ten."""
    momentum: Fraction = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    seed: int = 0

    @model_validator(mode="after")
    def _milestones_fit(self) -> Training:
        if self.schedule == "multi_step":
            if self.milestones != sorted(set(self.milestones)):
                raise ValueError("milestones must rise, each once")
            if self.milestones and self.milestones[-1] >= self.epochs:
                raise ValueError(f"milestones must lie before the last of {self.epochs} epochs")
        elif self.milestones:
            raise ValueError("milestones belong to schedule: multi_step; leave them empty here")
        return self


class EngineSettings(Section):
    """How anything is trained, teacher and student alike."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of convolutions and linear layers; auto is bf16 where that is the faster arithmetic of the
    processor or GPU. Losses are float32 always."""
    compile: bool = False
    """Compile the networks first; pays on GPUs and for long trainings."""
    sync_batchnorm: bool = False
    """BatchNorm over all processes' images instead of each process's own; GPUs only."""
    logits_store: bool = True
    """Keep the teacher's logits for later runs that see the same images."""
    checkpoint_every: PositiveInt = 1
    """Epochs between checkpoints."""
    checkpoint_minutes: PositiveFloat = 10.0
    """Minutes between checkpoints within an epoch."""
    tracker: Literal["none", "tensorboard", "mlflow"] = "none"
    """Where the history goes besides its CSV file."""


class Normalization(Section):
    """What is taken off each channel and what the rest is divided by, of images in 0..1."""

    mean: Annotated[list[Fraction], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]


class Teacher(Training):
    """The network to learn from: trained here, or loaded from a checkpoint."""

    network: str = "resnet20"
    checkpoint: str | None = None
    """A ``.safetensors`` or torch state-dict file, or ``pretrained`` for the weights that the
    network's library publishes; with it nothing is trained."""
    expect_accuracy: Fraction | None = None
    """Top-1 on the test images that the checkpoint's publisher states; one that is more than 0.01
    away is refused."""
    normalization: Normalization | None = None
    """That the checkpoint was trained with; null is the data's, or that of ``pretrained``."""

    @model_validator(mode="after")
    def _told_of_a_checkpoint(self) -> Teacher:
        for key in ("expect_accuracy", "normalization"):
            if self.checkpoint is None and getattr(self, key) is not None:
                raise ValueError(f"{key} belongs to a checkpoint; name one, or set it to null")
        return self


class Proxy(Section):
    """Whom the student learns from."""

    method: Literal["teacher", "early_stopped", "assistants"] = "teacher"
    """The teacher itself; its network trained anew in fewer epochs (ESKD); or the last of a chain
    of assistants, each distilled from the one before (TAKD)."""
    epochs: PositiveInt = 10
    """Of the early-stopped teacher; the teacher's schedule is compressed into them."""
    assistants: list[str] = []
    """Networks, from the one that learns from the teacher to the one that the student learns from;
    they are trained by the teacher's schedule and the weights of ``distill.kd``."""
    candidates: list[str] = []
    """Instead of naming the assistant: networks to choose it from, the student's first. Each is
    trained alone, by the teacher's schedule, and the one whose accuracy on validation lies nearest
    the middle between the student's and the teacher's is taken."""

    @model_validator(mode="after")
    def _assistants_are_named(self) -> Proxy:
        if self.method == "assistants" and not self.assistants and len(self.candidates) < 2:
            raise ValueError(
                "assistants must name a network at least, such as [resnet44], or candidates two,"
                " such as [resnet20, resnet32, resnet44]"
            )
        if self.assistants and self.candidates:
            raise ValueError("give assistants or candidates, and leave the other one empty")
        return self


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
    temperature: PositiveFloat = 3.0
    branches: Annotated[int, Field(ge=2)] = 3
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
        if self.method == "scratch":
            return {}
        section: Section = getattr(self, self.method)
        return {"temperature": self.temperature} | section.model_dump()


class Finetune(Section):
    """What an int8 model lost by calibration alone is won back by training its weights.

    They are trained with the rounding in place, to answer as the fp32 student does, and nothing but
    the int8 files changes.
    """

    when: Literal["never", "auto"] = "never"
    """``auto``: where an int8 model loses more than max_drop on the validation images; where those
    are the test images, on training images."""
    max_drop: Fraction = 0.005
    """Of accuracy, against fp32 on the same images."""
    epochs: PositiveInt = 10
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: PositiveFloat = 3e-3


class Export(Section):
    """The ONNX files."""

    opset: Literal[18, 20] = 18
    precisions: Annotated[
        list[Literal["fp32", "fp16", "int8_u8s8", "int8_s8s8"]], Field(min_length=1)
    ] = [
        "fp32",
        "fp16",
        "int8_u8s8",
        "int8_s8s8",
    ]
    calibration_images: PositiveInt = 256
    """Training images that the int8 ranges are calibrated on."""
    calibration_method: Literal["minmax", "percentile", "entropy"] = "minmax"
    """What of the activations that calibration sees is held: all, all but the outermost 0.001 %, or
    what loses the least information."""
    finetune: Finetune = Finetune()
    golden_images: PositiveInt = 16
    """Test images whose logits travel with the model."""

    @model_validator(mode="after")
    def _fp32_first(self) -> Export:
        if self.precisions[0] != "fp32" or len(set(self.precisions)) != len(self.precisions):
            raise ValueError(
                "precisions must begin with fp32, which the others are compared with, each once"
            )
        return self


class Validate(Section):
    """What an exported model must show."""

    tensorrt: Literal["auto", "required", "off"] = "auto"
    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 3, 16]
    """Of the golden batch, for the model with a dynamic batch."""
    max_relative_error_fp32: PositiveFloat = 1e-4
    max_relative_error_fp16: PositiveFloat = 1e-2
    min_agreement_int8: Fraction = 0.9
    """Share of test images on which an int8 model gives torch's answer."""


class Litert(Section):
    """The student for a second mobile runtime, LiteRT, in fp32 and int8.

    int8 is calibrated on ``export.calibration_images``, the limits of parity are those of
    ``validate``, and it is timed on this machine as ``profile`` says.
    """

    enabled: bool = False
    """Needs packages that are not installed by default; docs/how-to-litert.md names them."""


class Profile(Section):
    """How latency is measured."""

    devices: Annotated[list[str], Field(min_length=1)] = ["local:"]
    """Their URLs, ``local:``, ``ssh://[user@]host`` or ``adb:?runner=FILE``; goals and summary are
    of the first one."""
    threads: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 2]
    warmup_runs: PositiveInt = 10
    warmup_seconds: NonNegativeFloat = 0.5
    min_runs: PositiveInt = 100
    min_seconds: NonNegativeFloat = 3.0
    max_runs: PositiveInt = 20000
    """The cap, for models that are quicker than the clock is worth."""

    @model_validator(mode="after")
    def _devices_exist_as_kinds(self) -> Profile:
        if len(set(self.devices)) < len(self.devices):
            raise ValueError("devices must be given once each")
        for device in self.devices:
            if parse_url(device).in_browser:
                raise ValueError(
                    f"the device {device!r} measures in a phone's browser, which must be unlocked"
                    " and kept in front; measure it with `ackd profile`, or name a native runner by"
                    " ?runner=FILE"
                )
        return self

    @model_validator(mode="after")
    def _cap_above_minimum(self) -> Profile:
        if self.max_runs < self.min_runs:
            raise ValueError("max_runs must not be below min_runs")
        return self


class Analyze(Section):
    """What is compared between teacher, proxy, student and learners."""

    cka_images: PositiveInt = 2000
    """Test images for CKA and KL, the first so many."""
    grad_cam_images: Annotated[int, Field(ge=1, le=32)] = 8
    baseline: Annotated[str, Field(min_length=1)] | None = None
    """A ``reports/classes.csv`` that was kept of another run, to compare every class with."""


class Gate(Section):
    """The goals; null leaves one out."""

    min_accuracy: Fraction | None = None
    """Of the student on the test split."""
    max_drop_from_teacher: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Teacher's accuracy minus the student's."""
    max_export_drop: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Student's accuracy in torch minus that of each exported precision."""
    max_p90_ms: PositiveFloat | None = None
    """Of the quickest precision at one thread on the device that ran the profile."""
    max_size_mb: PositiveFloat | None = None
    """Of the largest static model file; MB = 10^6 bytes."""


class Package(Section):
    """The bundle."""

    version: str = "0.1.0"
    """One to three numbers; a device takes no older one than it serves."""
    license: str | None = None
    """Of the model, as an SPDX expression: ``Apache-2.0``, or ``LicenseRef-<name>`` for one of your
    own; null does not state any."""

    @field_validator("version", mode="before")
    @classmethod
    def _is_numbers(cls, value: object) -> object:
        # YAML's 1.10 would be the number 1.1.
        if not isinstance(value, str) or not re.fullmatch(VERSION, value):
            raise ValueError(
                f"expected one to three numbers, such as '1.2.0' in quotes, not {value}"
            )
        return value

    @field_validator("license")
    @classmethod
    def _is_spdx(cls, value: str | None) -> str | None:
        try:
            return None if value is None else canonicalize_license_expression(value)
        except InvalidLicenseExpression:
            raise ValueError(
                "expected an SPDX expression, such as Apache-2.0, or LicenseRef-Example for one of"
                f" your own, or null, not {value}"
            ) from None


class Report(Section):
    """What the report sets the measurements beside."""

    paper: Literal["cifar100", "cinic10", "tiny_imagenet", "imagenet"] | None = None
    """The data set of which the ACKD paper's figures are shown, those of this run's two
    networks."""


class Params(Section):
    """The whole of ``params.yaml``."""

    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    training: EngineSettings = EngineSettings()
    teacher: Teacher = Teacher()
    proxy: Proxy = Proxy()
    distill: Distill = Distill()
    export: Export = Export()
    validate_: Annotated[Validate, Field(alias="validate")] = Validate()
    litert: Litert = Litert()
    profile: Profile = Profile()
    analyze: Analyze = Analyze()
    report: Report = Report()
    gate: Gate = Gate()
    package: Package = Package()

    @model_validator(mode="after")
    def _candidates_begin_with_the_student(self) -> Params:
        candidates, student = self.proxy.candidates, self.distill.network
        if candidates and candidates[0] != student:
            raise ValueError(
                f"proxy.candidates begins with {candidates[0]}, expected the student, {student}"
            )
        if candidates and self.data.val_fraction == 0:
            raise ValueError(
                "proxy.candidates would be chosen from on the test images; set data.val_fraction"
                " above 0, or name the network in proxy.assistants"
            )
        return self


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 mapping, as DVC reads it (PyYAML would take ``1e-3`` for a string).

    Raises:
        InputError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        content = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run from the project's root") from None
    except (YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{path}: not readable as YAML ({detail}); correct the file") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected a mapping of sections; see the params.yaml of this project"
        )
    return content


def load_params(path: Path = PARAMS_FILE) -> Params:
    """The validated parameters.

    Raises:
        InputError: a key is unknown or a value does not fit; the message names each.
    """
    return parse_params(read_yaml(path), path)


def parse_params(content: dict[str, Any], path: Path = PARAMS_FILE) -> Params:
    """As :func:`load_params`, from a mapping; ``path`` is for the message."""
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        problems = [_sentence(dict(item)) for item in error.errors()]
        raise InputError(f"{path}: {'; '.join(problems)}") from None


def _sentence(problem: dict[str, Any]) -> str:
    keys = [str(part) for part in problem["loc"]]
    where = ".".join(keys) or "the file"
    if problem["type"] == "extra_forbidden":
        known = sorted(_known_keys(keys[:-1]))
        near = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
        return f"{where} is not a parameter; {hint}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["type"] == "value_error":  # of a whole section, which need not be shown
        return f"{where}: {message}"
    return f"{where} is {problem['input']!r}, expected {message}" if problem["loc"] else message


def _known_keys(path: list[str]) -> list[str]:
    section: type[BaseModel] = Params
    for key in path:
        fields = {field.alias or name: field for name, field in section.model_fields.items()}
        annotation = fields[key].annotation
        either = get_args(annotation) or (annotation,)
        sections = [a for a in either if isinstance(a, type) and issubclass(a, BaseModel)]
        if not sections:
            return []
        section = sections[0]
    return [field.alias or name for name, field in section.model_fields.items()]
