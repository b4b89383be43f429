"""Which charts the page has, and from what."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from stages.analysis.classes import GAIN_COLUMNS
from stages.analysis.intervals import Gain
from stages.formatting import points, threads
from stages.report_page.charts import (
    Bin,
    Point,
    accuracy_against_latency,
    differences,
    distributions,
    lines,
    reliability,
)
from stages.report_page.measurements import History, Measurements, Record
from stages.report_page.svg import Chart

Series = dict[str, tuple[list[float], list[float]]]

_GAINS = 20
_LONGEST_NAME = 22


class Titled(NamedTuple):
    """A chart with its title, and how to read it unless its section explains that."""

    title: str
    chart: Chart
    reading: str = ""


def trade_offs(summary: Record) -> list[Titled]:
    """Accuracy against latency on each device where an export that passed has both."""
    charts = []
    for number, (url, device) in enumerate(summary["devices"].items()):
        timed = device["exports"]
        found = [
            # Its place among all exports gives an export the same colour in every chart.
            Point(name, place, row["p50_ms"], row["p90_ms"], export["accuracy"], row["noisy"])
            for place, (name, export) in enumerate(summary["exports"].items())
            if (row := timed.get(name)) is not None
            and row["status"] == export["status"] == "passed"
        ]
        if not found:
            continue
        counts = sorted({row["threads"] for row in timed.values()})
        on = "" if url == "local:" else f" on {url}"
        listed = "; ".join(f"{p.name} {p.accuracy:.2%} at {p.p50_ms:.3g} ms" for p in found)
        chart = accuracy_against_latency(
            f"trade-off-{number}",
            found,
            summary["student"]["accuracy"],
            f"Accuracy against latency{on}: {listed}",
            at=" and ".join(map(threads, counts)),
        )
        # Browsers name the model of a phone at most.
        by = device["cpu"] or device["machine"] or "An unnamed processor"
        title = f"Test accuracy and latency{on}"
        charts.append(Titled(title, chart, f"{by}, {device['runtime']}."))
    return charts


def training_charts(measured: Measurements) -> list[Titled]:
    """Loss and accuracy of teacher and student, and the terms of the student's loss."""
    terms = columns(measured.student_history, "loss/")
    del terms["total"]
    return [
        *_curves(
            "Training loss, total",
            "loss",
            _of_both(measured, "loss/total"),
            "A curve that has levelled off has converged. The losses have different terms: compare"
            " shapes, not heights.",
        ),
        *_curves(
            "Validation accuracy",
            "accuracy",
            _of_both(measured, "val_accuracy"),
            "Higher is better. A curve that falls while the loss still falls is overfitting.",
        ),
        *_curves(
            "The student’s loss, term by term",
            "loss",
            terms if len(terms) > 1 else {},
            "A term that rises while the total falls is losing against the others.",
        ),
    ]


def learner_charts(measured: Measurements) -> list[Titled]:
    """How the auxiliary learners develop; only what the method logged."""
    history = measured.student_history
    target = {"target": (history["epoch"], history["val_accuracy"])}
    return [
        *_curves(
            "Validation accuracy of the learners",
            "accuracy",
            target | columns(history, "val_accuracy/"),
            "An ensemble above each of its learners shows that they complement each other. The gap"
            " between target and ensemble is what the target could still learn from it.",
        ),
        *_curves(
            "CKA of every two",
            "linear CKA",
            columns(history, "cka/"),
            "At 1, two learners represent the images alike; the lower, the more they differ.",
        ),
        *_curves(
            "Attention",
            "mean weight",
            columns(history, "attention/"),
            "While no curve reaches 100 %, every learner contributes to the ensemble.",
        ),
        *_curves(
            "Discriminators, dotted: chance",
            "accuracy",
            columns(history, "discriminator_"),
            "Between chance and 100 % the discriminators guide the learners; pinned at either end"
            " they do not.",
            reference=0.5,
        ),
    ]


def _curves(
    title: str, y_label: str, series: Series, reading: str, reference: float | None = None
) -> Iterator[Titled]:
    """One chart, or none without series."""
    if series:
        describes = f"{title} by epoch: {', '.join(series)}"
        name = re.sub("[^a-z]+", "-", title.lower())
        percent = y_label in ("accuracy", "mean weight")
        chart = lines(
            name,
            series,
            y_label=y_label,
            describes=describes,
            percent=percent,
            reference=reference,
        )
        yield Titled(title, chart, reading)


def calibration_chart(analysis: Record) -> Titled:
    """Teacher and student."""
    networks = {
        name: [
            Bin(b["images"] / analysis["test_images"], b["confidence"], b["accuracy"])
            for b in analysis["calibration"][name]["bins"]
        ]
        for name in ("teacher", "student")
    }
    listed = "; ".join(
        f"{name}: "
        + ", ".join(f"{b.accuracy:.0%} right at confidence {b.confidence:.0%}" for b in bins)
        for name, bins in networks.items()
    )
    return Titled(
        "Reliability of teacher and student",
        reliability("reliability", networks, f"Accuracy by confidence. {listed}"),
        "On the dotted line, accuracy equals confidence; points below it are overconfident. The"
        " larger a point, the more images it stands for.",
    )


def gains_chart(measured: Measurements) -> Titled | None:
    """The largest gains and losses over the baseline; None without one."""
    baseline = measured.analysis["baseline"]
    if baseline is None:
        return None
    found = [
        (_short(one["class"]), Gain(*(one[key] for key in GAIN_COLUMNS)))
        for one in measured.classes
        if one["gain"] is not None
    ]
    found.sort(key=lambda row: row[1].gain, reverse=True)
    half = _GAINS // 2
    shown = found if len(found) <= _GAINS else [*found[:half], *found[-half:]]
    mean = Gain(*(baseline[key] for key in ("gain", "low", "high")))
    listed = "; ".join(
        f"{name} {points(g.gain)} ({points(g.low)} to {points(g.high)})" for name, g in shown
    )
    which = "" if len(shown) == len(found) else f", the {half} largest and the {half} smallest"
    title = f"Gain over {baseline['path']} by class{which}"
    rows = [("mean of classes", mean), *shown]
    return Titled(
        title,
        differences("gains", rows, f"{title}, in points with 95 % intervals: {listed}"),
        "A bar is a 95 % interval, in colour where it is clear of zero. By chance, so is one in"
        " twenty of the classes without any gain or loss.",
    )


def latency_charts(measured: Measurements) -> list[Titled]:
    """One chart for each device and number of threads."""
    groups: dict[tuple[str, int], dict[str, list[float]]] = {}
    for key, times in measured.samples.items():
        device, runtime, precision, text = key.rsplit("|", 3)
        label = precision if runtime == "onnxruntime" else f"{precision}, {runtime}"
        groups.setdefault((device, int(text)), {})[label] = times
    charts = []
    for index, ((device, number), samples) in enumerate(groups.items()):
        if not any(samples.values()):
            continue
        title = threads(number) + ("" if device == "local:" else f", {device}")
        describes = f"Distribution of latency with {title}: {', '.join(samples)}"
        charts.append(Titled(title, distributions(f"latency-{index}", samples, describes)))
    return charts


def columns(history: History, prefix: str) -> Series:
    """By the rest of their names; the learners of a pair are joined by "and"."""
    return {
        name.removeprefix(prefix).replace("~", " and "): (history["epoch"], values)
        for name, values in history.items()
        if name.startswith(prefix)
    }


def _of_both(measured: Measurements, name: str) -> Series:
    """Teacher and student; a teacher that was loaded has an accuracy, but no loss."""
    loaded = measured.teacher_history["epoch"] == [0]
    teacher = "teacher (loaded, not trained here)" if loaded else "teacher"
    both = {teacher: measured.teacher_history, "student": measured.student_history}
    return {
        who: (history["epoch"], history[name])
        for who, history in both.items()
        if not all(map(math.isnan, history[name]))
    }


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
