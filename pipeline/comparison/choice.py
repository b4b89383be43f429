"""Finds the best student within a device's budget, among all experiments and the workspace."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from models.errors import InputError
from pipeline.comparison.experiments import LITERT, WORKSPACE, Experiment, Found, Images, Place
from stages.formatting import percent, significant

_MS = {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3}
_MB = {"MB": 1.0, "kB": 1e-3, "KB": 1e-3, "MiB": 2**20 / 1e6, "KiB": 2**10 / 1e6}
_FRACTION = {"%": 0.01, "": 1.0}
# Tolerates rounded numbers: 0.97 meets 97 %.
_ROUNDING = 1e-9


class Budget(NamedTuple):
    """Limits that a student must meet; None sets no limit."""

    max_p90_ms: float | None  # at batch 1
    max_size_mb: float | None  # of the file, in 10^6 bytes
    min_accuracy: float | None  # as a fraction


class Student(NamedTuple):
    """An export that passed its validation."""

    experiment: Experiment
    precision: str
    accuracy: float  # with folds, the mean of the variant, because their images differ
    size_mb: float
    p90_ms: float | None  # on the device, if measured

    @property
    def name(self) -> str:
        return f"{self.experiment.name}, {self.precision}"


class Choice(NamedTuple):
    place: Place | None  # None if no latency was measured at all
    images: Images
    best: dict[str, Student]  # within the budget, by precision; the most accurate first
    nearest: Student | None  # misses the budget by least; None if none can be judged
    left_out: Mapping[str, int]  # number of exports that could not be judged, by reason


def parse_budget(p90: str | None, size: str | None, accuracy: str | None) -> Budget:
    """Parse the command's options; raises InputError if a number or its unit is invalid."""
    budget = Budget(
        _quantity("--max-p90", p90, _MS, "5ms, 800us or 0.1s"),
        _quantity("--max-size", size, _MB, "2MB, 500kB or 1.5MiB"),
        _quantity("--min-accuracy", accuracy, _FRACTION, "60% or 0.6"),
    )
    if budget.min_accuracy is not None and budget.min_accuracy > 1:
        raise InputError(f"--min-accuracy {accuracy}: expected at most 100%, such as 60% or 0.6")
    return budget


def choose(found: Found, budget: Budget, device: str | None) -> Choice:
    """Judge every export of every experiment that has results.

    ``device`` is a URL or a part of a processor's name; None means the only device, or the first
    one in the workspace's report.

    Raises:
        InputError: there is nothing to choose from, or the device or the images are ambiguous.
    """
    if not found.experiments:
        why = "".join(f": {name}: {reason}" for name, reason in found.missing[:1])
        raise InputError(f"no experiment has results to choose by{why}; run `ackd run` first")
    images = _images(found.experiments)
    judged = [e for e in found.experiments if e.images == images]
    means = _means_over_folds(judged) if images.number is None else {}
    left_out = Counter(
        {
            "an experiment without results, see `ackd compare`": len(found.missing),
            "tested on other images": len(found.experiments) - len(judged),
        }
    )
    place = _place(judged, device)
    timed = budget.max_p90_ms is not None
    students: list[Student] = []
    for experiment in judged:
        for precision, export in experiment.exports.items():
            latency = experiment.latencies.get((precision, place)) if place else None
            p90_ms = latency["p90_ms"] if latency else None
            if export["accuracy"] is None or export["size_mb"] is None:
                left_out[f"an export that has {export['status']}"] += 1
            elif timed and p90_ms is None:
                left_out["not measured on this device, or failed there"] += 1
            elif timed and latency and latency["noisy"]:
                left_out["timed on a noisy machine: measure it again"] += 1
            else:
                accuracy: float = export["accuracy"]
                accuracy = means.get((_variant(experiment), precision), accuracy)
                size_mb = export["size_mb"]
                students.append(Student(experiment, precision, accuracy, size_mb, p90_ms))
    students.sort(key=_merit)
    best: dict[str, Student] = {}
    for student in students:
        if not misses(student, budget):
            best.setdefault(student.precision, student)
    nearest = min(students, key=lambda s: sum(misses(s, budget).values()), default=None)
    return Choice(place, images, best, nearest, +left_out)


def misses(student: Student, budget: Budget) -> dict[str, float]:
    """Return a phrase per missed limit, with the excess as a fraction of that limit."""
    found = {}
    for what, value, limit, unit in (
        ("p90", student.p90_ms, budget.max_p90_ms, "ms"),
        ("size", student.size_mb, budget.max_size_mb, "MB"),
    ):
        if value is not None and limit is not None and value > limit * (1 + _ROUNDING):
            over = value / limit - 1
            more = f"{significant(value - limit)} {unit}, {over:.1%}"
            found[f"{what} {significant(value)} {unit} is {more} too much"] = over
    least, accuracy = budget.min_accuracy, student.accuracy
    if least is not None and accuracy < least - _ROUNDING:
        short = f"{100 * (least - accuracy):.2f} points"
        found[f"accuracy {percent(accuracy)} is {short} too little"] = 1 - accuracy / least
    return found


def lines(chosen: Choice, budget: Budget) -> Iterator[str]:
    """Yield the lines of the answer for a terminal."""
    place, best = chosen.place, chosen.best
    where = place.title if place else "no device: no latency was measured"
    yield f"on {where}; {chosen.images.title}"
    if chosen.images.number is None:
        yield "  accuracies are means over the folds of a variant"
    for student in best.values():
        yield f"  {student.precision}: {student.experiment.name}, {_shown(student)}"
    for reason, number in chosen.left_out.items():
        yield f"  left out: {number}, {reason}"
    if best:
        student = next(iter(best.values()))
        command, file = student.experiment.command, _file(student.precision)
        yield f"best     {student.name}: {_shown(student)}"
        if command is None:
            missing = "" if Path(file).exists() else ", which `ackd run` creates"
            yield f"get it   the student of this workspace: {file}{missing}"
        else:
            yield f"get it   {command}"
            yield f"         the file is then {file}"
    elif chosen.nearest:
        missed = " and ".join(misses(chosen.nearest, budget))
        yield f"nothing is within the budget; nearest {chosen.nearest.name}: {missed}"
    else:
        yield "nothing to choose: no export has all the measurements that the budget needs"


def _file(precision: str) -> str:
    """Return the path of an export in a project that has the experiment."""
    if precision.startswith(LITERT):
        return f"artifacts/litert/{precision.removeprefix(LITERT)}.tflite"
    return f"artifacts/onnx/{precision}.static.onnx"


def _shown(student: Student) -> str:
    p90 = "latency not measured"
    if student.p90_ms is not None:
        p90 = f"p90 {significant(student.p90_ms)} ms"
    return f"{percent(student.accuracy)}, {significant(student.size_mb)} MB, {p90}"


def _merit(student: Student) -> tuple[float, float, float, bool]:
    """Return a sort key: most accurate, then fastest, then smallest, then in the workspace."""
    p90_ms = float("inf") if student.p90_ms is None else student.p90_ms
    return -student.accuracy, p90_ms, student.size_mb, student.experiment.command is not None


def _images(experiments: Sequence[Experiment]) -> Images:
    """Return the images of the workspace, or those that all experiments share."""
    own = [e.images for e in experiments if e.name == WORKSPACE]
    found = own or list(dict.fromkeys(e.images for e in experiments))
    if len(found) > 1:
        raise InputError(
            "the experiments were tested on different images"
            f" ({'; '.join(images.title for images in found)}), so their accuracies are not"
            " comparable; name one sweep, as in `ackd choose SWEEP`"
        )
    return found[0]


def _variant(experiment: Experiment) -> tuple[str | None, str]:
    return experiment.sweep, experiment.variant


def _means_over_folds(
    experiments: Sequence[Experiment],
) -> dict[tuple[tuple[str | None, str], str], float]:
    """Return the mean accuracy of each variant in each precision."""
    accuracies = defaultdict(list)
    for experiment in experiments:
        for precision, export in experiment.exports.items():
            if export["accuracy"] is not None:
                accuracies[_variant(experiment), precision].append(export["accuracy"])
    return {key: fmean(values) for key, values in accuracies.items()}


def _place(judged: Sequence[Experiment], wanted: str | None) -> Place | None:
    known = list(dict.fromkeys(place for e in judged for _, place in e.latencies))
    if wanted is not None:
        found = [place for place in known if place.url == wanted]
        found = found or [place for place in known if wanted.lower() in place.title.lower()]
    else:
        own = [place for e in judged if e.name == WORKSPACE for _, place in e.latencies]
        found = own[:1] or known
    if len(found) == 1:
        return found[0]
    if not known and wanted is None:
        return None
    option = "--device" if wanted is None else f"--device {wanted}"
    problem = "several devices match" if found else "no latency was measured there"
    listed = ", ".join(place.title for place in found or known) or "none: no latency was measured"
    raise InputError(f"{option}: {problem}; expected one of {listed}")


def _quantity(
    option: str, text: str | None, units: Mapping[str, float], such_as: str
) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(rf"(\d+(?:\.\d+)?|\.\d+) ?({'|'.join(units)})", text.strip())
    number = float(match[1]) * units[match[2]] if match else 0.0
    if number <= 0:
        raise InputError(
            f"{option} {text}: expected a number above 0 with its unit, such as {such_as}"
        )
    return number
