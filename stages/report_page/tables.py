"""The tables of the page: figures as text, with their units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from markupsafe import Markup

from stages.figures import (
    count,
    drop,
    millions,
    percent,
    points,
    ratio,
    significant,
    verdict,
)
from stages.report_page.measurements import Measurements, Record

NOT_MEASURED = Markup('<span class="missing">not measured</span>')


class Table(NamedTuple):
    """Column names, rows, and a title; the last cell of a shorter row takes the rest of it."""

    head: list[str]
    rows: list[list[str]]
    caption: str = ""


class HeatMap(NamedTuple):
    """As :class:`Table`, with numbers beside their texts: the greater one, the stronger a cell.

    The least of the table has no colour, and neither has a cell without a number.
    """

    head: list[str]
    rows: list[tuple[str, list[tuple[str, float | None]]]]
    caption: str

    def strength(self, number: float) -> float:
        """Between 0 for the least and 1 for the greatest."""
        numbers = [n for _, cells in self.rows for _, n in cells if n is not None]
        least, greatest = min(numbers), max(numbers)
        return (number - least) / (greatest - least) if greatest > least else 0.0


def show(form: Callable[[Any], str], value: Any) -> str:
    """``value`` in ``form``, or that it was not measured."""
    return NOT_MEASURED if value is None else form(value)


def networks(summary: Record) -> Table:
    head = ["", "network", "accuracy", "parameters", "MACs", "fp32 weights, MB"]
    teacher, proxy, student = (summary[name] for name in ("teacher", "proxy", "student"))
    shown = {"teacher": teacher, "proxy": proxy, "student": student}
    if proxy["method"] == "teacher":
        del shown["proxy"]
    rows = [
        [
            name,
            network["network"],
            percent(network["accuracy"]),
            count(network["parameters"]),
            millions(network["macs"]),
            significant(network["size_mb"]),
        ]
        for name, network in shown.items()
    ]
    ratios = [ratio(teacher[key], student[key]) for key in ("parameters", "macs", "size_mb")]
    lost = f"{points(summary['drop_from_teacher'])} points"
    rows.append(["teacher against student", "", lost, *ratios])
    return Table(head, rows, "Teacher and student")


def exports(summary: Record) -> Table:
    head = [
        "precision",
        "status",
        "verdict",
        "accuracy",
        "drop, points (95 % interval)",
        "size, MB",
        "p50, ms",
        "p90, ms",
        "speed, × fp32",
        "parity",
        "agreement",
        "made by",
    ]
    rows = [
        [
            precision,
            export["status"],
            verdict(precision, summary),
            show(percent, export["accuracy"]),
            show(str, drop(export)),
            show(significant, export["size_mb"]),
            show(significant, export["p50_ms"]),
            show(significant, export["p90_ms"]),
            show(significant, export["speedup"]),
            show(significant, export["max_relative_error"]),
            show(percent, export["agreement"]),
            export["made_by"] or "",
        ]
        for precision, export in summary["exports"].items()
    ]
    return Table(head, rows, "The student’s exports, in onnxruntime")


def validation(measured: Measurements) -> Table:
    head = ["runtime", "precision", "shape", "status", "provider", "computed in", "parity"]
    head += ["cosine", "golden top\u20111", "accuracy", "agreement", "ECE", "images"]
    rows = []
    for result in measured.validation["results"]:
        golden = result["golden"]
        runtime = " ".join(filter(None, (result["runtime"], result["version"])))
        row = [runtime, result["precision"], result["shape"], result["status"]]
        if golden is None:
            rows.append([*row, result["reason"]])
            continue
        row += [
            result["provider"].removesuffix("ExecutionProvider"),
            ", ".join(result["dtypes"]),
            show(significant, golden["max_relative_error"]),
            show("{:.5f}".format, golden["cosine"]),
            show(percent, golden["top1_agreement"]),
            show(percent, result["accuracy"]),
            show(percent, result["agreement"]),
            show(percent, result["calibration_error"]),
            count(result["images"]),
        ]
        rows.append(row)
    return Table(head, rows, "Every validation")


def engines(measured: Measurements) -> Table | None:
    """What was built where a runtime builds for its device; None where none did."""
    head = ["engine", "provider", "layers by format", "runs", "GPU p50, ms", "GPU p90, ms"]
    head += ["host p50, ms", "host p90, ms"]
    rows = []
    for result in measured.validation["results"]:
        if result["layers"] is None:
            continue
        layers = ", ".join(f"{len(names)} {dtype}" for dtype, names in result["layers"].items())
        name = " ".join((result["runtime"], result["precision"], result["shape"]))
        row = [name, result["provider"], layers]
        if latency := result["latency"]:
            row.append(count(latency["gpu"]["n"]))
            for clock in ("gpu", "wall"):
                row += [significant(latency[clock][key]) for key in ("p50_ms", "p90_ms")]
        rows.append(row)
    return Table(head, rows, "What was built, and its latency at batch 1") if rows else None


def similarity(measured: Measurements) -> Table:
    gap = measured.analysis["gap"]
    rows = [
        [
            f"{pair['a']}, {pair['b']}",
            f"{pair['cka']:.4f}",
            f"{pair['kl']:.4f}",
            points(gap[f"{pair['a']}_{pair['b']}"]),
        ]
        for pair in measured.analysis["pairs"]
    ]
    head = ["first, second", "CKA", "KL, nats", "accuracy gap, points"]
    return Table(head, rows, "First against second")


def latency(measured: Measurements) -> Table:
    head = [
        "precision, threads",
        "runs",
        "min",
        "p50",
        "p90",
        "p99",
        "mean",
        "variation",
        "first run",
        "session start",
        "peak memory, MB",
        "noisy",
    ]
    several = len(measured.latency["devices"]) > 1
    latencies = ("min_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms")
    rows = [
        [
            f"{result['precision']}, {result['threads']}"
            + (f", {result['device']}" if several else ""),
            show(count, result["n"]),
            *(show(significant, result[key]) for key in latencies),
            show(percent, result["cv"]),
            show(significant, result["first_ms"]),
            show(significant, result["init_ms"]),
            show(significant, result["peak_rss_mb"]),
            show(lambda noisy: "yes" if noisy else "no", result["noisy"]),
        ]
        for result in measured.latency["results"]
    ]
    return Table(head, rows, "Times in milliseconds, batch 1")


def prune(measured: Measurements) -> Table:
    # The files number the learners, in the order of their names.
    learners = list(measured.student.get("learners", {}))

    def named(part: str) -> str:
        kind, _, number = part.partition(".")
        return f"{kind.removesuffix('s')} {learners[int(number)]}" if number else kind

    parameters, macs = (measured.prune[key] for key in ("parameters", "macs"))
    rows = [
        ["while training", count(parameters["training"]), millions(macs["training"])],
        *(
            [f"− {named(part)}", count(number), ""]
            for part, number in measured.prune["dropped"].items()
        ),
        ["student", count(parameters["student"]), millions(macs["student"])],
        ["plain network of that name", count(parameters["plain"]), millions(macs["plain"])],
    ]
    return Table(["", "parameters", "MACs"], rows, "What trained, and what is left")
