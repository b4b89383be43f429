"""Which charts the page has, and from what."""

from __future__ import annotations

import math
from typing import NamedTuple

from stages.formatting import threads
from stages.report_page.charts import (
    Point,
    accuracy_against_latency,
    distributions,
    lines,
)
from stages.report_page.measurements import History, Measurements, Record
from stages.report_page.svg import Chart

Series = dict[str, tuple[list[float], list[float]]]


class Titled(NamedTuple):
    """A chart as it stands in the page, with how to read it where its section does not say."""

    title: str
    chart: Chart
    reading: str = ""


def scatter_chart(summary: Record) -> Chart | None:
    """None where no export that passed has both an accuracy and a latency."""
    found = [
        Point(name, number, export["p50_ms"], export["p90_ms"], export["accuracy"], export["noisy"])
        for number, (name, export) in enumerate(summary["exports"].items())
        if export["status"] == "passed" and export["p50_ms"] is not None
    ]
    if not found:
        return None
    told = "; ".join(f"{p.name} {p.accuracy:.2%} at {p.p50_ms:.3g} ms" for p in found)
    return accuracy_against_latency(
        "trade-off", found, summary["student"]["accuracy"], f"Accuracy against latency: {told}"
    )


def training_charts(measured: Measurements) -> list[Titled]:
    """Loss and accuracy of teacher and student, and the terms of the student's loss."""
    charts = [
        Titled(
            "Training loss, total",
            lines(
                "loss",
                _of_both(measured, "loss/total"),
                y_label="loss",
                describes="Training loss of teacher and student by epoch",
            ),
            "A curve that has become level has learnt what this schedule gives; the losses have"
            " different terms, so compare shapes, not heights.",
        ),
        Titled(
            "Validation accuracy",
            lines(
                "accuracy",
                _of_both(measured, "val_accuracy"),
                y_label="accuracy",
                describes="Validation accuracy of teacher and student by epoch",
                percent=True,
            ),
            "Higher is better; a curve that falls while the loss falls too learns the training"
            " images by heart.",
        ),
    ]
    student = measured.student_history
    terms = columns(student, "loss/")
    if len(terms) > 2:
        del terms["total"]
        describes = f"Terms of the student's loss by epoch: {', '.join(terms)}"
        chart = lines("terms", terms, y_label="loss", describes=describes)
        reading = "A term that rises while the total falls loses against the others."
        charts.append(Titled("The student’s loss, term by term", chart, reading))
    return charts


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


def _of_both(measured: Measurements, name: str) -> Series:
    """Teacher and student; a teacher that was loaded has an accuracy, but no loss."""
    loaded = measured.teacher_history["epoch"] == [0]
    teacher = "teacher (loaded, not trained here)" if loaded else "teacher"
    both = {teacher: measured.teacher_history, "student": measured.student_history}
    series = {who: column(history, name) for who, history in both.items()}
    return {who: (x, y) for who, (x, y) in series.items() if not all(map(math.isnan, y))}


def column(history: History, name: str) -> tuple[list[float], list[float]]:
    """Epochs and values of a column."""
    return history["epoch"], history[name]


def columns(history: History, prefix: str) -> Series:
    """By the rest of their names; the learners of a pair are joined by "and"."""
    return {
        name.removeprefix(prefix).replace("~", " and "): (history["epoch"], values)
        for name, values in history.items()
        if name.startswith(prefix)
    }
