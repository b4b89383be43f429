"""Check parameters before anything is computed, for `ackd status`, `ackd run` and the stages."""

from collections.abc import Collection
from pathlib import Path

import torch

import models
from models import distillers
from models.distillers.base import Setting
from models.errors import InputError
from models.learners import check_codes
from models.networks.backbone import Backbone
from models.weights import check_published, download, load_weights
from stages.analysis.classes import read_baseline
from stages.devices.urls import parse_url
from stages.params import Params
from stages.schedule import compressed
from stages.sections.training import Training


def check(params: Params) -> None:
    """Check ``params.yaml`` on this machine; takes a second or two.

    Raises:
        InputError: as :func:`check_settings`, an image folder has the wrong layout, or the key that
            signs the bundle cannot be used.
    """
    from stages.bundle.keys import configured_key
    from stages.data.sources.schemes import open_source, open_unlabeled

    configured_key()
    data = params.data
    check_settings(params, data.image_size)
    for source, open_it in ((data.source, open_source), (data.unlabeled, open_unlabeled)):
        scheme, _, location = (source or "").partition(":")
        # The folder is not needed on a machine that has the prepared data.
        if scheme == "imagefolder" and Path(location).expanduser().is_dir():
            open_it(data)


def check_settings(params: Params, size: int | None, classes: int = 2) -> None:
    """Check everything but the images, whose height and width may be known.

    Raises:
        InputError: a network is unknown, does not accept the image size, has no published weights,
            or no layers, stages or maps as the settings need them; a required runtime is missing.
    """
    from stages.runtimes.litert_runtime import check_installed
    from stages.runtimes.tensorrt_runtime import TensorRtRuntime

    padding, reflects = params.augmentation.crop_padding, params.augmentation.pad_mode == "reflect"
    if size is not None and reflects and padding >= size:
        raise InputError(
            f"augmentation.crop_padding is {padding}, too large to reflect images of {size} pixels;"
            " use less or pad_mode: zero"
        )
    _check_networks(params, size, classes)
    if params.proxy.method == "early_stopped":
        try:
            compressed(params.teacher, params.proxy.early_stopped.epochs)
        except InputError as error:
            raise InputError(f"params.yaml: proxy.early_stopped.epochs: {error}") from None
    check_installed(params.litert)
    if params.validate_.tensorrt == "required":
        TensorRtRuntime().left_out(params.validate_)


def _check_networks(params: Params, size: int | None, classes: int) -> None:
    teacher, distill, between = params.teacher, params.distill, params.proxy.assistants
    assistants = params.proxy.all_assistants
    wanted = dict.fromkeys([teacher.network, *assistants])
    networks = {name: models.build(name, classes) for name in wanted}
    networks[teacher.network].input_size = teacher.image_size
    student = models.build(distill.network, classes)
    for network in (*networks.values(), student):
        if pixels := network.input_size or size:
            network.probe(pixels)
    for _, name, settings in _starts(params):
        network = student if settings is distill else networks[name]
        file = settings.weights_file
        # Like the images, it is not needed on a machine that has the results.
        if file is not None and file.exists():
            load_weights(network, str(settings.weights))
        if settings.weights == "pretrained":
            check_published(name)
        if settings.layer_decay != 1 and (settings is distill or teacher.train != "none"):
            from stages.training.optimizer import check_layers  # imports slowly

            check_layers(network, settings.layer_decay)
    proxies = [teacher.network, *assistants][-1:]
    if assistants and between.candidates:  # any of them but the student's network
        proxies = assistants[1:]
    for name in proxies:
        _check_method(params, student, networks[name], size)


def _starts(params: Params) -> list[tuple[str, str, Training]]:
    """Return stage, network and settings of all trainings that can start from weights."""
    teacher, distill, proxy = params.teacher, params.distill, params.proxy
    starts: list[tuple[str, str, Training]] = [
        ("train_teacher", teacher.network, teacher),
        ("distill", distill.network, distill),
    ]
    if teacher.weights == "pretrained" and teacher.train != "none":
        again = [teacher.network] if proxy.method == "early_stopped" else proxy.all_assistants
        starts += [("train_proxy", name, teacher) for name in again]
    return starts


def _check_method(params: Params, student: Backbone, teacher: Backbone, size: int | None) -> None:
    settings = params.distill
    if params.unlabeled_per_batch:
        distillers.check_unlabeled(settings.method)
    distillers.load(settings.method).check_networks(student, teacher)
    if settings.method != "ackd":
        return  # the others fit all networks, and may take long to build
    if size is None:
        check_codes(settings.ackd.learners, student, teacher)
        return
    labels, copies = torch.arange(4) % 2, settings.weights is not None
    setting = Setting(teacher, size, labels, settings.batch_size, settings.epochs, copies=copies)
    distillers.build(settings.method, student, setting, settings.options())


def downloads(params: Params, stages: Collection[str]) -> list[str]:
    """List the weights that these stages would download, with size and licence if known."""
    found = [
        download(network, settings.weights)
        for stage, network, settings in _starts(params)
        if stage in stages and settings.weights is not None
    ]
    return [name for name in dict.fromkeys(found) if name is not None]


def check_training(params: Params, processes: int = 1) -> None:
    """Check what the stages from training on need, before anything is trained.

    Tests cover the export of this project's networks; trying another one takes a few seconds.

    Raises:
        InputError: as :func:`check_settings`, or a batch is larger than the training set or too
            small for the method and the processes, the student's weights are missing or cannot be
            downloaded, the baseline is missing, damaged or of other classes, a phone's runner is
            missing, candidates have no validation images, or the student cannot be exported.
    """
    from stages.data.arrays import load_data
    from stages.data.feed.base import FeedPlan

    data = load_data()
    check_settings(params, data.image_size, len(data.classes))
    _check_files(params, data.classes)
    between = params.proxy
    if between.method == "assistants" and between.assistants.candidates and data.validates_on_test:
        raise InputError(
            "params.yaml: proxy.assistants.candidates would be compared on the test images; set"
            " data.val_fraction above 0, or name the network in proxy.assistants.networks"
        )
    method, unlabeled = distillers.load(params.distill.method), params.unlabeled_per_batch
    batches = {"distill": (params.distill.batch_size, method, unlabeled)}
    if params.teacher.train != "none" or params.proxy.method != "teacher":
        batches["teacher"] = (params.teacher.batch_size, distillers.load("scratch"), 0)
    for section, (size, method, unlabeled) in batches.items():
        plan = (data, params.augmentation, size, torch.device("cpu"), 0, processes)
        try:
            FeedPlan(*plan, method.needs_full_batches, method.min_batch, unlabeled=unlabeled)
        except InputError as error:
            raise InputError(f"params.yaml: {section}.{error}") from None
    settings, student = params.distill, models.build(params.distill.network, len(data.classes))
    if settings.weights is not None and settings.weights_file is None:
        # Downloaded now, as hours of training the teacher may lie between.
        load_weights(student, settings.weights)
    if params.training.sync_batchnorm:
        from stages.training.engine import require_plain_batchnorms  # imports slowly

        require_plain_batchnorms(student)
    name = settings.network
    if ":" not in name:
        return
    from stages.export_onnx import export_network
    from stages.runtimes.torch_runtime import DeployedNetwork

    network = DeployedNetwork(student, data.mean, data.std)
    try:
        export_network(network, data.image_size, params.export.opset)
    except Exception as error:  # the exporter runs another library's code
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter's own message is for its developers
            cause = cause.__cause__
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise InputError(
            f"params.yaml: distill.network: {name} cannot be exported to ONNX with images of"
            f" {data.image_size} pixels ({reason:.200}); choose another student"
        ) from None


def _check_files(params: Params, classes: list[str]) -> None:
    from stages.devices.native_runner import files_of

    weights, baseline = params.distill.weights_file, params.analyze.baseline
    if weights is not None and not weights.exists():
        raise InputError(f"params.yaml: distill.weights: {weights}: no such file; correct the path")
    if baseline is not None:
        read_baseline(Path(baseline), classes)
    for device in params.profile.devices:
        if runner := parse_url(device).options.get("runner"):
            files_of(runner, device)
