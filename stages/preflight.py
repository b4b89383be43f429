"""Check parameters before anything is computed, for `ackd status`, `ackd run` and the stages."""

from collections.abc import Collection
from pathlib import Path

import models
from models import distillers
from models.errors import InputError
from models.learners import check_codes
from models.weights import check_published, download, load_weights
from stages.params import Params
from stages.schedule import compressed


def check(params: Params) -> None:
    """Check ``params.yaml`` on this machine; takes a second or two.

    Raises:
        InputError: a network is unknown, does not accept the image size, has no published weights
            or no stages for the method; an image folder has the wrong layout; a required runtime is
            missing.
    """
    from stages.runtimes.litert_runtime import check_installed
    from stages.runtimes.tensorrt_runtime import TensorRtRuntime

    classes = 2  # no check depends on the number
    between = params.proxy.assistants
    assistants = [*between.networks, *between.candidates]
    wanted = dict.fromkeys([params.teacher.network, *assistants, params.distill.network])
    networks = {name: models.build(name, classes) for name in wanted}
    size = params.data.image_size
    shown = [(name, size) for name in (*assistants, params.distill.network)]
    for name, pixels in [(params.teacher.network, params.teacher.image_size or size), *shown]:
        if pixels is not None:
            networks[name].probe(pixels)
    for training in (params.teacher, params.distill):
        if training.weights == "pretrained":
            check_published(training.network)
        file = training.weights_file
        # Like the images, it is not needed on a machine that has the results.
        if file is not None and file.exists():
            load_weights(networks[training.network], str(file))
    # Of candidates, the proxy is not known yet: the last stands for all.
    chain = assistants if params.proxy.method == "assistants" else []
    taught_by = networks[[params.teacher.network, *chain][-1]]
    student = networks[params.distill.network]
    distillers.check_networks(params.distill.method, student, taught_by)
    if params.distill.method == "ackd":
        check_codes(params.distill.ackd.learners, student, taught_by)
    scheme, _, location = params.data.source.partition(":")
    # The folder is not needed on a machine that has the prepared data.
    if scheme == "imagefolder" and Path(location).expanduser().is_dir():
        from stages.data.sources.schemes import open_source

        open_source(params.data)
    unlabeled = (params.data.unlabeled or "").partition(":")[2]
    if unlabeled and Path(unlabeled).expanduser().is_dir():
        from stages.data.sources.schemes import open_unlabeled

        open_unlabeled(params.data)
    if params.proxy.method == "early_stopped":
        compressed(params.teacher, params.proxy.early_stopped.epochs)
    _check_method(params)
    check_installed(params.litert)
    if params.validate_.tensorrt == "required":
        TensorRtRuntime().left_out(params.validate_)


def downloads(params: Params, stages: Collection[str]) -> list[str]:
    """List the weights that these stages would download, with size and licence if known."""
    teacher, student = params.teacher, params.distill
    starts = {
        "train_teacher": (teacher.network, teacher.weights),
        "distill": (student.network, student.weights),
    }
    found = [
        download(network, weights)
        for stage, (network, weights) in starts.items()
        if stage in stages and weights is not None
    ]
    return [name for name in dict.fromkeys(found) if name is not None]


def _check_method(params: Params) -> None:
    if params.unlabeled_per_batch:
        distillers.check_unlabeled(params.distill.method)


def check_training(params: Params) -> None:
    """Check what the stages from training on need, before anything is trained.

    Tests cover the export of this project's networks; trying another one takes a few seconds.

    Raises:
        InputError: a batch is larger than the training set, the method needs labels, the student's
            weights or the baseline are missing, candidates have no validation images, or the
            student cannot be exported.
    """
    from stages.data.arrays import load_data

    _check_method(params)
    for key, file in (
        ("distill.weights", params.distill.weights_file),
        ("analyze.baseline", params.analyze.baseline),
    ):
        if file is not None and not Path(file).exists():
            raise InputError(f"params.yaml: {key}: {file}: no such file; correct the path")
    data = load_data()
    between = params.proxy
    if between.method == "assistants" and between.assistants.candidates and data.validates_on_test:
        raise InputError(
            "params.yaml: proxy.assistants.candidates would be compared on the test images; set"
            " data.val_fraction above 0, or name the network in proxy.assistants.networks"
        )
    sizes = {"distill": params.distill.batch_size - params.unlabeled_per_batch}
    if params.teacher.train != "none":
        sizes["teacher"] = params.teacher.batch_size
    for section, size in sizes.items():
        if size > data.count("train"):
            raise InputError(
                f"params.yaml: {section}.batch_size needs {size} labeled images per step, more than"
                f" the {data.count('train')} training images; lower it"
            )
    name = params.distill.network
    if ":" not in name:
        return
    from stages.export_onnx import export_network
    from stages.runtimes.torch_runtime import DeployedNetwork

    network = DeployedNetwork(models.build(name, len(data.classes)), data.mean, data.std)
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
