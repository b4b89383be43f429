"""Measure accuracy, size and latency of a student in each precision: ``python -m benchmarks.edge``.

Each argument NAME=FOLDER names a project in which the chain has run. Accuracies are those that its
stage ``validate`` measured on the whole test split. Latencies are measured here, in rounds in which
torch, a plain export, the chain's exports and those of other quantizers take turns.
``docs/benchmarks.md`` explains how to create such projects and how to read the result.
"""

from __future__ import annotations

import statistics as median_of
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import onnx
import onnxruntime
import torch
import typer

from benchmarks.latency import (
    Student,
    Way,
    answers,
    open_ways,
    operator_times,
    read_student,
    time_in_turn,
)
from benchmarks.results import (
    Json,
    command,
    describe,
    describe_run,
    publish,
    quotients,
    spread,
    summarize,
    table,
)
from models.errors import InputError
from stages.analysis.intervals import gain
from stages.devices.rules import NOISY_CV, breach, compare, statistics
from stages.devices.runner import run_batches
from stages.formatting import drop, significant

#: Goals for int8_u8s8: loss of accuracy, and speed-up over fp32 with depthwise convolutions (True),
#: whose int8 kernels are slow, and without (False).
MAX_DROP, MIN_SPEEDUP = 0.005, {True: 1.5, False: 1.8}
#: int8 models that the chain does not validate; their accuracy is measured here.
OTHER_INT8 = {"calibrated", "onnxruntime", "nncf"}
#: Models whose time is broken down by operator, and the number of operators to name.
_COMPARED, _OPERATORS = ("fp32", "int8_u8s8"), 5
_LOST = ("drop", "drop_low", "drop_high")
# Rounding error of a difference: 0.98 - 0.975 must count as 0.005.
_ROUNDING = 1e-9


def main(
    students: Annotated[
        list[str],
        typer.Argument(metavar="NAME=FOLDER...", help="Projects in which the chain has run."),
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 15,
) -> None:
    """Measure the students and write the tables."""
    found = {}
    for argument in students:
        name, _, folder = argument.partition("=")
        if not name or not folder:
            raise InputError(f"{argument}: expected NAME=FOLDER, such as resnet20=/data/resnet20")
        found[name] = read_student(Path(folder))
    results = describe(rounds)
    results["machine"] |= {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    results["students"] = {}
    for name, student in found.items():
        typer.echo(f"{name}: plain export, then {rounds} rounds", err=True)
        with tempfile.TemporaryDirectory(prefix="ackd-benchmark-") as folder:
            ways = open_ways(student, Path(folder))
            image = student.exported.golden_batch()[0][:1]
            samples = time_in_turn(ways, image, rounds)
            results["students"][name] = summarize_student(student, ways, samples)
    publish("edge", markdown(results), results)


def summarize_student(
    student: Student, ways: Mapping[str, Way], samples: Mapping[str, Sequence[Sequence[float]]]
) -> Json:
    """Return a row for each way to run the student, and the goals; ``samples`` are in ms."""
    medians = {key: [median_of.median(times) for times in found] for key, found in samples.items()}
    images, reference = student.exported.golden_batch()
    test = student.data.split("test")
    right = answers(ways["fp32"], test.images) == test.labels
    rows = {}
    for key, way in ways.items():
        golden = compare(run_batches(way.session, way.prepare(images), 1), reference)
        # Drops are relative to torch, and plain exports are not validated.
        validated = student.validated.get(key, {})
        alone = {"accuracy": student.torch["accuracy"]} if key == "eager" else validated
        if key in OTHER_INT8:
            others = answers(way, test.images) == test.labels
            lost = zip(_LOST, gain(right, others, paired=True), strict=True)
            alone = {"accuracy": others.mean(), **dict(lost)}
        limits = key if validated else "int8_u8s8" if key in OTHER_INT8 else "fp32"
        reasons = [breach(limits, golden), validated.get("reason")]
        pooled = statistics([sample for times in samples[key] for sample in times])
        rows[key] = {
            "title": way.title,
            **{name: alone.get(name) for name in ("accuracy", *_LOST)},
            "size_mb": way.size / 1e6,
            "golden": golden,
            "reason": "; ".join(filter(None, reasons)) or None,
            "p50_ms": summarize(medians[key]),
            "speedup": summarize(quotients(medians["fp32"], medians[key])),
            "runs": pooled["n"],
            "noisy": pooled["cv"] > NOISY_CV,
            "samples_p50_ms": medians[key],
        }
    models = {key: student.exported.file(key, "static") for key in _COMPARED}
    nodes = onnx.load(models["fp32"]).graph.node
    depthwise = any(a.name == "group" and a.i > 1 for node in nodes for a in node.attribute)
    return {
        "network": student.exported.description["network"],
        "in_float": student.exported.description["int8"].get("int8_u8s8", {}).get("in_float", []),
        "test_images": student.torch["images"],
        "rows": rows,
        "operators_ms": {key: operator_times(path, images[:1]) for key, path in models.items()},
        "goals": goals(rows, MIN_SPEEDUP[depthwise]),
    }


def goals(rows: Mapping[str, Json], min_speedup: float) -> Json:
    """Return each goal's numbers and whether it is met."""
    int8, samples = rows["int8_u8s8"], {key: row["samples_p50_ms"] for key, row in rows.items()}
    right = {key: rows[key]["reason"] is None for key in ("plain", "fp32", "int8_u8s8")}
    against_plain = summarize(quotients(samples["plain"], samples["fp32"]))
    speedup = int8["speedup"]["median"]
    close = right["fp32"] and right["int8_u8s8"] and int8["drop"] <= MAX_DROP + _ROUNDING
    peers = [row for key, row in rows.items() if key in OTHER_INT8 - {"calibrated"}]
    better = [
        row["title"]
        for row in peers
        if row["accuracy"] > int8["accuracy"] and row["speedup"]["median"] > speedup
    ]
    lost = {name: int8[name] for name in _LOST}
    return {
        "holds": {"speedup": int8["speedup"], **lost, "met": close and speedup >= 1},
        "fast": {"speedup": int8["speedup"], "least": min_speedup, "met": speedup >= min_speedup},
        "peers": {"better": better, "met": not better if peers else None},
        "fp32": {
            "speedup": against_plain,
            "speedup_from_bytes": summarize(quotients(samples["plain_bytes"], samples["fp32"])),
            "met": right["plain"] and right["fp32"] and against_plain["median"] >= 1,
        },
    }


def markdown(results: Mapping[str, Any]) -> str:
    """Return a table of goals, followed by a table for each student."""
    machine = results["machine"]
    head = (
        f"{describe_run(results)} One thread, one image; torch {machine['torch']}, onnxruntime"
        f" {machine['onnxruntime']}."
    )
    parts = [head, _goals(results["students"])]
    for name, student in results["students"].items():
        text = f"{student['network']}; accuracy on {student['test_images']:,} test images."
        if student["in_float"]:
            text += f" int8_u8s8 keeps in float: {', '.join(student['in_float'])}."
        parts += [f"### {name}", text, _rows(student), _operators(student["operators_ms"])]
    return "\n\n".join(parts) + "\n"


def _goals(students: Mapping[str, Json]) -> str:
    titles = {
        "holds": f"int8_u8s8 no slower than fp32, at most {100 * MAX_DROP:g} points worse",
        "fast": f"{MIN_SPEEDUP[False]} times as fast, or {MIN_SPEEDUP[True]} with depthwise layers",
        "peers": "no peer's int8 both faster and more accurate",
        "fp32": "static fp32 no slower than a plain export",
    }
    rows = []
    for key, title in titles.items():
        cells = []
        for student in students.values():
            goal = student["goals"][key]
            met = {True: "reached", False: "**not reached**", None: "not measured"}[goal["met"]]
            cells.append(": ".join(filter(None, [met, "; ".join(_numbers(goal))])))
        rows.append([title, *cells])
    return table(["goal", *students], rows)


def _numbers(goal: Json) -> Iterator[str]:
    if "speedup" in goal:
        yield f"{spread(goal['speedup'], 2)} times as fast"
    if "drop" in goal:
        yield f"a drop of {drop(goal) or 'unknown size'} points"
    if "speedup_from_bytes" in goal:
        yield f"{spread(goal['speedup_from_bytes'], 2)} times, both starting from bytes"
    yield from goal.get("better", [])


def _rows(student: Json) -> str:
    heads = ["", "accuracy, %", "drop, points (95 %)", "size, MB", "relative error"]
    heads += ["top-1 agreement", "p50, ms", "fp32 = 1"]
    rows = []
    for row in student["rows"].values():
        accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f}"
        failed = f"failed: {row['reason']}" if row["reason"] else ""
        title = "; ".join(filter(None, [row["title"], failed, "noisy" if row["noisy"] else ""]))
        error, agreement = (row["golden"][k] for k in ("max_relative_error", "top1_agreement"))
        parity = ["", ""] if error is None else [f"{error:.1e}", f"{agreement:.0%}"]
        cells = [title, accuracy, drop(row) or "", significant(row["size_mb"]), *parity]
        rows.append([*cells, spread(row["p50_ms"], 3), spread(row["speedup"], 2)])
    return table(heads, rows)


def _operators(times: Mapping[str, Mapping[str, float]]) -> str:
    """Say in one line per model where its time goes."""
    lines = []
    for model, by_operator in times.items():
        total = sum(by_operator.values())
        largest = list(by_operator.items())[:_OPERATORS]
        parts = [f"{operator} {time / total:.0%}" for operator, time in largest]
        lines.append(f"Time in {model}, {total:.2f} ms when profiled: {', '.join(parts)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    command(main)
