"""What the paper's tables cost: ``python -m benchmarks.cost``.

The multiply-adds of every training that the tables need are counted, by the networks, methods and
schedules of the presets; how many a second a machine makes is measured. Nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import models
from benchmarks.networks import count_macs_of_step
from benchmarks.page import table, write_section
from models import distillers
from models.distillers.base import Batch, Setting, TeacherOutputs
from models.errors import InputError
from models.measures import count_macs
from stages.files import read_json, write_json
from stages.params import PARAMS_FILE, Params, parse_params, read_yaml

TABLES = (2, 3, 4, 5, 6, 7)
MEASURED = Path("benchmarks/results/training.json")
_CLASSES = {"cifar100": 100, "cinic10": 10, "tiny_imagenet": 200, "imagenet": 1000}
_ALONE = ("scratch", "one")  # methods without a teacher
_ROWS = ("kd_live", "kd_warm", "ackd_live", "ackd_warm")
_COUNTED = 4  # images of which a step is counted; SemCKD compares as many
_FORWARD_AND_BACK = 3  # what a training step takes of a forward pass


@dataclass(frozen=True)
class Training:
    """One training of a table.

    Attributes:
        what: data, network, method and whom it learns from; tables share those that are equal.
        images: of an epoch.
        epochs: of the training.
        step: multiply-adds of an image, without the teacher.
        answer: those of the teacher's forward pass; 0 where there is none.
        store: whose answers these are, where the store of logits can keep them; else None.
    """

    what: str
    images: int
    epochs: int
    step: float
    answer: float = 0.0
    store: str | None = None

    @property
    def own(self) -> float:
        """Multiply-adds of the whole training but for the teacher's."""
        return self.images * self.epochs * self.step

    @property
    def answers(self) -> float:
        """Those of the teacher in the whole training."""
        return self.images * self.epochs * self.answer


class Counter:
    """Counts each network and method once."""

    def __init__(self) -> None:
        self._forward: dict[tuple[str, int, int], float] = {}
        self._names: dict[str, str] = {}

    def forward(self, name: str, classes: int, size: int) -> float:
        """Multiply-adds of a network for one image of ``size`` squared."""
        key = (name, classes, size)
        if key not in self._forward:
            self._forward[key] = float(count_macs(models.build(name, classes), size))
        return self._forward[key]

    def trainings(self, preset: str, method: str, content: Mapping[str, Any]) -> Iterator[Training]:
        """All that a cell of a table needs: the teacher, who stands between, and the student.

        Args:
            preset: of the pair, such as ``cifar100/resnet110_resnet20``.
            method: of ``presets/methods``, or ``teacher``.
            content: the paper's table.

        Raises:
            InputError: there is no such preset.
        """
        params = _laid([preset, *([] if method == "teacher" else [f"methods/{method}"])])
        classes, images = _CLASSES[content["data"]], int(content["train_images"])
        size = params.data.image_size
        assert size is not None  # every preset has one
        settings, data = params.teacher, content["data"]

        def alone(name: str, what: str, epochs: int) -> Training:
            step = _FORWARD_AND_BACK * self.forward(name, classes, size)
            return Training(f"{data}, {name}, {what}", images, epochs, step)

        teacher = settings.network
        if params.distill.method not in _ALONE or method == "teacher":
            yield alone(teacher, "alone", settings.epochs)
        if method == "teacher":
            return
        learns_from, taught_by = teacher, f"{data}, {teacher}"
        if params.proxy.method == "early_stopped":
            yield alone(teacher, "early-stopped", params.proxy.early_stopped.epochs)
            taught_by += ", early-stopped"
        elif params.proxy.method == "assistants":
            for name in params.proxy.assistants.networks:
                training = alone(name, f"assistant of {taught_by}", settings.epochs)
                answer = self.forward(learns_from, classes, size)
                yield replace(training, answer=answer, store=taught_by)
                learns_from, taught_by = name, f"{taught_by}, {name}"
        elif params.distill.method in _ALONE:
            taught_by = "nobody"
        step, needs = self._step(params, learns_from, classes, size, images)
        # The paper has some trainings under two names: they are one.
        settings_of_it = f"{params.distill.network} {params.distill.method} {taught_by}"
        name = self._names.setdefault(f"{settings_of_it} {params.distill.options()}", method)
        yield Training(
            f"{data}, {params.distill.network}, {name} from {taught_by}",
            images,
            params.distill.epochs,
            step,
            0.0 if needs == "nothing" else self.forward(learns_from, classes, size),
            taught_by if needs == "logits" else None,
        )

    def _step(
        self, params: Params, teacher_name: str, classes: int, size: int, images: int
    ) -> tuple[float, str]:
        """Multiply-adds of an image in a step of the student's method, as torch calls for them."""
        teacher = models.build(teacher_name, classes).eval()
        student = models.build(params.distill.network, classes)
        few = torch.arange(2 * classes) % classes
        setting = Setting(teacher, size, few, _COUNTED, params.distill.epochs)
        method = params.distill.method
        distiller = distillers.build(method, student, setting, params.distill.options())
        batch = Batch(torch.randn(_COUNTED, 3, size, size), few[:_COUNTED], torch.arange(_COUNTED))
        outputs = TeacherOutputs()
        if distiller.needs != "nothing":
            with torch.no_grad():
                features = teacher.features(batch.images)
            outputs = TeacherOutputs(features.logits, features)
        macs = count_macs_of_step(distiller, batch, outputs)
        if method == "crd":
            # Both anchors meet the memory of every image, forward and back; here it had few.
            macs += 4 * (images - len(few)) * params.distill.crd.embedding_size
        return macs, distiller.needs


def _laid(names: Iterable[str]) -> Params:
    """``params.yaml`` with presets laid over it, in memory."""
    content = read_yaml(PARAMS_FILE)
    for name in names:
        _lay(read_yaml(Path("presets", f"{name}.yaml")), content)
    return parse_params(content)


def _lay(overlay: Mapping[str, Any], content: dict[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(content.get(key), dict):
            _lay(value, content[key])
        else:
            content[key] = value


def find_preset(data: str, teacher: str, student: str) -> str:
    """The preset of a pair of networks on a data set.

    Raises:
        InputError: none trains this pair.
    """
    for path in sorted(Path("presets", data).glob("*.yaml")):
        content = read_yaml(path)
        pair = (content["teacher"]["network"], content["distill"]["network"])
        if pair == (teacher, student):
            return f"{data}/{path.stem}"
    raise InputError(f"presets/{data}: no preset trains {student} from {teacher}")


def count_table(number: int, counter: Counter) -> list[Training]:
    """The different trainings of one of the paper's tables."""
    content = read_yaml(Path(f"docs/paper/table{number}.yaml"))
    found: dict[str, Training] = {}
    for figure in content["figures"]:
        preset = find_preset(content["data"], figure["teacher"], figure["student"])
        for training in counter.trainings(preset, figure["method"], content):
            found[training.what] = training
    return list(found.values())


def total(trainings: Iterable[Training]) -> dict[str, float]:
    """Multiply-adds of trainings: in all, and with each teacher's answers computed only once."""
    trainings = list(trainings)
    own = sum(training.own for training in trainings)
    stored: dict[str, float] = {}
    passing = 0.0
    for training in trainings:
        if training.store is None:
            passing += training.answers
        else:
            stored[training.store] = max(stored.get(training.store, 0.0), training.answers)
    live = sum(training.answers for training in trainings)
    return {
        "trainings": len(trainings),
        "live": own + live,
        "stored": own + passing + sum(stored.values()),
        "answers": live,
    }


def measured_rates(path: Path) -> tuple[str, list[float]]:
    """The machine of a run of ``benchmarks.training``, and multiply-adds a second of its rows.

    Raises:
        InputError: there is no such file.
    """
    content = read_json(path)
    rows = [pair["rows"][key] for pair in content["pairs"].values() for key in _ROWS]
    rates = [row["macs_per_image"] * row["images_per_second"]["median"] for row in rows]
    return f"{content['machine']['cpu']}, {content['machine']['cores']} cores", rates


def rate_of(preset: str, method: str, images_per_second: float, counter: Counter) -> float:
    """Multiply-adds a second, from what a training with a live teacher was seen to do.

    Raises:
        InputError: there is no such preset.
    """
    data = preset.partition("/")[0]
    for number in TABLES:
        content = read_yaml(Path(f"docs/paper/table{number}.yaml"))
        if content["data"] == data:
            *_, training = counter.trainings(preset, method, content)
            return (training.step + training.answer) * images_per_second
    raise InputError(f"--measured {preset}: expected a preset of {', '.join(_CLASSES)}")


def markdown(results: Mapping[str, Any]) -> str:
    """The table of ``docs/scale.md``."""
    low, high = (rate / 1e9 for rate in (min(results["rates"]), max(results["rates"])))
    speed = f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
    head = (
        "Multiply-adds by the presets' networks, methods and schedules; hours of"
        f" {results['machine']} at {speed} billion multiply-adds a second, {results['origin']}."
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
        quick, slow = (row[key] / rate / 3600 for rate in (max(rates), min(rates)))
        yield f"{slow:,.0f}" if quick == slow else f"{quick:,.0f} to {slow:,.0f}"


def main(argv: Sequence[str] | None = None) -> None:
    """As a command; a failure is one sentence and status 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument(
        "--measured",
        nargs=4,
        metavar=("MACHINE", "PRESET", "METHOD", "IMAGES_PER_S"),
        help="your own machine: its name, and the images a second that `ackd run` shows of"
        " distill with training.logits_store: false; such as 'one GPU'"
        " cifar100/resnet110_resnet20 kd 20000",
    )
    parser.add_argument(
        "--tables", type=int, nargs="+", choices=TABLES, default=list(TABLES), metavar="N"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/cost.json"), metavar="FILE"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the table there too; docs/scale.md"
    )
    arguments = parser.parse_args(argv)
    try:
        counter = Counter()
        if arguments.measured is None:
            machine, rates = measured_rates(MEASURED)
            origin = "the slowest and the fastest of our rows in [benchmarks](benchmarks.md)"
        else:
            machine, preset, method, number = arguments.measured
            rates = [rate_of(preset, method, _positive(number), counter)]
            origin = f"which are {number} images/s of {preset} by {method} with a live teacher"
        by_table = {}
        for number in arguments.tables:
            print(f"table {number}", file=sys.stderr, flush=True)
            by_table[str(number)] = count_table(number, counter)
        every = {t.what: t for trainings in by_table.values() for t in trainings}
        results: dict[str, Any] = {"machine": machine, "rates": rates, "origin": origin}
        results["tables"] = {name: total(trainings) for name, trainings in by_table.items()}
        results["tables"]["all, each training once"] = total(every.values())
        results["trainings"] = [asdict(training) for training in every.values()]
        write_json(arguments.output, results)
        print(markdown(results))
        if arguments.page is not None:
            write_section(arguments.page, "cost", markdown(results))
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise InputError(f"--measured: {text!r} are no images a second, expected such as 268")
    return number


if __name__ == "__main__":
    main()
