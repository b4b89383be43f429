"""What a sweep would cost, from what was measured here; ``unknown`` where nothing was."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from models.errors import InputError
from pipeline.git_refs import git
from pipeline.presets import leaves
from pipeline.sweep.commits import list_experiments
from pipeline.sweep.plan import Experiment, Plan, value_of
from pipeline.sweep.run import duration

_HISTORIES = {
    "train_teacher": ("reports/teacher/history.csv", "teacher"),
    "distill": ("reports/distill/history.csv", "distill"),
}
_NO_PACE = (
    "seed",
    "epochs",
    "schedule",
    "milestones",
    "learning_rate",
    "momentum",
    "weight_decay",
    "temperature",
)
"""What of a training does not change the seconds of its epochs."""
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Run:
    """A commit with a chain that ran: what ``dvc.lock`` says of it."""

    revision: str
    stages: Mapping[str, Any]

    def params(self, stage: str) -> dict[str, Any]:
        """By their full names, whether they are declared one by one or as a section."""
        found: dict[str, Any] = {}
        for content in self.stages.get(stage, {}).get("params", {}).values():
            found.update(leaves(content))
        return found

    def size(self, stage: str) -> int | None:
        """Bytes that a stage left."""
        if stage not in self.stages:
            return None
        return sum(int(out.get("size", 0)) for out in self.stages[stage].get("outs", []))


def show(plan: Plan, done: Collection[str]) -> None:
    """Print what would run, what is done, and what it would cost."""
    runs = list(_runs())
    console = Console(emoji=False)
    table = Table("experiment", "state", "training of the student", box=None, header_style="bold")
    seconds: list[float | None] = []
    sizes: list[int | None] = []
    made = {key for item in plan.experiments if item.name in done for key in item.shared}
    for item in plan.experiments:
        student = _training("distill", item, plan, runs)
        table.add_row(
            item.name,
            "done" if item.name in done else "will run",
            "" if student == 0 else _time(student),
        )
        if item.name in done:
            continue
        seconds.append(student)
        for stage in plan.stages:
            key = item.keys[stage.name]
            if key in made:
                continue
            if key in item.shared:
                made.add(key)
            if stage.name == "train_teacher":
                seconds.append(_training(stage.name, item, plan, runs))
            sizes.append(_size(stage.name, item, runs))
    console.print(table)
    left = len(plan.experiments) - len(done)
    console.print(f"{len(plan.experiments)} experiments, {len(done)} done, {left} to run")
    if left:
        time = _total(seconds, _time, "trainings whose time is unknown")
        disk = _total(sizes, _megabytes, "results of stages whose size is unknown")
        console.print(
            f"time: {time}; trainings one after the other, a teacher that is shared counted once,"
            " and no other stages",
            highlight=False,
        )
        console.print(
            f"disk: {disk}; in the DVC cache: checkpoints, workspaces and logits come and go",
            highlight=False,
        )


def _runs() -> Iterator[_Run]:
    """The last commit, and every experiment."""
    revisions = [item.revision for found in list_experiments().values() for item in found]
    for revision in ["HEAD", *revisions]:
        try:
            text = git(Path(), "show", f"{revision}:dvc.lock")
        except InputError:
            continue
        content = YAML(typ="safe").load(text)
        if isinstance(content, dict):
            yield _Run(revision, content.get("stages", {}))


def _training(stage: str, item: Experiment, plan: Plan, runs: list[_Run]) -> float | None:
    """Seconds of a training; 0 where it is not part of the chain, None where none is known."""
    if stage not in [one.name for one in plan.stages]:
        return 0.0
    path, section = _HISTORIES[stage]
    if stage == "train_teacher" and item.params[section]["checkpoint"]:
        return 0.0
    for run in runs:
        if stage in run.stages and _same_pace(stage, item, run):
            try:
                rows = list(
                    csv.DictReader(io.StringIO(git(Path(), "show", f"{run.revision}:{path}")))
                )
                each = statistics.median(float(row["seconds"]) for row in rows)
            except (InputError, KeyError, ValueError):
                continue
            return each * float(item.params[section]["epochs"])
    return None


def _same_pace(stage: str, item: Experiment, run: _Run) -> bool:
    """Whether an epoch would do the same work."""
    for above in ("prepare_data", stage):
        for name, recorded in run.params(above).items():
            counts = name.rpartition(".")[2] not in _NO_PACE
            if counts and recorded != value_of(item.params, name):
                return False
    wanted = item.params["teacher"]["network"]
    return bool(run.params("train_teacher").get("teacher.network", wanted) == wanted)


def _size(stage: str, item: Experiment, runs: list[_Run]) -> int | None:
    for run in runs:
        if stage in run.stages and all(
            run.params(above).get(name) == value_of(item.params, name)
            for above, name in (
                ("train_teacher", "teacher.network"),
                ("distill", "distill.network"),
                ("distill", "distill.method"),
            )
            if above in run.stages
        ):
            return run.size(stage)
    return None


def _total(values: Sequence[float | None], say: Callable[[float], str], unknown: str) -> str:
    """The sum of what is known, and of how many nothing is known."""
    known = [value for value in values if value is not None]
    missing = len(values) - len(known)
    if missing == 0:
        return say(sum(known))
    return f"{say(sum(known))}, without {missing} {unknown}" if known else _UNKNOWN


def _time(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else f"about {duration(seconds)}"


def _megabytes(size: float) -> str:
    return f"about {size / 1e6:.1f} MB"
