"""From parameters to a training: what the stages that train have in common."""

from __future__ import annotations

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
from stages.sections.common import Section
from stages.sections.training import Teacher, Training
from stages.training.engine import Engine, start_engine
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.history import Progress
from stages.training.logits_store import LogitsStore
from stages.training.loop import Trainer


def weights_sha256(network: Backbone) -> str:
    """Of the network's name, every number of its state dict, and what it makes of its input."""
    inputs = {"input_scale": network.input_scale, "input_shift": network.input_shift}
    state = network.state_dict() | {k: t for k, t in inputs.items() if t is not None}
    known = [network.name, network.input_size, state_sha256(state)]
    return hashlib.sha256(" ".join(map(str, known)).encode()).hexdigest()


def setting_of(
    data: DataSet, settings: Training, engine: Engine, teacher: Backbone | None = None
) -> Setting:
    """What a method is built for."""
    return Setting(
        teacher,
        data.image_size,
        torch.from_numpy(data.labels("train")),
        settings.batch_size // engine.accelerator.num_processes,
        settings.epochs,
        engine.gather,
        settings.weights is not None,
    )


class Start(NamedTuple):
    """A network as its training begins, and where its weights come from; None is nowhere."""

    network: Backbone
    origin: Origin | None

    def describe(self) -> dict[str, Any]:
        """The origin for a metrics file."""
        if self.origin is None:
            return {}
        described = self.origin._asdict()
        described.pop("normalization")
        return {"weights": described}


class Trained(NamedTuple):
    """What a training leaves.

    Attributes:
        distiller: with the weights of the last epoch; the network is its student.
        progress: the rest.
        checkpoints: to be cleared when all that the stage writes is written.
    """

    distiller: Distiller
    progress: Progress
    checkpoints: Checkpoints


@dataclass(frozen=True)
class Session:
    """What the trainings of a stage have in common."""

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
        """A network for these images and classes, drawn from the seed or from weights.

        It takes images that are normalised as the data are, whatever its weights were trained with.

        Args:
            new_classifier: as of :func:`models.weights.load_weights`.

        Raises:
            InputError: the network is not known, or cannot take images of this size; the weights
                cannot be had, or are not its own.
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
            # x data_std + data_mean is the pixel; less own mean, by own std, the network's input.
            channels = list(zip(data.mean, data.std, own.mean, own.std, strict=True))
            scale = [data_std / own_std for _, data_std, _, own_std in channels]
            shift = [(mean - own_mean) / own_std for mean, _, own_mean, own_std in channels]
            network.set_input(scale, shift)
        if self.engine.is_main:
            notes = "; ".join(origin.notes) or "every parameter, unchanged"
            print(f"{what}: weights of {origin.source}: {notes}", flush=True)
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
        """Train a network, going on from where an interrupted run of the same training ended."""
        data, params, engine = self.data, self.params, self.engine
        options = options or {}
        setting = setting_of(data, settings, engine, teacher)
        distiller = engine.place(
            distillers.build(method, network, setting, options), data.image_size
        )
        accelerator = engine.accelerator
        plan = FeedPlan(
            data,
            params.augmentation,
            settings.batch_size,
            engine.device,
            accelerator.process_index,
            accelerator.num_processes,
            distiller.needs_full_batches,
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
                # What else rounds: other kernels give other last bits.
                "computed_by": [torch.__version__, *engine.kernels(settings.batch_size)],
                "compile": params.training.compile,
            }
            store = LogitsStore(key, feed.slots, teacher.num_classes)
            if engine.is_main:
                print(store.describe(settings.epochs), flush=True)
        chosen = {
            "augmentation": params.augmentation.model_dump(),
            "settings": {key: _plain(getattr(settings, key)) for key in Training.model_fields},
            "network": [network.name, network.input_size, code_sha256(network.name)],
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
        if params.training.tracker != "none":
            accelerator.init_trackers(self.stage)
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


def _plain(value: Any) -> Any:
    """Of a parameter, as JSON has it."""
    return value.model_dump() if isinstance(value, Section) else value


def start_session(stage: str, params: Params) -> Session:
    """Open the data set, and join this process to the others of the stage.

    Raises:
        InputError: the data set is missing or damaged, or the engine cannot start.
    """
    return Session(stage, params, load_data(), start_engine(params.training))
