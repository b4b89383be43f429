"""Select the charts of the page and their data."""

import math

from stages.analysis.classes import GAIN_COLUMNS
from stages.analysis.intervals import Gain
from stages.formatting import points, threads
from stages.report_page import charts
from stages.report_page.measurements import History, Measurements, Record, columns
from stages.report_page.svg import Chart

_GAINS = 20
_LONGEST_NAME = 22


def trade_offs(summary: Record) -> list[Chart]:
    """Draw accuracy against latency for each device with an export that passed and has both."""
    drawn = []
    for url, device in summary["devices"].items():
        timed = device["exports"]
        found = [
            charts.Point(
                name, place, row["p50_ms"], row["p90_ms"], export["accuracy"], row["noisy"]
            )
            for place, (name, export) in enumerate(summary["exports"].items())
            if (row := timed.get(name)) is not None
            and row["status"] == export["status"] == "passed"
        ]
        if found:
            title = "Test accuracy and latency" + ("" if url == "local:" else f" on {url}")
            at = " and ".join(map(threads, sorted({row["threads"] for row in timed.values()})))
            # Browsers at most report the model of a phone.
            by = device["cpu"] or device["machine"] or "Unknown processor"
            student, reading = summary["student"]["accuracy"], f"{by}, {device['runtime']}."
            drawn.append(charts.accuracy_against_latency(title, found, student, at, reading))
    return drawn


def training_charts(measured: Measurements) -> list[Chart]:
    """Draw losses and accuracies of teacher and student, and the terms of the student's loss."""
    drawn = [
        charts.lines(
            "Training loss, total",
            "loss",
            _of_both(measured, "loss/total"),
            "A curve that has levelled off has converged. The two losses have different terms, so"
            " compare shapes, not heights.",
        ),
        charts.lines(
            "Validation accuracy",
            "accuracy",
            _of_both(measured, "val_accuracy"),
            "Higher is better. A curve that falls while the loss still falls is overfitting.",
        ),
    ]
    terms = _series(measured.student_history, "loss/")
    del terms["total"]
    if len(terms) > 1:
        reading = "A term that rises while the total falls is losing out to the others."
        drawn.append(charts.lines("The student’s loss, term by term", "loss", terms, reading))
    return drawn


def learner_charts(history: History) -> list[Chart]:
    """Draw how the auxiliary learners develop, from what the method logged."""
    target = {"target": (history["epoch"], history["val_accuracy"])}
    wanted: list[tuple[str, str, charts.Series, str, float | None]] = [
        (
            "Validation accuracy of the learners",
            "accuracy",
            target | _series(history, "val_accuracy/"),
            "If the ensemble is above all of its learners, they complement each other. The gap"
            " between target and ensemble is what the target could still learn.",
            None,
        ),
        (
            "CKA of each pair",
            "linear CKA",
            _series(history, "cka/"),
            "At 1, two learners represent the images identically; the lower, the more they differ.",
            None,
        ),
        (
            "Attention",
            "mean weight",
            _series(history, "attention/"),
            "As long as no curve reaches 100 %, every learner contributes to the ensemble.",
            None,
        ),
        (
            "Discriminators (dotted: chance)",
            "accuracy",
            _series(history, "discriminator_"),
            "Between chance and 100 %, the discriminators guide the learners; pinned at either end,"
            " they do not.",
            0.5,
        ),
    ]
    return [charts.lines(*chart) for chart in wanted if chart[2]]


def calibration_chart(analysis: Record) -> Chart:
    """Draw the reliability of teacher and student."""
    return charts.reliability(
        "Reliability of teacher and student",
        {name: analysis["calibration"][name]["bins"] for name in ("teacher", "student")},
        "On the dotted line, accuracy equals confidence; points below it are overconfident. Larger"
        " points stand for more images.",
    )


def gains_chart(measured: Measurements) -> Chart:
    """Draw the largest gains and losses over the baseline."""
    baseline = measured.analysis["baseline"]
    found = [
        (_short(one["class"]), Gain(*(one[key] for key in GAIN_COLUMNS)))
        for one in measured.classes
        if one["gain"] is not None
    ]
    found.sort(key=lambda row: row[1].gain, reverse=True)
    half = _GAINS // 2
    shown = found if len(found) <= _GAINS else [*found[:half], *found[-half:]]
    which = "" if shown is found else f", the {half} largest and the {half} smallest"
    title = f"Gain over {baseline['path']} by class{which}"
    listed = "; ".join(
        f"{name} {points(g.gain)} ({points(g.low)} to {points(g.high)})" for name, g in shown
    )
    mean = Gain(*(baseline[key] for key in Gain._fields))
    return charts.differences(
        title,
        [("mean of classes", mean), *shown],
        f"{title}, in points with 95 % intervals: {listed}",
        "Bars are 95 % intervals, coloured if they exclude zero. By chance, so do one in twenty"
        " classes without a real difference.",
    )


def latency_charts(measured: Measurements) -> list[Chart]:
    """Draw a chart for each device and number of threads; without models that failed parity."""
    failed = {
        "|".join(str(row[key]) for key in ("device", "runtime", "precision", "threads"))
        for row in measured.latency["results"]
        if row["status"] != "passed"
    }
    groups: dict[str, dict[str, list[float]]] = {}
    for key, times in measured.samples.items():
        device, runtime, precision, number = key.rsplit("|", 3)
        title = threads(int(number)) + ("" if device == "local:" else f", {device}")
        label = precision if runtime == "onnxruntime" else f"{precision}, {runtime}"
        groups.setdefault(title, {})[label] = [] if key in failed else times
    return [
        charts.distributions(title, samples)
        for title, samples in groups.items()
        if any(samples.values())
    ]


def _series(history: History, prefix: str) -> dict[str, tuple[list[float], list[float]]]:
    return {name: (history["epoch"], values) for name, values in columns(history, prefix).items()}


def _of_both(measured: Measurements, name: str) -> charts.Series:
    """Return the series of teacher and student; a loaded teacher has accuracies, but no losses."""
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
