"""Every class by itself, and how far the answers' confidence can be trusted."""

from __future__ import annotations

from stages.analysis.classes import GAIN_COLUMNS
from stages.analysis.intervals import Gain
from stages.formatting import count, percent, points
from stages.report_page.charts import Bin, differences, reliability
from stages.report_page.curves import Titled
from stages.report_page.measurements import Measurements, Record
from stages.tables import Table, of_records, shaded

_ROWS = 20
_LONGEST_NAME = 22


def calibration_chart(analysis: Record) -> Titled:
    """Teacher and student."""
    networks = {
        name: [
            Bin(b["images"] / analysis["test_images"], b["confidence"], b["accuracy"])
            for b in analysis["calibration"][name]["bins"]
        ]
        for name in ("teacher", "student")
    }
    told = "; ".join(
        f"{name}: "
        + ", ".join(f"{b.accuracy:.0%} right at confidence {b.confidence:.0%}" for b in bins)
        for name, bins in networks.items()
    )
    return Titled(
        "Reliability of teacher and student",
        reliability("reliability", networks, f"Accuracy by confidence. {told}"),
        "On the dotted line an answer is right as often as it claims; points below it are"
        " overconfident, and the larger a point, the more images it stands for.",
    )


def calibration(summary: Record) -> Table:
    """Expected calibration errors of networks and exports."""
    errors = dict(summary["calibration_error"])
    if summary["proxy"]["method"] == "teacher":
        del errors["proxy"]
    errors |= {name: export["calibration_error"] for name, export in summary["exports"].items()}
    rows = (([name], {"calibration_error": error}) for name, error in errors.items())
    return of_records("Expected calibration error (ECE)", [""], rows, ["calibration_error"])


def accuracy(classes: list[Record]) -> Table:
    """The classes on which the student is weakest, the weakest first."""
    present = [one for one in classes if one["images"]]
    chosen = sorted(present, key=lambda one: (one["accuracy/student"], -one["accuracy/teacher"]))
    chosen = chosen[:_ROWS]
    accuracies = [[one["accuracy/teacher"], one["accuracy/student"]] for one in chosen]
    shades = shaded(accuracies, percent)
    rows = [
        [
            one["class"],
            count(one["images"]),
            *shades_of_one,
            points(one["accuracy/student"] - one["accuracy/teacher"]),
        ]
        for one, shades_of_one in zip(chosen, shades, strict=True)
    ]
    which = f" ({_ROWS} of {len(present)}, the student’s weakest)" if len(present) > _ROWS else ""
    head = ["class", "test images", "teacher", "student", "student − teacher, points"]
    reading = (
        "The stronger the colour, from the lowest accuracy of the table to the highest, the more"
        " test images of the class are answered correctly; all classes are in reports/classes.csv."
    )
    return Table(head, rows, f"Accuracy by class{which}", reading)


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
    half = _ROWS // 2
    shown = found if len(found) <= _ROWS else [*found[:half], *found[-half:]]
    mean = Gain(*(baseline[key] for key in ("gain", "low", "high")))
    told = "; ".join(
        f"{name} {points(g.gain)} ({points(g.low)} to {points(g.high)})" for name, g in shown
    )
    which = "" if len(shown) == len(found) else f", the {half} largest and the {half} smallest"
    title = f"Gain over {baseline['path']} by class{which}"
    return Titled(
        title,
        differences(
            "gains",
            [("mean of classes", mean), *shown],
            f"{title}, in points with 95 % intervals: {told}",
        ),
        "A bar is a 95 % interval, in colour where it is clear of zero; of the classes without any"
        " gain or loss one in twenty will look so by chance.",
    )


def gains_reading(analysis: Record) -> str:
    """The mean over the classes, and by which method its interval is."""
    baseline = analysis["baseline"]
    mean, low, high = (points(baseline[key]) for key in ("gain", "low", "high"))
    method = (
        "paired on the same test images, after Agresti and Min (2005)"
        if baseline["paired"]
        else "not paired, as the runs saw other test images, after Agresti and Caffo (2000)"
    )
    return (
        f"Against {baseline['path']} the student gains {mean} points in the mean over the classes"
        f" (95 % interval {low} to {high}; {method})."
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
