"""What the paper's tables cost: ``python -m benchmarks.cost``.

The multiply-adds of every training that the tables need are counted, by the networks, methods and
schedules of the presets; how many a second a machine makes is measured. Nothing is trained.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import models
from benchmarks.networks import COUNTED, build_distiller, count_step_macs
from benchmarks.results import FOLDER, Json, command, publish, table
from models.distillers.base import Setting
from models.errors import InputError
from models.measures import count_macs
from pipeline.presets import laid
from stages.files import read_json, write_json
from stages.params import PARAMS_FILE, Params, parse_params, parse_yaml, read_yaml

TABLES = (2, 3, 4, 5, 6, 7)
MEASURED = FOLDER / "training.json"
#: Classes and training images of the paper's data sets.
_DATA = {
    "cifar100": (100, 50_000),
    "cinic10": (10, 90_000),
    "tiny_imagenet": (200, 100_000),
    "imagenet": (1000, 1_281_167),
}
_ALONE = ("scratch", "one")  # methods without a teacher
_ROWS = ("kd_live", "kd_warm", "ackd_live", "ackd_warm")
_FORWARD_AND_BACK = 3  # what a training step takes of a forward pass


def main(
    output: Annotated[Path, typer.Option(help="JSON of the results")] = FOLDER / "cost.json",
    page: Annotated[Path, typer.Option(help="Where the table goes")] = Path("docs/scale.md"),
) -> None:
    """Count, and write the table."""
    machine, rates = measured_rates(MEASURED)
    found = {str(number): count_table(number) for number in TABLES}
    every = {training.what: training for counted in found.values() for training in counted}
    found["all, each training once"] = list(every.values())
    results: Json = {"machine": machine, "rates": rates}
    results["tables"] = {name: total(counted) for name, counted in found.items()}
    write_json(output, results)
    publish("cost", markdown(results), page)


@dataclass(frozen=True)
class Training:
    """One training of a table.

    Attributes:
        what: data, network, method and teacher; tables share those that are equal.
        images: of the whole training.
        step: multiply-adds of an image, without the teacher.
        answer: those of the teacher's forward pass; 0 where there is none.
        store: whose answers these are, where the store of logits can keep them; else None.
    """

    what: str
    images: int
    step: float
    answer: float = 0.0
    store: str | None = None


@functools.cache
def forward(name: str, classes: int, size: int) -> float:
    """Multiply-adds of a network for one image of ``size`` squared."""
    return float(count_macs(models.build(name, classes), size))


def trainings(preset: str, method: str) -> Iterator[Training]:
    """All that a cell of a table needs: the teacher, its assistants, and the student last.

    Args:
        preset: of the pair, such as ``cifar100/resnet110_resnet20``.
        method: of ``presets/methods``, or ``teacher``.

    Raises:
        InputError: there is no such preset.
    """
    data = preset.partition("/")[0]
    names = [preset] if method == "teacher" else [preset, f"methods/{method}"]
    text = laid(PARAMS_FILE.read_text(encoding="utf-8"), names, {})
    params = parse_params(parse_yaml(text.encode(), str(PARAMS_FILE)))
    (classes, images), size = _DATA[data], params.data.image_size
    assert size is not None  # every preset has one
    teacher, epochs, distill = params.teacher.network, params.teacher.epochs, params.distill

    def alone(what: str, epochs: int) -> Training:
        step = _FORWARD_AND_BACK * forward(teacher, classes, size)
        return Training(f"{data}, {teacher}, {what}", images * epochs, step)

    learns_from, taught_by = teacher, f"{data}, {teacher}"
    if method == "teacher":
        yield alone("alone", epochs)
        return
    if distill.method in _ALONE:
        taught_by = "nobody"
    else:
        yield alone("alone", epochs)
    if params.proxy.method == "early_stopped":
        yield alone("early-stopped", params.proxy.early_stopped.epochs)
        taught_by += ", early-stopped"
    elif params.proxy.method == "assistants":
        for name in params.proxy.assistants.networks:
            step = _FORWARD_AND_BACK * forward(name, classes, size)
            answer = forward(learns_from, classes, size)
            what = f"{data}, {name}, assistant of {taught_by}"
            yield Training(what, images * epochs, step, answer, taught_by)
            learns_from, taught_by = name, f"{taught_by}, {name}"
    step, needs = _step(params, learns_from, classes, size, images)
    yield Training(
        f"{data}, {distill.network}, {distill.method} {distill.options()} from {taught_by}",
        images * distill.epochs,
        step,
        0.0 if needs == "nothing" else forward(learns_from, classes, size),
        taught_by if needs == "logits" else None,
    )


def _step(
    params: Params, teacher_name: str, classes: int, size: int, images: int
) -> tuple[float, str]:
    """Multiply-adds of an image in a step of the student's method, and what it asks a teacher."""
    teacher = models.build(teacher_name, classes)
    student = models.build(params.distill.network, classes)
    few = torch.arange(2 * classes) % classes
    setting = Setting(teacher, size, few, COUNTED, params.distill.epochs)
    distiller = build_distiller(params.distill, student, setting)
    macs = count_step_macs(distiller, teacher, size)
    if params.distill.method == "crd":
        # Both anchors meet the memory of every image, forward and back; here it had few.
        macs += 4 * (images - len(few)) * params.distill.crd.embedding_size
    return macs, distiller.needs


def find_preset(data: str, teacher: str, student: str) -> str:
    """The preset of a pair of networks on a data set.

    Raises:
        InputError: none trains this pair.
    """
    for path in sorted(Path("presets", data).glob("*.yaml")):
        content = read_yaml(path)
        if (content["teacher"]["network"], content["distill"]["network"]) == (teacher, student):
            return f"{data}/{path.stem}"
    raise InputError(f"presets/{data}: no preset trains {student} from {teacher}")


def count_table(number: int) -> list[Training]:
    """The different trainings of one of the paper's tables."""
    print(f"table {number}", file=sys.stderr, flush=True)
    content = read_yaml(Path(f"docs/paper/table{number}.yaml"))
    found: dict[str, Training] = {}
    for cell in content["figures"]:
        preset = find_preset(content["data"], cell["teacher"], cell["student"])
        found.update({training.what: training for training in trainings(preset, cell["method"])})
    return list(found.values())


def total(trainings: Iterable[Training]) -> dict[str, float]:
    """Multiply-adds of trainings: in all, and with each teacher's answers computed only once."""
    count, live, stored, answers = 0, 0.0, 0.0, 0.0
    kept: dict[str, float] = {}
    for count, training in enumerate(trainings, 1):  # noqa: B007
        own, answer = training.images * training.step, training.images * training.answer
        live, answers = live + own + answer, answers + answer
        stored += own
        if training.store is None:
            stored += answer
        else:
            kept[training.store] = max(kept.get(training.store, 0.0), answer)
    stored += sum(kept.values())
    return {"trainings": count, "live": live, "stored": stored, "answers": answers}


def measured_rates(path: Path) -> tuple[str, list[float]]:
    """The machine of a run of ``benchmarks.training``, and multiply-adds a second of its rows.

    Raises:
        InputError: there is no such file.
    """
    content = read_json(path)
    rows = [pair["rows"][key] for pair in content["pairs"].values() for key in _ROWS]
    rates = [row["macs_per_image"] * row["images_per_second"]["median"] for row in rows]
    return f"{content['machine']['cpu']}, {content['machine']['cores']} cores", rates


def markdown(results: Mapping[str, Any]) -> str:
    """The table of ``docs/scale.md``."""
    low, high = (rate / 1e9 for rate in (min(results["rates"]), max(results["rates"])))
    head = (
        "Multiply-adds by the presets' networks, methods and schedules; hours of"
        f" {results['machine']} at {low:.0f} to {high:.0f} billion multiply-adds a second, the"
        " slowest and the fastest of our rows in [benchmarks](benchmarks.md)."
    )
    heads = ["table", "trainings", "10^15 multiply-adds", "teachers' part"]
    heads += ["hours, live teachers", "hours, logits kept"]
    rows = [[name, *_cells(row, results["rates"])] for name, row in results["tables"].items()]
    return f"{head}\n\n{table(heads, rows)}\n"


def _cells(row: Mapping[str, float], rates: Sequence[float]) -> Iterator[str]:
    yield f"{row['trainings']:.0f}"
    yield f"{row['live'] / 1e15:,.1f}"
    yield f"{row['answers'] / row['live']:.0%}"
    for key in ("live", "stored"):
        quick, slow = (f"{row[key] / rate / 3600:,.0f}" for rate in (max(rates), min(rates)))
        yield f"{quick} to {slow}"


if __name__ == "__main__":
    command(main)
