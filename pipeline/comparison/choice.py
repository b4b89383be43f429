"""The best student within a device's budget, of all experiments and of the workspace."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from models.errors import InputError
from pipeline.comparison.experiments import WORKSPACE, Experiment, Images
from pipeline.comparison.rows import LITERT, Device, Measured, devices_of, rows_of
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


class Choice(NamedTuple):
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
    best: dict[str, Measured]
    nearest: dict[str, Measured]
    noisy: list[Measured]
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
        elif experiment.images != images:
            left_out["tested on other images"] += 1
    judged = [e for e in complete if e.images == images]
    chosen = _device(judged, device)
    rows = [row for experiment in judged for row in rows_of(experiment)]
    there = {
        (id(row.experiment), row.precision): row
        for row in rows
        if row.place is not None and row.place.device == chosen and row.p90_ms is not None
    }
    found: list[Measured] = []
    for row in rows:
        if row.place is None and row.accuracy is None:
            left_out[f"an export that has {row.status}"] += 1
        elif row.place is None:
            found.append(there.get((id(row.experiment), row.precision), row))
    timed = budget.max_p90_ms is not None
    if timed:
        left_out["not measured there, or failed there"] += sum(row.p90_ms is None for row in found)
        found = [row for row in found if row.p90_ms is not None]
    found.sort(key=_merit)
    # Where latency is no matter, noise is none either.
    sure = [row for row in found if not (timed and row.noisy)]
    within = [row for row in sure if not misses(row, budget)]
    best: dict[str, Measured] = {}
    for row in within:
        best.setdefault(row.precision, row)
    nearest: dict[str, Measured] = {}
    for row in sorted(sure, key=lambda row: sum(misses(row, budget).values())):
        if row.precision not in best:
            nearest.setdefault(row.precision, row)
    top = _accuracy(within[0]) if within else -1.0
    noisy = [
        row
        for row in found
        if timed and row.noisy and not misses(row, budget) and _accuracy(row) > top
    ]
    return Choice(chosen, images, best, nearest, noisy, +left_out)


def misses(row: Measured, budget: Budget) -> dict[str, float]:
    """What of the budget it misses, a phrase for each limit, and by what part of that limit."""
    found = {}
    for what, figure, limit, unit in (
        ("p90", row.p90_ms, budget.max_p90_ms, "ms"),
        ("size", row.size_mb, budget.max_size_mb, "MB"),
    ):
        if figure is not None and limit is not None and figure > limit * (1 + _ROUNDING):
            over = figure / limit - 1
            more = f"{significant(figure - limit)} {unit}, {over:.1%}"
            found[f"{what} {significant(figure)} {unit} is {more} too much"] = over
    least = budget.min_accuracy
    accuracy = _accuracy(row)
    if least is not None and accuracy < least - _ROUNDING:
        short = f"{100 * (least - accuracy):.2f} points"
        found[f"accuracy {percent(accuracy)} is {short} too little"] = 1 - accuracy / least
    return found


def lines(chosen: Choice, budget: Budget) -> Iterator[str]:
    """The answer for a terminal."""
    where = chosen.device.title if chosen.device else "no device: no latency was measured"
    yield f"on {where}; {chosen.images.title}"
    for row in chosen.best.values():
        yield f"  {row.precision}: {row.experiment.name}, {_shown(row)}"
    missed = {p: " and ".join(misses(row, budget)) for p, row in chosen.nearest.items()}
    for precision, row in chosen.nearest.items():
        yield f"  {precision}: none; the nearest is {row.experiment.name}: {missed[precision]}"
    for row in chosen.noisy:
        yield (
            f"  noisy: {row.experiment.name} in {row.precision} would be within the budget,"
            f" {_shown(row)}; measure it again on a quiet machine"
        )
    for reason, number in chosen.left_out.items():
        yield f"  left out: {number}, {reason}"
    if chosen.best:
        best = next(iter(chosen.best.values()))
        command = best.experiment.command
        yield f"best     {best.experiment.name}, {best.precision}: {_shown(best)}"
        if command is None:
            yield f"get it   it is the student of this workspace: {_file(best.precision)}"
        else:
            yield f"get it   {command}"
            yield f"         its file is then {_file(best.precision)}"
    elif chosen.nearest:
        precision, row = next(iter(chosen.nearest.items()))
        nearest = f"{row.experiment.name}, {precision}: {missed[precision]}"
        yield f"nothing is within the budget; nearest {nearest}"
    else:
        yield "nothing to choose: no export has all that the budget asks for"


def _file(precision: str) -> str:
    """Its path in a project that has the experiment."""
    if precision.startswith(LITERT):
        return f"artifacts/litert/{precision.removeprefix(LITERT)}.tflite"
    return f"artifacts/onnx/{precision}.static.onnx"


def _shown(row: Measured) -> str:
    shown = f"{percent(_accuracy(row))}, {significant(row.size_mb or 0.0)} MB"
    if row.place is None or row.p90_ms is None:
        return f"{shown}, latency not measured"
    at = f"{significant(row.p90_ms)} ms at {threads(row.place.threads)}"
    return f"{shown}, p90 {at}{', noisy' * row.noisy}"


def _accuracy(row: Measured) -> float:
    assert row.accuracy is not None  # others are not judged
    return row.accuracy


def _merit(row: Measured) -> tuple[float, float, float, bool]:
    """The most accurate first, then the quickest, then the smallest, then what is at hand."""
    p90 = float("inf") if row.p90_ms is None else row.p90_ms
    return -_accuracy(row), p90, row.size_mb or 0.0, row.experiment.revision is not None


def _images(complete: Sequence[Experiment]) -> Images:
    """Those of the workspace, or those that all have."""
    for experiment in complete:
        if experiment.name == WORKSPACE:
            return experiment.images
    found = list(dict.fromkeys(e.images for e in complete))
    if len(found) > 1:
        raise InputError(
            "the experiments were tested on different images"
            f" ({'; '.join(images.title for images in found)}), so their accuracies cannot be set"
            " against each other; name one sweep, as in `ackd choose SWEEP`"
        )
    return found[0]


def _device(judged: Sequence[Experiment], wanted: str | None) -> Device | None:
    known = list(dict.fromkeys(device for e in judged for device in devices_of(e)))
    listed = ", ".join(device.title for device in known)
    if wanted is None:
        if len(known) < 2:
            return known[0] if known else None
        for experiment in judged:
            if experiment.name == WORKSPACE and (own := devices_of(experiment)):
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
