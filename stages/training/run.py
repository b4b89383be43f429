"""Set up and run a training from parameters; shared by all stages that train."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

import models
from models import distillers
from models.distillers.base import Distiller, Setting
from models.networks.backbone import Backbone
from models.networks.own import code_sha256
from models.weights import Origin, load_weights, state_sha256
from stages.checkpoints.checkpoint import Checkpoints, fingerprint
from stages.data.arrays import DataSet, load_data
from stages.data.feed.base import FeedPlan
from stages.data.feed.choice import build_feed
from stages.data.feed.normalize import Normalize
from stages.params import Params
from stages.sections.training import Teacher, Training
from stages.training.engine import Engine, start_engine
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.history import Progress
from stages.training.logits_store import LogitsStore, made_by
from stages.training.loop import Trainer


def weights_sha256(network: Backbone) -> str:
    """Hash the network's name and own code, its state dict and how it transforms its input."""
    inputs = {"input_scale": network.input_scale, "input_shift": network.input_shift}
    state = network.state_dict() | {k: t for k, t in inputs.items() if t is not None}
    known = [network.name, network.input_size, code_sha256(network.name), state_sha256(state)]
    return hashlib.sha256(" ".join(map(str, known)).encode()).hexdigest()


def build_distiller(
    method: str,
    student: Backbone,
    options: Mapping[str, Any],
    data: DataSet,
    settings: Training,
    engine: Engine,
    teacher: Backbone | None,
) -> Distiller:
    """Build a method for a training, on the engine's device."""
    setting = Setting(
        teacher,
        data.image_size,
        torch.from_numpy(data.labels("train")),
        settings.batch_size // engine.accelerator.num_processes,
        settings.epochs,
        engine.gather,
        settings.weights is not None,
    )
    return engine.place(distillers.build(method, student, setting, options), data.image_size)


class Start(NamedTuple):
    """A network before its training, and the origin of its weights; None if drawn from the seed."""

    network: Backbone
    origin: Origin | None

    def describe(self) -> dict[str, Any]:
        """Describe the origin for a metrics file."""
        if self.origin is None:
            return {}
        described = self.origin._asdict()
        described.pop("normalization")
        return {"weights": described}


class Trained(NamedTuple):
    distiller: Distiller  # with the final weights; the network is its student
    progress: Progress  # with the history and the best epoch
    checkpoints: Checkpoints  # to be cleared once the stage has written its outputs


@dataclass(frozen=True)
class Session:
    """What all trainings of a stage share."""

    stage: str
    params: Params
    data: DataSet
    engine: Engine

    @property
    def normalize(self) -> Normalize:
        return Normalize(self.data.mean, self.data.std, self.engine.device)

    def start(
        self, what: str, name: str, settings: Training, *, new_classifier: bool = True
    ) -> Start:
        """Build a network for these images and classes, with random or given weights.

        It takes images with the data's normalisation, whatever its weights were trained with.

        Raises:
            InputError: the network is unknown or cannot take images of this size, or the weights
                are unavailable or belong to another network.
        """
        data = self.data
        torch.manual_seed(settings.seed)
        network = models.build(name, len(data.classes))
        network.input_size = settings.image_size if isinstance(settings, Teacher) else None
        network.probe(data.image_size)
        if settings.weights is None:
            return Start(network, None)
        origin = load_weights(network, settings.weights, new_classifier=new_classifier)
        own = settings.normalization or origin.normalization
        if own is not None:
            # x is a normalised pixel; the network expects (x data_std + data_mean - mean) / std.
            channels = list(zip(data.mean, data.std, own.mean, own.std, strict=True))
            scale = [data_std / own_std for _, data_std, _, own_std in channels]
            shift = [(mean - own_mean) / own_std for mean, _, own_mean, own_std in channels]
            network.set_input(scale, shift)
        if self.engine.is_main:
            notes = "; ".join(origin.notes) or "every parameter, unchanged"
            print(f"{what}: weights from {origin.source}: {notes}", flush=True)
        return Start(network, origin)

    def train(
        self,
        what: str,
        network: Backbone,
        settings: Training,
        method: str = "scratch",
        options: Mapping[str, Any] | None = None,
        teacher: Backbone | None = None,
        unlabeled: int = 0,
    ) -> Trained:
        """Train a network, resuming an interrupted run of the same training."""
        data, params, engine = self.data, self.params, self.engine
        options = options or {}
        distiller = build_distiller(method, network, options, data, settings, engine, teacher)
        accelerator = engine.accelerator
        plan = FeedPlan(
            data,
            params.augmentation,
            settings.batch_size,
            engine.device,
            accelerator.process_index,
            accelerator.num_processes,
            distiller.needs_full_batches,
            distiller.min_batch,
            settings.label_smoothing,
            unlabeled,
            params.data.sampling,
            params.data.class_weights,
        )
        feed = build_feed(plan, params.data.feed)
        taught_by = None if teacher is None else weights_sha256(teacher)
        store = None
        if teacher is not None and distiller.needs == "logits" and params.training.logits_store:
            key = feed.identity() | {
                "teacher_sha256": taught_by,
                "precision": engine.precision,
                # Other kernels round differently.
                "computed_by": [torch.__version__, *engine.kernels(settings.batch_size)],
                "compile": params.training.compile,
            }
            store = LogitsStore(key | made_by(), feed.slots, teacher.num_classes)
            if engine.is_main:
                print(store.describe(settings.epochs), flush=True)
        chosen = {
            "augmentation": params.augmentation.model_dump(),
            "settings": settings.model_dump(include=set(Training.model_fields)),
            "network": [network.name, network.input_size, code_sha256(network.name)],
            "only_head": network.trunk_is_frozen,
            "starts_from": weights_sha256(network) if settings.weights else None,
            "method": method,
            "options": options,
            "unlabeled": unlabeled,
            "sampling": params.data.sampling,
            "class_weights": params.data.class_weights,
            "teacher_sha256": taught_by,
            "precision": engine.precision,
            "processes": accelerator.num_processes,
            "compile": params.training.compile,
            "sync_batchnorm": params.training.sync_batchnorm,
        }
        checkpoints = Checkpoints(self.stage, fingerprint(self.stage, chosen, data.folder))
        engine.track(self.stage, what)
        trainer = Trainer(
            what,
            distiller,
            FrozenTeacher(teacher, distiller, engine, store, feed.slots),
            feed,
            data.split("val"),
            settings,
            engine,
            checkpoints,
        )
        return Trained(distiller, trainer.train(), checkpoints)


def start_session(stage: str, params: Params) -> Session:
    """Load the data set, and join the stage's other processes; raises InputError if that fails."""
    return Session(stage, params, load_data(), start_engine(params.training))
