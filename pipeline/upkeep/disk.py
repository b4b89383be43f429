"""What a run takes of the disk, estimated before it begins.

Networks are built, so that their parameters are the real ones; images are counted where that is
quick. For a run of all stages the estimate lies within a factor of 1.5 of what is then there.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
from models import distillers
from models.errors import InputError
from pipeline.dvc_config import cache_folder, links_outputs
from pipeline.sizes import bytes_and_time, files_below, show_bytes
from stages.checkpoints.places import checkpoints_root, logits_bound, logits_root
from stages.files import read_json, without_folders
from stages.params import Params, read_yaml
from stages.sections.training import Training

if TYPE_CHECKING:
    from models.networks.backbone import Backbone

#: Those that take disk.
STAGES = {"prepare_data", "train_teacher", "train_proxy", "distill", "prune", "export_onnx"}
STAGES |= {"export_litert", "profile_latency", "analyze", "package"}

_FP32 = 4
_LOGIT = 2
# Two are kept while the next one is written.
_CHECKPOINTS = 3
# Of one weight in the two files, dynamic and static, of each precision.
_EXPORTED = {"fp32": 2 * 4, "fp16": 2 * 2, "int8_u8s8": 2 * 1, "int8_s8s8": 2 * 1}
_LITERT = 4 + 1
_FILE = 20_000  # what an ONNX file has besides weights
_SMALL = 3_000_000  # latency samples, pictures, report and curves, whatever the network
_MARGIN_OF_NAMES = 1.02  # names and shapes beside the numbers

# What the embedded source and the presets' data sets hold; each is asked for only by its name.
_CLASSES = {"cifar100": 100, "cinic10": 10, "tiny_imagenet": 200, "imagenet": 1000}
_DIGITS, _DIGIT_CLASSES = 1797, 10
# A prime that no layer has as its width: what remembers each image is told by it.
_FEW_IMAGES = 2003


@dataclass(frozen=True)
class Counts:
    """Images of the splits, classes, and pixels of a side as training and test images have it."""

    train: int
    others: int
    classes: int
    train_side: int
    side: int

    @property
    def bytes(self) -> int:
        """uint8 pixels, and labels of 8 bytes."""
        pixels = 3 * (self.train * self.train_side**2 + self.others * self.side**2)
        return pixels + 8 * (self.train + self.others)


@dataclass(frozen=True)
class Need:
    """Disk that a stage takes.

    Attributes:
        stage: its name in ``dvc.yaml``.
        what: a word or two for a person.
        place: a folder, which need not exist.
        bytes: about.
    """

    stage: str
    what: str
    place: Path
    bytes: int


def count_images(params: Params) -> Counts | None:
    """Of the last run with the same source, of its folder, or of the paper; None where unknown."""
    data = params.data
    report = Path("reports/data.json")
    if report.is_file() and (known := read_json(report)).get("source") == (
        without_folders(data.source)
    ):
        size = data.image_size or int(known["image_size"])
        counts = {name: int(split["count"]) for name, split in known["splits"].items()}
        train, others = counts["train"], counts["val"] + counts["test"]
        classes = len(known["classes"])
    elif data.source == "digits":
        size, train, others, classes = data.image_size or 8, _DIGITS, 0, _DIGIT_CLASSES
    elif params.report.paper is not None and data.image_size is not None:
        table = _paper(params.report.paper)
        train, size, classes = table["train_images"], data.image_size, _CLASSES[params.report.paper]
        others = 2 * table["test_images"]  # which validate too
    elif data.source.startswith("imagefolder:") and data.image_size is not None:
        folder = Path(data.source.removeprefix("imagefolder:"))
        parents = [os.path.basename(os.path.dirname(file.path)) for file in files_below(folder)]  # noqa: PTH119, PTH120
        size, train, others, classes = data.image_size, len(parents), 0, len(set(parents))
    else:
        return None
    if data.train_per_class is not None:
        train = min(train, data.train_per_class * classes)
    return Counts(train, others, max(2, classes), data.resize or size, size)


def _paper(name: str) -> Mapping[str, Any]:
    for path in sorted(Path("docs/paper").glob("table*.yaml")):
        table: dict[str, Any] = read_yaml(path)
        if table.get("data") == name:
            return table
    raise InputError(f"docs/paper: no table of {name}, which report.paper names; set it to null")


def estimate(root: Path, params: Params) -> list[Need]:
    """What a run of every stage takes, DVC's copies included; images unknown count as none.

    Raises:
        InputError: a network or a method is not known, or an environment variable is wrong.
    """
    counts = count_images(params) or Counts(0, 0, 2, 1, params.data.image_size or 32)
    needs = [Need("prepare_data", "images", Path("artifacts/data"), counts.bytes)]
    teacher = models.build(params.teacher.network, counts.classes)
    student = models.build(params.distill.network, counts.classes)
    needs += _of_teacher_and_proxies(params, counts, teacher, student)
    distiller = _state(params.distill, params, counts, student, teacher)
    needs += _of_training("distill", distiller)
    needs.append(Need("distill", "networks", Path("artifacts/distilled"), distiller.weights))
    if distiller.needs_logits and params.training.logits_store:
        needs.append(_logits("distill", params.distill.epochs, counts))
    needs += _of_exports(params, student)
    copies = (
        []
        if links_outputs(root)
        else [
            Need(need.stage, "DVC's copies", cache_folder(root), need.bytes)
            for need in needs
            if need.place.parts[0] == "artifacts"
        ]
    )
    return needs + copies


@dataclass(frozen=True)
class _State:
    weights: int
    checkpoint: int
    needs_logits: bool


def _state(
    settings: Training,
    params: Params,
    counts: Counts,
    network: Backbone,
    teacher: Backbone | None,
    method: str | None = None,
) -> _State:
    """Bytes of what a training keeps, with a few images instead of all."""
    import torch

    from models.distillers.base import Setting

    labels = torch.arange(_FEW_IMAGES) % counts.classes
    setting = Setting(teacher, counts.side, labels, settings.batch_size, settings.epochs)
    options: Mapping[str, Any]
    if method is None:
        method, options = params.distill.method, params.distill.options()
    elif method == "kd":
        options = params.proxy.assistants.options()
    else:
        options = {}
    distiller = distillers.build(method, network, setting, options)

    def size(tensor: torch.Tensor) -> int:
        images = max(1, counts.train) if tensor.shape[:1] == (_FEW_IMAGES,) else 0
        return tensor.nbytes // _FEW_IMAGES * images if images else tensor.nbytes

    weights = sum(map(size, distiller.state_dict().values()))
    momentum = sum(map(size, distiller.parameters()))
    best = sum(tensor.nbytes for tensor in network.state_dict().values())
    checkpoint = weights + momentum + best
    if distiller.adversary is not None:  # its optimizer keeps a second moment
        checkpoint += sum(parameter.nbytes for parameter in distiller.adversary.parameters())
    return _State(
        int(weights * _MARGIN_OF_NAMES),
        int(checkpoint * _MARGIN_OF_NAMES),
        teacher is not None and distiller.needs == "logits",
    )


def _of_training(stage: str, state: _State) -> Iterator[Need]:
    yield Need(stage, "checkpoints", checkpoints_root(), _CHECKPOINTS * state.checkpoint)


def _of_teacher_and_proxies(
    params: Params, counts: Counts, teacher: Backbone, student: Backbone
) -> Iterator[Need]:
    settings = params.teacher
    alone = _state(settings, params, counts, teacher, None, "scratch")
    yield Need("train_teacher", "networks", Path("artifacts/teacher"), alone.weights)
    if settings.checkpoint is None:
        yield from _of_training("train_teacher", alone)
    proxy = params.proxy
    if proxy.method == "teacher":
        yield Need("train_proxy", "networks", Path("artifacts/proxy"), alone.weights)
        return
    if proxy.method == "early_stopped":
        yield Need("train_proxy", "networks", Path("artifacts/proxy"), alone.weights)
        yield from _of_training("train_proxy", alone)
        return
    # All of them keep their checkpoints until the last one is done.
    largest = 0
    for name in [*proxy.assistants.networks, *proxy.assistants.candidates]:
        network = models.build(name, counts.classes)
        state = _state(settings, params, counts, network, teacher, "kd")
        largest = max(largest, state.weights)
        yield from _of_training("train_proxy", state)
    for _ in proxy.assistants.networks or ["the one that is chosen"]:
        if params.training.logits_store:
            yield _logits("train_proxy", settings.epochs, counts)
    yield Need("train_proxy", "networks", Path("artifacts/proxy"), largest)


def _logits(stage: str, epochs: int, counts: Counts) -> Need:
    """At most: what is there already is known only when the teacher is."""
    place = logits_root()
    left = max(0, logits_bound() - bytes_and_time(place)[0])
    needed = epochs * counts.train * counts.classes * _LOGIT
    return Need(stage, "teacher logits", place, min(left, needed))


def _of_exports(params: Params, student: Backbone) -> Iterator[Need]:
    numbers = sum(parameter.numel() for parameter in student.parameters())
    yield Need("prune", "networks", Path("artifacts/student"), _FP32 * numbers)
    exports = sum(
        _EXPORTED[precision] * numbers + 2 * _FILE for precision in params.export.precisions
    )
    yield Need("export_onnx", "exports", Path("artifacts/onnx"), exports)
    if params.litert.enabled:
        yield Need("export_litert", "exports", Path("artifacts/litert"), _LITERT * numbers)
    # Packed, weights hardly shrink.
    for name in ("bundle", "bundle.tar.gz"):
        yield Need("package", "exports", Path("artifacts", name), exports)
    yield Need("profile_latency", "reports", Path("artifacts/latency"), _SMALL // 2)
    yield Need("analyze", "reports", Path("artifacts/analysis"), _SMALL // 2)


def describe(needs: Collection[Need]) -> str:
    """``12.3 MB: images 5.5 MB, ...``, the largest first."""
    by_kind: dict[str, int] = defaultdict(int)
    for need in needs:
        by_kind[need.what] += need.bytes
    parts = sorted(by_kind.items(), key=lambda item: -item[1])
    total = show_bytes(sum(by_kind.values()))
    shown = ", ".join(f"{what} {show_bytes(size)}" for what, size in parts)
    return f"{total}: {shown or 'nothing'}"


def missing_space(needs: Collection[Need]) -> str | None:
    """A sentence about the first disk that the needs do not fit on; None where all fit.

    What stands in a place now is replaced, and counts as free.
    """
    disks: dict[int, list[Need]] = defaultdict(list)
    for need in needs:
        disks[_existing(need.place).stat().st_dev].append(need)
    for on_disk in disks.values():
        taken = sum(need.bytes for need in on_disk)
        replaced = sum(
            bytes_and_time(place)[0]
            for place in {need.place for need in on_disk if need.place.parts[0] == "artifacts"}
        )
        place = min((need.place for need in on_disk), key=lambda path: len(path.parts))
        free = shutil.disk_usage(_existing(place)).free + replaced
        if taken > free:
            return (
                f"{place}: this run takes about {describe(on_disk)}; on that disk"
                f" {show_bytes(free)} are free, {show_bytes(taken - free)} too few; `ackd gc` says"
                " what can go, ACKD_CHECKPOINTS, ACKD_LOGITS and `dvc cache dir` name places on"
                " other disks, and `dvc repro` runs without this check"
            )
    return None


def require_space(root: Path, params: Params) -> str:
    """Look whether a run fits on the disk; a sentence that says what it takes.

    Only where a run of every stage would not fit does it look which of them will run, because
    that takes seconds.

    Raises:
        InputError: it does not.
    """
    from pipeline.dvc_runner import load_status

    needs, what = estimate(root, params), "a run of every stage"
    if missing_space(needs) is not None:
        moving = {s.name for s in load_status(root) if s.state in ("will run", "may run")}
        needs, what = [need for need in needs if need.stage in moving], "what will run"
        if (sentence := missing_space(needs)) is not None:
            raise InputError(sentence)
    return f"disk: {what} takes about {describe(needs)}{_uncounted(params)}"


def say_space(root: Path, params: Params, stages: Collection[str]) -> str | None:
    """What some stages take, and whether it fits; None where none of them takes any to speak of.

    Raises:
        InputError: as :func:`estimate`.
    """
    if not STAGES & set(stages):  # networks are not built for nothing
        return None
    needs = [need for need in estimate(root, params) if need.stage in stages]
    if (sentence := missing_space(needs)) is not None:
        return f"disk: too small: {sentence}"
    return f"disk: what will run takes about {describe(needs)}{_uncounted(params)}; it fits"


def _uncounted(params: Params) -> str:
    return "" if count_images(params) else ", besides the images, which nobody has counted yet"


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())
