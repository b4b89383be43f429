"""The best student within a device's budget, of all experiments and of the workspace."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from models.errors import InputError
from pipeline.comparison.experiments import LITERT, WORKSPACE, Experiment
from pipeline.comparison.variants import Images, Place, figures_of, images_of, place_of
from stages.formatting import percent, significant

_MS = {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3}
_MB = {"MB": 1.0, "kB": 1e-3, "KB": 1e-3, "MiB": 2**20 / 1e6, "KiB": 2**10 / 1e6}
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
# Of limits and figures that were rounded on their way: 0.97 is within 97 %.
_ROUNDING = 1e-9


class Budget(NamedTuple):
    """What is asked for; None where it does not matter.

    Attributes:
        max_p90_ms: of one image, batch 1.
        max_size_mb: of the file, in 10^6 bytes.
        min_accuracy: a fraction.
    """

    max_p90_ms: float | None
    max_size_mb: float | None
    min_accuracy: float | None


class Device(NamedTuple):
    """A :class:`Place` with any number of threads."""

    url: str
    machine: str | None
    cpu: str | None

    @property
    def title(self) -> str:
        return f"{self.url} ({self.cpu or self.machine or 'an unnamed processor'})"


@dataclass(frozen=True)
class Candidate:
    """An export of an experiment on the device.

    Attributes:
        place: that measured; None where it was not measured on this device.
        noisy: whether the machine was while it was timed.
    """

    experiment: Experiment
    precision: str
    accuracy: float
    size_mb: float
    p50_ms: float | None
    p90_ms: float | None
    place: Place | None
    noisy: bool

    @property
    def file(self) -> str:
        """Its path in a project that has the experiment."""
        if self.precision.startswith(LITERT):
            return f"artifacts/litert/{self.precision.removeprefix(LITERT)}.tflite"
        return f"artifacts/onnx/{self.precision}.static.onnx"


@dataclass(frozen=True)
class Choice:
    """The answer.

    Attributes:
        device: None where nothing was measured on any.
        best: by precision, the most accurate within the budget, the best precision first.
        nearest: by precision, where nothing is within it, what misses it by least.
        noisy: more accurate than the best and within the budget, were their latencies to be relied
            on.
        left_out: how many exports could not be judged, by the reason.
    """

    device: Device | None
    images: Images
    best: dict[str, Candidate]
    nearest: dict[str, Candidate]
    noisy: list[Candidate]
    left_out: Mapping[str, int]


def parse_budget(p90: str | None, size: str | None, accuracy: str | None) -> Budget:
    """The options of the command.

    Raises:
        InputError: a number or its unit is not right.
    """
    return Budget(
        None if p90 is None else _quantity("--max-p90", p90, _MS, "5ms, 800us or 0.1s"),
        None if size is None else _quantity("--max-size", size, _MB, "2MB, 500kB or 1.5MiB"),
        None if accuracy is None else _share(accuracy),
    )


def choose(experiments: Sequence[Experiment], budget: Budget, device: str | None) -> Choice:
    """Judge every export of every experiment that has figures.

    Args:
        experiments: as they are listed.
        budget: of the device.
        device: its URL, or a part of its processor's name; None takes the only one, or the first
            of the workspace's report.

    Raises:
        InputError: there is nothing to choose from, or it is not clear from what.
    """
    complete = [e for e in experiments if e.reason is None]
    if not complete:
        told = f": {experiments[0].name}: {experiments[0].reason}" if experiments else ""
        raise InputError(f"no experiment has figures to choose by{told}; run `ackd run` first")
    images = _images(complete)
    left_out: Counter[str] = Counter()
    for experiment in experiments:
        if experiment.reason is not None:
            left_out["an experiment without figures, see `ackd compare`"] += 1
        elif images_of(experiment) != images:
            left_out["tested on other images"] += 1
    judged = [e for e in complete if images_of(e) == images]
    chosen = _device(judged, device)
    found: list[Candidate] = []
    for experiment in judged:
        for precision, export in figures_of(experiment).exports.items():
            if export.status != "passed" or export.accuracy is None:
                left_out[f"an export that has {export.status}"] += 1
            else:
                found.append(_candidate(experiment, precision, chosen))
    if budget.max_p90_ms is not None:
        left_out["not measured there, or failed there"] += sum(c.p90_ms is None for c in found)
        found = [c for c in found if c.p90_ms is not None]
    return _judge(found, budget, chosen, images, +left_out)


def misses(candidate: Candidate, budget: Budget) -> list[str]:
    """By how much it is out of the budget, a phrase for each limit; empty where it is within."""
    found = []
    for figure, limit, unit in (
        (candidate.p90_ms, budget.max_p90_ms, "ms"),
        (candidate.size_mb, budget.max_size_mb, "MB"),
    ):
        if figure is not None and limit is not None and figure > limit * (1 + _ROUNDING):
            what = "p90" if unit == "ms" else "size"
            more = f"{significant(figure - limit)} {unit}, {(figure - limit) / limit:.1%}"
            found.append(f"{what} {significant(figure)} {unit} is {more} too much")
    least = budget.min_accuracy
    if least is not None and candidate.accuracy < least - _ROUNDING:
        short = f"{100 * (least - candidate.accuracy):.2f} points"
        found.append(f"accuracy {percent(candidate.accuracy)} is {short} too little")
    return found


def _judge(
    found: Sequence[Candidate],
    budget: Budget,
    device: Device | None,
    images: Images,
    left_out: Mapping[str, int],
) -> Choice:
    doubtful = [c for c in found if c.noisy and budget.max_p90_ms is not None]
    sure = [c for c in found if c not in doubtful]
    within = sorted((c for c in sure if not misses(c, budget)), key=_merit)
    best: dict[str, Candidate] = {}
    for candidate in within:
        best.setdefault(candidate.precision, candidate)
    nearest: dict[str, Candidate] = {}
    for candidate in sorted(sure, key=lambda c: (_excess(c, budget), _merit(c))):
        if candidate.precision not in best:
            nearest.setdefault(candidate.precision, candidate)
    top = within[0] if within else None
    noisy = [
        c
        for c in sorted(doubtful, key=_merit)
        if not misses(c, budget) and (top is None or c.accuracy > top.accuracy)
    ]
    return Choice(device, images, best, nearest, noisy, left_out)


def _merit(candidate: Candidate) -> tuple[float, float, float, bool]:
    """The most accurate first, then the quickest, then the smallest, then what is at hand."""
    p90 = float("inf") if candidate.p90_ms is None else candidate.p90_ms
    elsewhere = candidate.experiment.revision is not None
    return -candidate.accuracy, p90, candidate.size_mb, elsewhere


def _excess(candidate: Candidate, budget: Budget) -> float:
    """The sum of what it misses, each as a share of its limit."""
    total = 0.0
    for figure, limit in (
        (candidate.p90_ms, budget.max_p90_ms),
        (candidate.size_mb, budget.max_size_mb),
    ):
        if figure is not None and limit is not None:
            total += max(0.0, figure / limit - 1)
    if budget.min_accuracy:
        total += max(0.0, 1 - candidate.accuracy / budget.min_accuracy)
    return total


def _candidate(experiment: Experiment, precision: str, device: Device | None) -> Candidate:
    figures = figures_of(experiment)
    export = figures.exports[precision]
    assert export.accuracy is not None
    assert export.size_mb is not None  # it has passed
    candidate = Candidate(
        experiment, precision, export.accuracy, export.size_mb, None, None, None, False
    )
    if device is None or device not in _devices(experiment):
        return candidate
    row = figures.devices[device.url].exports.get(precision)
    if row is None or row.status != "passed" or row.p90_ms is None:
        return candidate
    return Candidate(
        experiment,
        precision,
        export.accuracy,
        export.size_mb,
        row.p50_ms,
        row.p90_ms,
        place_of(experiment, device.url, row),
        bool(row.noisy),
    )


def _devices(experiment: Experiment) -> list[Device]:
    devices = figures_of(experiment).devices
    return [Device(url, device.machine, device.cpu) for url, device in devices.items()]


def _images(complete: Sequence[Experiment]) -> Images:
    """Those of the workspace, or those that all have."""
    for experiment in complete:
        if experiment.name == WORKSPACE:
            return images_of(experiment)
    found = list(dict.fromkeys(map(images_of, complete)))
    if len(found) > 1:
        raise InputError(
            "the experiments were tested on different images"
            f" ({'; '.join(images.title for images in found)}), so their accuracies cannot be set"
            " against each other; name one sweep, as in `ackd choose SWEEP`"
        )
    return found[0]


def _device(judged: Sequence[Experiment], wanted: str | None) -> Device | None:
    known = list(dict.fromkeys(device for e in judged for device in _devices(e)))
    listed = ", ".join(device.title for device in known)
    if wanted is None:
        if len(known) < 2:
            return known[0] if known else None
        for experiment in judged:
            if experiment.name == WORKSPACE and (own := _devices(experiment)):
                return own[0]
        raise InputError(f"--device: expected one of {listed}, as experiments have several")
    found = [d for d in known if d.url == wanted]
    found = found or [d for d in known if wanted.lower() in d.title.lower()]
    if not found:
        raise InputError(
            f"--device {wanted}: no experiment was measured there; expected one of"
            f" {listed or 'none: no latency was measured'}"
        )
    if len(found) > 1:
        raise InputError(
            f"--device {wanted}: expected one device, but it may be"
            f" {' or '.join(d.title for d in found)}; give a part of the processor's name"
        )
    return found[0]


def _quantity(option: str, text: str, units: Mapping[str, float], such_as: str) -> float:
    match = re.fullmatch(rf"{_NUMBER} ?({'|'.join(units)})", text.strip())
    number = float(match[1]) * units[match[2]] if match else 0.0
    if number <= 0:
        raise InputError(
            f"{option} {text}: expected a number above 0 and its unit"
            f" ({', '.join(units)}), such as {such_as}"
        )
    return number


def _share(text: str) -> float:
    match = re.fullmatch(rf"{_NUMBER} ?(%?)", text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        raise InputError(
            f"--min-accuracy {text}: expected a percentage, such as 60%, or a fraction, such as 0.6"
        )
    return share
