"""What cannot work is refused before it costs anything, by `ackd status`, `ackd run` and stages."""

from __future__ import annotations

from pathlib import Path

import models
from models.errors import InputError
from models.learners import check_codes
from stages.params import Params


def check(params: Params) -> None:
    """What ``params.yaml`` and this machine tell, in a second or two.

    Raises:
        InputError: a network is not known, cannot take the images' size or has no stages for its
            learners; a folder of images is not laid out as one; a runtime that is asked for is
            missing.
    """
    from stages.runtimes.litert_runtime import check_installed
    from stages.runtimes.tensorrt_runtime import TensorRtRuntime

    classes = 2  # of which nothing here depends
    between = params.proxy.assistants
    assistants = [*between.networks, *between.candidates]
    wanted = dict.fromkeys([params.teacher.network, *assistants, params.distill.network])
    networks = {name: models.build(name, classes) for name in wanted}
    if params.data.image_size is not None:
        for network in networks.values():
            network.probe(params.data.image_size)
    if params.distill.method == "ackd":
        # Of several candidates the one that teaches is not known yet.
        chain = between.networks if params.proxy.method == "assistants" else []
        taught_by = networks[[params.teacher.network, *chain][-1]]
        check_codes(params.distill.ackd.learners, networks[params.distill.network], taught_by)
    scheme, _, location = params.data.source.partition(":")
    # Who has what was prepared needs the folder no more.
    if scheme == "imagefolder" and Path(location).expanduser().is_dir():
        from stages.data.sources.schemes import open_source

        open_source(params.data)
    check_installed(params.litert)
    if params.validate_.tensorrt == "required":
        TensorRtRuntime().left_out(params.validate_)


def check_training(params: Params) -> None:
    """What the prepared images tell besides; of a library's network also whether it exports.

    The networks of this project export, as their tests show; another one takes some seconds.

    Raises:
        InputError: a batch is larger than the training images, or the student cannot be exported.
    """
    from stages.data.arrays import load_data

    data = load_data()
    sizes = {"distill": params.distill.batch_size}
    if params.teacher.checkpoint is None:
        sizes["teacher"] = params.teacher.batch_size
    if params.export.finetune.when != "never":
        sizes["export.finetune"] = params.export.finetune.batch_size
    for section, size in sizes.items():
        if size > data.count("train"):
            raise InputError(
                f"params.yaml: {section}.batch_size is {size}, more than the"
                f" {data.count('train')} training images; lower it"
            )
    name = params.distill.network
    if ":" not in name:
        return
    from stages.export_onnx import export_network
    from stages.runtimes.torch_runtime import DeployedNetwork

    network = DeployedNetwork(models.build(name, len(data.classes)), data.mean, data.std)
    try:
        export_network(network, data.image_size, params.export.opset, "dynamic")
    except Exception as error:  # whatever the exporter meets in another library's code
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"params.yaml: distill.network: {name} cannot be exported to ONNX with images of"
            f" {data.image_size} pixels ({reason:.200}); choose another student"
        ) from None
