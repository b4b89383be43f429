"""The best student within a device's budget, of all experiments and of the workspace."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from models.errors import InputError
from pipeline.comparison.experiments import LITERT, WORKSPACE, Experiment
from pipeline.comparison.variants import Images, images_of, results_of
from pipeline.summary_schema import Row
from stages.formatting import percent, significant, threads

_MS = {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3}
_MB = {"MB": 1.0, "kB": 1e-3, "KB": 1e-3, "MiB": 2**20 / 1e6, "KiB": 2**10 / 1e6}
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
# Of numbers that were rounded on their way: 0.97 is within 97 %.
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
    """What latencies hold for, with any number of threads: the same URL may be another machine."""

    url: str
    machine: str | None
    cpu: str | None

    @property
    def title(self) -> str:
        return f"{self.url} ({self.cpu or self.machine or 'an unnamed processor'})"


@dataclass(frozen=True)
class Candidate:
    """An export of an experiment.

    Attributes:
        row: what was measured of it on the device; None where nothing was.
    """

    experiment: Experiment
    precision: str
    accuracy: float
    size_mb: float
    row: Row | None

    @property
    def p90_ms(self) -> float | None:
        return None if self.row is None else self.row.p90_ms

    @property
    def noisy(self) -> bool:
        """Whether the machine was while it was timed."""
        return self.row is not None and bool(self.row.noisy)

    @property
    def file(self) -> str:
        """Its path in a project that has the experiment."""
        if self.precision.startswith(LITERT):
            return f"artifacts/litert/{self.precision.removeprefix(LITERT)}.tflite"
        return f"artifacts/onnx/{self.precision}.static.onnx"

    def __str__(self) -> str:
        shown = f"{percent(self.accuracy)}, {significant(self.size_mb)} MB"
        if self.row is None or self.row.p90_ms is None:
            return f"{shown}, latency not measured"
        at = f"{significant(self.row.p90_ms)} ms at {threads(self.row.threads)}"
        return f"{shown}, p90 {at}{', noisy' * self.noisy}"


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
        None if accuracy is None else _fraction(accuracy),
    )


def choose(experiments: Sequence[Experiment], budget: Budget, device: str | None) -> Choice:
    """Judge every export of every experiment that has results.

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
        why = f": {experiments[0].name}: {experiments[0].reason}" if experiments else ""
        raise InputError(f"no experiment has results to choose by{why}; run `ackd run` first")
    images = _images(complete)
    left_out: Counter[str] = Counter()
    for experiment in experiments:
        if experiment.reason is not None:
            left_out["an experiment without results, see `ackd compare`"] += 1
        elif images_of(experiment) != images:
            left_out["tested on other images"] += 1
    judged = [e for e in complete if images_of(e) == images]
    chosen = _device(judged, device)
    found: list[Candidate] = []
    for experiment in judged:
        for precision, export in results_of(experiment).exports.items():
            if export.status != "passed" or export.accuracy is None:
                left_out[f"an export that has {export.status}"] += 1
            else:
                found.append(_candidate(experiment, precision, chosen))
    if budget.max_p90_ms is not None:
        left_out["not measured there, or failed there"] += sum(c.p90_ms is None for c in found)
        found = [c for c in found if c.p90_ms is not None]
    return _judge(found, budget, chosen, images, +left_out)


def misses(candidate: Candidate, budget: Budget) -> dict[str, float]:
    """What of the budget it misses, a phrase for each limit, and by what part of that limit."""
    found = {}
    for what, figure, limit, unit in (
        ("p90", candidate.p90_ms, budget.max_p90_ms, "ms"),
        ("size", candidate.size_mb, budget.max_size_mb, "MB"),
    ):
        if figure is not None and limit is not None and figure > limit * (1 + _ROUNDING):
            over = figure / limit - 1
            more = f"{significant(figure - limit)} {unit}, {over:.1%}"
            found[f"{what} {significant(figure)} {unit} is {more} too much"] = over
    least = budget.min_accuracy
    if least is not None and candidate.accuracy < least - _ROUNDING:
        short = f"{100 * (least - candidate.accuracy):.2f} points"
        phrase = f"accuracy {percent(candidate.accuracy)} is {short} too little"
        found[phrase] = 1 - candidate.accuracy / least
    return found


def lines(chosen: Choice, budget: Budget) -> Iterator[str]:
    """The answer for a terminal."""
    where = chosen.device.title if chosen.device else "no device: no latency was measured"
    yield f"on {where}; {chosen.images.title}"
    for found in chosen.best.values():
        yield f"  {found.precision}: {found.experiment.name}, {found}"
    missed = {p: " and ".join(misses(found, budget)) for p, found in chosen.nearest.items()}
    for precision, found in chosen.nearest.items():
        yield f"  {precision}: none; the nearest is {found.experiment.name}: {missed[precision]}"
    for found in chosen.noisy:
        yield (
            f"  noisy: {found.experiment.name} in {found.precision} would be within the budget,"
            f" {found}; measure it again on a quiet machine"
        )
    for reason, number in chosen.left_out.items():
        yield f"  left out: {number}, {reason}"
    if chosen.best:
        best = next(iter(chosen.best.values()))
        command = best.experiment.command
        yield f"best     {best.experiment.name}, {best.precision}: {best}"
        if command is None:
            yield f"get it   it is the student of this workspace: {best.file}"
        else:
            yield f"get it   {command}"
            yield f"         its file is then {best.file}"
    elif chosen.nearest:
        precision, found = next(iter(chosen.nearest.items()))
        nearest = f"{found.experiment.name}, {precision}: {missed[precision]}"
        yield f"nothing is within the budget; nearest {nearest}"
    else:
        yield "nothing to choose: no export has all that the budget asks for"


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
    for candidate in sorted(sure, key=lambda c: (sum(misses(c, budget).values()), _merit(c))):
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


def _candidate(experiment: Experiment, precision: str, device: Device | None) -> Candidate:
    results = results_of(experiment)
    export = results.exports[precision]
    assert export.accuracy is not None
    assert export.size_mb is not None  # it has passed
    row = None
    if device is not None and device in _devices(experiment):
        row = results.devices[device.url].exports.get(precision)
    if row is not None and (row.status != "passed" or row.p90_ms is None):
        row = None
    return Candidate(experiment, precision, export.accuracy, export.size_mb, row)


def _devices(experiment: Experiment) -> list[Device]:
    devices = results_of(experiment).devices
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


def _fraction(text: str) -> float:
    match = re.fullmatch(rf"{_NUMBER} ?(%?)", text.strip())
    fraction = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= fraction <= 1:
        raise InputError(
            f"--min-accuracy {text}: expected a percentage, such as 60%, or a fraction, such as 0.6"
        )
    return fraction
