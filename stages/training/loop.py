"""One loop for every method: the teacher, the proxies and the student are all trained here."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from models.backbone import Backbone
from models.distillers.base import Distiller
from models.errors import InputError
from models.similarity import linear_cka
from stages.data.arrays import Images
from stages.data.feed import Feed
from stages.sections.training import Training
from stages.training.checkpoint import Checkpoints
from stages.training.display import Display
from stages.training.engine import Engine
from stages.training.evaluate import Seen, accuracy, observe
from stages.training.lessons import Lessons
from stages.training.logits_store import LogitsStore
from stages.training.optimizer import build_optimizer

Row = dict[str, float]

#: Steps after which all processes ask each other whether a checkpoint is due, and after which a
#: GPU is asked whether its losses were finite: both make it wait.
_ASK_EVERY = 50


@dataclass
class Progress:
    """How far a training is; what a checkpoint holds besides weights and optimizers.

    Attributes:
        epoch: counted from 0; the one that is going on.
        step: batches of it that are done.
        sums: each loss, summed over the epoch's samples of this process so far.
        seconds: spent on the epoch so far.
        history: a row for each epoch that is done.
        best_epoch: counted from 1, the first with the highest accuracy on validation.
        best_accuracy: its accuracy.
        best_student: the student's state dict of that epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_student: dict[str, Tensor] = field(default_factory=dict)


class Trainer:
    """Trains a student and all that belongs to its method.

    The weights in the distiller are those of the last epoch.

    Args:
        what: the name that progress is shown under.
        distiller: on the engine's device.
        teacher: where the method needs one; it runs in eval mode without gradients.
        feed: the training images.
        val: what accuracy is watched on; it decides nothing but which epoch was best.
        settings: epochs, learning rate and so on.
        engine: devices, processes, precision.
        checkpoints: where an interrupted training goes on from; None keeps none.
        store: of the teacher's logits, where they are kept.

    Raises:
        InputError: the method needs a teacher and there is none.
    """

    def __init__(
        self,
        what: str,
        distiller: Distiller,
        teacher: Backbone | None,
        feed: Feed,
        val: Images,
        settings: Training,
        engine: Engine,
        checkpoints: Checkpoints | None = None,
        store: LogitsStore | None = None,
    ) -> None:
        self.what, self.distiller, self.feed, self.val = what, distiller, feed, val
        self.settings, self.engine, self.checkpoints = settings, engine, checkpoints
        self.lessons = Lessons(teacher, distiller, engine, store, len(feed))
        self.adversary = distiller.adversary_optimizer()
        adversarial = _parameters_of(self.adversary)
        parameters = [p for p in distiller.parameters() if id(p) not in adversarial]
        optimizer, self.schedule = build_optimizer(parameters, settings, feed.steps)
        if self.adversary is not None:
            # Its step lies within the forward pass, where the wrapper for several processes cannot
            # average gradients: this loop does.
            names = [n for n, p in distiller.named_parameters() if id(p) in adversarial]
            distiller._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]
            distiller.step_adversary = self._step_adversary
            self.adversary = engine.accelerator.prepare_optimizer(self.adversary)
        distiller.gather = engine.gather
        self.wrapped = engine.accelerator.prepare_model(distiller)
        self.optimizer = engine.accelerator.prepare_optimizer(optimizer)
        self.weight = 1.0
        self.progress = Progress()
        self.unchecked: list[tuple[int, dict[str, Tensor]]] = []
        self.last_saved = time.monotonic()

    def train(self) -> Progress:
        """Train all epochs, or those that an interrupted training has left.

        Raises:
            InputError: a loss is not finite.
        """
        self._resume()
        progress, settings = self.progress, self.settings
        done = progress.epoch * self.feed.steps + progress.step
        shown = self.what if self.engine.is_main else None
        with Display(shown, settings.epochs, self.feed.steps, self.feed.seen, done) as display:
            while progress.epoch < settings.epochs:
                self._train_epoch(display)
                row = self._finish_epoch()
                if self.engine.is_main:
                    display.epoch(row)
                    self.engine.accelerator.log(row, step=int(row["epoch"]))
                last = progress.epoch == settings.epochs
                if last or progress.epoch % self.engine.settings.checkpoint_every == 0:
                    self._save()
        return progress

    def _train_epoch(self, display: Display) -> None:
        progress = self.progress
        start = time.perf_counter() - progress.seconds
        self.distiller.train()
        self.distiller.begin_epoch(progress.epoch)
        self.lessons.begin_epoch(progress.epoch, progress.step)
        for share in self.feed.epoch(progress.epoch, progress.step):
            self.weight = share.weight
            knowledge = self.lessons(share.batch)
            losses: dict[str, Tensor] = self.wrapped(share.batch, knowledge)
            self.optimizer.zero_grad(set_to_none=True)
            self.engine.accelerator.backward(losses["total"] * share.weight)
            self.optimizer.step()
            self.schedule.step()
            progress.step += 1
            self._count(losses, len(share.batch.labels))
            display.step(losses)
            if self._checkpoint_is_due():
                progress.seconds = time.perf_counter() - start
                self._save()
        self._require_finite()
        self.lessons.end_epoch(progress.epoch)
        progress.seconds = time.perf_counter() - start

    def _count(self, losses: Mapping[str, Tensor], samples: int) -> None:
        detached = {name: loss.detach() for name, loss in losses.items()}
        self.unchecked.append((self.progress.step, detached))
        if self.engine.device.type == "cpu" or len(self.unchecked) == _ASK_EVERY:
            self._require_finite()
        sums = self.progress.sums
        for name, loss in detached.items():
            part = loss.double() * samples
            sums[name] = sums[name] + part if name in sums else part

    def _require_finite(self) -> None:
        for step, losses in self.unchecked:
            for name, loss in losses.items():
                if not math.isfinite(loss.item()):
                    kept = "; the last checkpoint is kept" if self.progress.history else ""
                    raise InputError(
                        f"the loss {name!r} became {loss.item()} in epoch"
                        f" {self.progress.epoch + 1}, step {step};"
                        f" use a smaller learning_rate{kept}"
                    )
        self.unchecked.clear()

    def _finish_epoch(self) -> Row:
        """Sum up the epoch, look at validation, and begin the next."""
        progress, engine = self.progress, self.engine
        learning_rate = self.schedule.get_last_lr()[0]
        names = list(progress.sums)
        sums = torch.stack([progress.sums[name] for name in names])
        totals = engine.average(sums) * engine.accelerator.num_processes
        self._average_statistics()
        row: Row = {"epoch": progress.epoch + 1, "learning_rate": float(learning_rate)}
        row |= {"seconds": progress.seconds, "images_per_second": self.feed.seen / progress.seconds}
        for name, total in zip(names, totals.tolist(), strict=True):
            row[f"loss/{name}"] = total / self.feed.seen
        if engine.is_main:
            self.distiller.eval()
            with engine.accelerator.autocast():
                seen = observe(self.distiller.observe, self.val, self.feed.normalize)
            row |= _on_validation(seen, self.val)
            progress.history.append(row)
            if row["val_accuracy"] > progress.best_accuracy:
                progress.best_epoch = progress.epoch + 1
                progress.best_accuracy = row["val_accuracy"]
                student = self.distiller.student.state_dict()
                progress.best_student = {name: t.cpu().clone() for name, t in student.items()}
        progress.epoch += 1
        progress.step, progress.seconds, progress.sums = 0, 0.0, {}
        return row

    def _average_statistics(self) -> None:
        """Give every process the mean of all processes' BatchNorm statistics.

        Each is a moving average, which is linear in what it averages: the mean is the moving
        average of what all processes have seen.
        """
        if self.engine.accelerator.num_processes > 1:
            for module in self.distiller.modules():
                if isinstance(module, _BatchNorm) and module.running_mean is not None:
                    assert module.running_var is not None
                    for statistic in (module.running_mean, module.running_var):
                        statistic.copy_(self.engine.average(statistic.clone()))

    def _step_adversary(self, loss: Tensor) -> None:
        assert self.adversary is not None
        accelerator = self.engine.accelerator
        self.adversary.zero_grad(set_to_none=True)
        accelerator.backward(loss * self.weight)
        if accelerator.num_processes > 1:
            for group in self.adversary.param_groups:
                for parameter in group["params"]:
                    parameter.grad.copy_(self.engine.average(parameter.grad))
        self.adversary.step()

    def _checkpoint_is_due(self) -> bool:
        """Whether a checkpoint within the epoch is due; the same answer in all processes."""
        if self.checkpoints is None or self.progress.step == self.feed.steps:
            return False
        several = self.engine.accelerator.num_processes > 1
        if several and self.progress.step % _ASK_EVERY:
            return False
        minutes = (time.monotonic() - self.last_saved) / 60
        due = minutes >= self.engine.settings.checkpoint_minutes
        if several:
            asked = torch.tensor(float(due and self.engine.is_main), device=self.engine.device)
            due = bool(self.engine.average(asked) > 0)
        return due

    def _save(self) -> None:
        self._require_finite()
        progress, accelerator = self.progress, self.engine.accelerator
        if progress.step:
            self._average_statistics()
            if accelerator.num_processes > 1:
                for name, total in progress.sums.items():
                    progress.sums[name] = self.engine.average(total)
        if self.checkpoints is not None and self.engine.is_main:
            self.checkpoints.save(
                {
                    "progress": dict(vars(progress)),
                    "distiller": self.distiller.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "adversary": None if self.adversary is None else self.adversary.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "scaler": None
                    if accelerator.scaler is None
                    else accelerator.scaler.state_dict(),
                    "random": torch.get_rng_state(),
                    "random_cuda": torch.cuda.get_rng_state_all(),
                }
            )
        self.last_saved = time.monotonic()

    def _resume(self) -> None:
        state: dict[str, Any] | None = None
        if self.checkpoints is not None:
            state = self.checkpoints.load()
        if state is None:
            return
        progress = Progress(**state["progress"])
        progress.sums = {k: total.to(self.engine.device) for k, total in progress.sums.items()}
        self.progress = progress
        self.distiller.load_state_dict(state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
        self.schedule.load_state_dict(state["schedule"])
        if self.engine.accelerator.scaler is not None:
            self.engine.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if len(state["random_cuda"]) == torch.cuda.device_count() > 0:
            torch.cuda.set_rng_state_all(state["random_cuda"])
        if self.engine.is_main:
            where = f"epoch {progress.epoch + 1}" + (
                f", step {progress.step + 1}" if progress.step else ""
            )
            print(f"{self.what}: an interrupted training goes on at {where}", flush=True)


def _parameters_of(optimizer: Optimizer | None) -> set[int]:
    if optimizer is None:
        return set()
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _on_validation(seen: Seen, val: Images) -> Row:
    accuracies = {name: accuracy(logits, val) for name, logits in seen.logits.items()}
    row: Row = {"val_accuracy": accuracies.pop("target")}
    row |= {f"val_accuracy/{name}": value for name, value in accuracies.items()}
    row |= {name: float(values.mean()) for name, values in seen.measures.items()}
    for a, b in itertools.combinations(seen.embeddings, 2):
        row[f"cka/{a}~{b}"] = linear_cka(seen.embeddings[a], seen.embeddings[b])
    return row
