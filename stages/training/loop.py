"""The training loop of teacher, assistants and student, whatever the method."""

import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from models.distillers.base import Distiller
from stages.checkpoints.checkpoint import Checkpoints
from stages.data.arrays import Images
from stages.data.feed.base import Feed, Shard
from stages.display import Display
from stages.sections.training import Training
from stages.training.average import Average
from stages.training.engine import Engine
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.history import Losses, Progress, Row, validate
from stages.training.optimizer import build_optimizer
from stages.training.resume import Resume


class Trainer:
    """Trains a student and everything that its method trains beside it.

    Afterwards the distiller has the weights of the last epoch, or their moving average if one is
    kept. The validation images only decide which epoch was best.
    """

    def __init__(
        self,
        what: str,
        distiller: Distiller,
        teacher: FrozenTeacher,
        feed: Feed,
        val: Images,
        settings: Training,
        engine: Engine,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.what, self.distiller, self.teacher = what, distiller, teacher
        self.feed, self.val, self.settings, self.engine = feed, val, settings, engine
        self.trained = [p for p in distiller.parameters() if p.requires_grad]
        optimizer, self.schedule = build_optimizer(distiller, settings, feed.steps)
        self.optimizer = engine.accelerator.prepare_optimizer(optimizer)
        parts = {"distiller": distiller, "optimizer": self.optimizer, "schedule": self.schedule}
        if distiller.adversary is not None:
            adversary = distiller.adversary_optimizer()
            self.adversary_optimizer = engine.accelerator.prepare_optimizer(adversary)
            parts["adversary"] = self.adversary_optimizer
        self.average = None if settings.ema is None else Average(distiller, settings.ema)
        if self.average is not None:
            parts["average"] = self.average
        self.wrapped = engine.distribute(distiller)
        self.resume = Resume(parts, engine, checkpoints)

    def train(self) -> Progress:
        """Train all epochs, or those that remain; raises InputError if a loss is not finite."""
        progress, settings, main = self.resume.load(), self.settings, self.engine.is_main
        done = progress.epoch * self.feed.steps + progress.step
        if done and main:
            step = f", step {progress.step + 1}" if progress.step else ""
            where = f"epoch {progress.epoch + 1}{step}"
            if progress.epoch == settings.epochs:
                where = "its end"
            print(f"{self.what}: resuming an interrupted training at {where}", flush=True)
        shown = self.what if main else None
        with Display(shown, settings.epochs, self.feed.steps, self.feed.seen, done) as display:
            while progress.epoch < settings.epochs:
                self._train_epoch(progress, display)
                row = self._end_epoch(progress)
                if main:
                    display.epoch(row)
                    self.engine.accelerator.log(row, step=progress.epoch)
                last = progress.epoch == settings.epochs
                if last or progress.epoch % self.engine.settings.checkpoint_every == 0:
                    self.resume.save(progress)
        if self.average is not None:
            self.average.apply()
        return progress

    def _train_epoch(self, progress: Progress, display: Display) -> None:
        start = time.perf_counter() - progress.seconds
        losses_so_far = Losses(progress)
        self.distiller.train()
        self.distiller.begin_epoch(progress.epoch)
        self.teacher.begin_epoch(progress.epoch, progress.step)
        for shard in self.feed.epoch(progress.epoch, progress.step):
            losses = self.step(shard)
            progress.step += 1
            losses_so_far.add(losses, len(shard.batch.labels))
            display.step(losses)
            if progress.step < self.feed.steps and self.resume.is_due(progress.step):
                losses_so_far.require_finite()
                progress.seconds = time.perf_counter() - start
                self._average_statistics()
                progress.sums = {k: self.engine.average(s) for k, s in progress.sums.items()}
                self.resume.save(progress)
        losses_so_far.require_finite()
        self.teacher.end_epoch(progress.epoch)
        progress.seconds = time.perf_counter() - start

    def step(self, shard: Shard) -> dict[str, Tensor]:
        """Run the forward pass, the adversary's step, the losses and the main step."""
        autocast = self.engine.accelerator.autocast
        batch = shard.batch
        teacher = self.teacher(batch)
        with autocast():
            outputs = self.wrapped(batch.images)
        if self.distiller.adversary is not None:
            self._step_adversary(outputs, shard.weight)
        with autocast():
            losses = self.distiller.losses(outputs, batch, teacher)
        self.optimizer.zero_grad(set_to_none=True)
        self.engine.accelerator.backward(losses["total"] * shard.weight)
        if self.settings.clip_gradient is not None:
            self.engine.accelerator.clip_grad_norm_(self.trained, self.settings.clip_gradient)
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update()
        return losses

    def _step_adversary(self, outputs: Any, weight: float) -> None:
        adversary = self.distiller.adversary
        assert adversary is not None
        adversary.requires_grad_(True)
        with self.engine.accelerator.autocast():
            loss = self.distiller.adversary_loss(outputs)
        self.adversary_optimizer.zero_grad(set_to_none=True)
        self.engine.accelerator.backward(loss * weight)
        for parameter in adversary.parameters():
            assert parameter.grad is not None
            parameter.grad.copy_(self.engine.average(parameter.grad))
        self.adversary_optimizer.step()
        adversary.requires_grad_(False)  # the main step updates only the learners

    def _average_statistics(self) -> None:
        """Average all BatchNorm statistics over the processes, for checkpoints and validation."""
        self.engine.average_statistics(self.distiller)
        if self.average is not None:
            self.average.merge(self.engine)

    def _end_epoch(self, progress: Progress) -> Row:
        """Sum up and validate the epoch, and begin the next."""
        engine, seen = self.engine, self.feed.seen
        sums = torch.stack(list(progress.sums.values()))
        totals = engine.average(sums) * engine.accelerator.num_processes
        self._average_statistics()
        row: Row = {
            "epoch": progress.epoch + 1,
            "learning_rate": float(max(self.schedule.get_last_lr())),
            "seconds": progress.seconds,
            "images_per_second": seen / progress.seconds,
        }
        for name, total in zip(progress.sums, totals.tolist(), strict=True):
            row[f"loss/{name}"] = total / seen
        if engine.is_main:
            averaged = nullcontext() if self.average is None else self.average.applied()
            with averaged:  # in float32, like the final metrics
                row |= validate(self.distiller, self.val, self.feed.normalize)
                progress.keep(row, self.distiller.student.state_dict())
        progress.next_epoch()
        return row
