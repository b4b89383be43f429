"""Tables that only the page has."""

from collections.abc import Callable

import numpy as np

from stages.formatting import count, millions, percent, points, significant
from stages.report_page.devices import devices
from stages.report_page.measurements import Measurements, Record
from stages.report_page.paper import title
from stages.tables import Table, cells, headings, of_latencies, of_records

#: The most classes to show.
_CLASSES = 20
#: Attention weights that differ by less count as equal.
_ALIKE = 1e-4

_TIMES = ("n", "min_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms", "cv", "first_ms", "init_ms")
_ANSWERS = ("accuracy", "top5_accuracy", "balanced_accuracy", "agreement", "calibration_error")


def validation(measured: Measurements) -> Table:
    of_golden = ("max_relative_error", "cosine", "top1_agreement")
    head = ["runtime", "precision", "shape", "status", "provider", "computed in"]
    results = measured.validation["results"]
    answers = [key for key in _ANSWERS if any(one[key] is not None for one in results)]
    rows = []
    for result in results:
        runtime = " ".join(filter(None, (result["runtime"], result["version"])))
        row = [runtime, result["precision"], result["shape"], result["status"]]
        if result["golden"] is None:
            rows.append([*row, result["reason"]])
            continue
        row += [result["provider"].removesuffix("ExecutionProvider"), ", ".join(result["dtypes"])]
        row += cells(result["golden"], *of_golden) + cells(result, *answers, "images")
        rows.append(row)
    head += headings(*of_golden, *answers, "images")
    return Table(head, rows, "All validations")


def similarity(measured: Measurements) -> Table:
    """Compare the networks in pairs; without the proxy if it is the teacher."""
    gap, rows = measured.analysis["gap"], []
    for pair in measured.analysis["pairs"]:
        a, b = pair["a"], pair["b"]
        if measured.proxy["method"] != "teacher" or "proxy" not in (a, b):
            figures = f"{pair['cka']:.4f}", f"{pair['kl']:.4f}", points(gap[f"{a}_{b}"])
            rows.append([f"{a}, {b}", *figures])
    head = ["first, second", "CKA", "KL, nats", "accuracy gap, points"]
    return Table(head, rows, "Pairs of networks")


def latency(measured: Measurements) -> Table:
    several = len(measured.latency["devices"]) > 1
    rows = []
    for result in measured.latency["results"]:
        name = f"{result['precision']}, {result['threads']}"
        rows.append(([f"{name}, {result['device']}" if several else name], result))
    return of_latencies(
        "Latency at batch 1", ["precision, threads"], rows, (*_TIMES, "peak_rss_mb")
    )


def litert_latency(measured: Measurements) -> Table | None:
    """List each number of threads; None if nothing was timed."""
    rows = [
        ([f"{row['precision']}, {timed['threads']}"], timed)
        for row in measured.litert["results"]
        for timed in row["latency"]
    ]
    if not rows:
        return None
    return of_latencies("Latency at batch 1 in LiteRT", ["precision, threads"], rows, _TIMES)


def measured_devices(measured: Measurements, exports: Record) -> Table | None:
    """List all measurements on all devices; None if there is only one device."""
    found = devices(measured)
    if len(found) < 2:
        return None
    rows = []
    for device in found:
        providers = {row["provider"] for row in device.results} - {None}
        for row in device.results:
            name = f"{row['precision']}, {row['threads']}"
            if len(providers) > 1 and row["provider"] is not None:  # from browsers
                name += f", {row['provider']}"
            accuracy = exports.get(row["precision"], {}).get("accuracy")
            rows.append(([device.url, name], row | {"accuracy": accuracy}))
    keys = ("accuracy", "p50_ms", "p90_ms")
    return of_latencies("All devices", ["device", "precision, threads"], rows, keys)


def calibration(summary: Record) -> Table:
    """List expected calibration errors of networks and exports."""
    errors = dict(summary["calibration_error"])
    if summary["proxy"]["method"] == "teacher":
        del errors["proxy"]
    errors |= {name: export["calibration_error"] for name, export in summary["exports"].items()}
    rows = (([name], {"calibration_error": error}) for name, error in errors.items())
    return of_records("Expected calibration error (ECE)", [""], rows, ["calibration_error"])


def classes(measured: Measurements) -> Table:
    """List the classes on which the student is weakest, the weakest first."""
    present = [one for one in measured.classes if one["images"]]
    present.sort(key=lambda one: (one["accuracy/student"], -one["accuracy/teacher"]))
    rows = []
    for one in present[:_CLASSES]:
        teacher, student = one["accuracy/teacher"], one["accuracy/student"]
        shown = percent(teacher), percent(student), points(student - teacher)
        rows.append([one["class"], count(one["images"]), *shown])
    return Table(
        ["class", "test images", "teacher", "student", "student − teacher, points"],
        rows,
        _of_classes("Accuracy by class", present, "the student’s weakest"),
        "All classes are in reports/classes.csv.",
    )


def confused(analysis: Record) -> Table:
    """List the pairs of classes that the student confuses most."""
    rows = [
        [pair["class"], pair["answer"], count(pair["count"]), percent(pair["share"])]
        for pair in analysis["confused"]
    ]
    head = ["class", "predicted as", "test images", "of the class"]
    return Table(head, rows, "The student’s most frequent confusions")


def learners(analysis: Record) -> Table:
    """List target, learners and ensemble on the test images."""
    found = analysis["learners"]
    names = {"target": "target (the student)"}
    rows = [
        [names.get(name, name), percent(accuracy), _known(percent, found["attention"].get(name))]
        for name, accuracy in found["accuracy"].items()
    ]
    head = ["", "test accuracy", "mean attention"]
    return Table(head, rows, f"On all {analysis['test_images']} test images")


def pairs_of_learners(analysis: Record) -> Table:
    """List how similar each pair of learners is."""
    found = analysis["learners"]
    rows = [
        [pair.replace("~", " and "), percent(same), _known(significant, found["cka"].get(pair))]
        for pair, same in found["agreement"].items()
    ]
    head = ["pair", f"agreement, {analysis['test_images']} images"]
    return Table(
        [*head, f"CKA, {analysis['images']} images"],
        rows,
        "Pairs of learners",
        "Among equally accurate pairs, those that agree less complement each other more.",
    )


def _known(form: Callable[[float], str], value: float | None) -> str:
    return "—" if value is None else form(value)


def attention(classes: list[Record]) -> Table | None:
    """List the classes whose weights differ most from the mean; None if all are weighted alike."""
    prefix = "attention/"
    keys = [key for key in classes[0] if key.startswith(prefix)]
    present = [one for one in classes if one["images"]]
    if len(keys) < 2:
        return None
    weights = np.array([[one[key] for key in keys] for one in present])
    distance = np.abs(weights - weights.mean(0)).max(1)
    if distance.max() < _ALIKE:
        return None
    chosen = np.argsort(-distance, kind="stable")[:_CLASSES]
    chosen = chosen[np.argsort(-weights[chosen, 0], kind="stable")]
    return Table(
        ["class", *(key.removeprefix(prefix) for key in keys)],
        [[present[n]["class"], *(f"{100 * one:.1f} %" for one in weights[n])] for n in chosen],
        _of_classes("Attention by class", present, "those farthest from the mean"),
        "Mean weights on the test images of each class.",
    )


def _of_classes(caption: str, present: list[Record], which: str) -> str:
    shown = f"{caption} ({_CLASSES} of {len(present)}, {which})"
    return shown if len(present) > _CLASSES else caption


def paper(summary: Record) -> Table:
    """Compare the paper's accuracies with this run's, a row per method."""
    ours = {name: summary[name]["accuracy"] for name in ("teacher", "student")}
    return _beside_paper("Top\u20111 accuracy", summary["paper"], "accuracies", ours)


def paper_top5(summary: Record) -> Table | None:
    """Compare top-5 accuracies; None if the paper has none for these networks."""
    found = {name: one["top5_accuracy"] for name, one in summary["scores"].items()}
    if not summary["paper"]["top5_accuracies"] or None in found.values():
        return None
    ours = {name: one["value"] for name, one in found.items()}
    return _beside_paper("Top\u20115 accuracy", summary["paper"], "top5_accuracies", ours)


def _beside_paper(caption: str, of_paper: Record, key: str, ours: dict[str, float]) -> Table:
    theirs, method = of_paper[key], of_paper["method"]
    ours[method] = ours.pop("student")
    rows = []
    for name in dict.fromkeys([*theirs, *ours]):
        both = [theirs.get(name), ours.get(name)]
        gap = None if None in both else ours[name] - theirs[name]
        named = title(name) + (", this run" if name == method else "")
        rows.append([named, *(_known(percent, one) for one in both), _known(points, gap)])
    return Table(["method", "paper", "this run", "difference, points"], rows, caption)


def prune(measured: Measurements) -> Table:
    # The report numbers the learners in the order of their names.
    learners = list(measured.student.get("learners", {}))

    def named(part: str) -> str:
        kind, _, number = part.partition(".")
        return f"{kind.removesuffix('s')} {learners[int(number)]}" if number else kind

    parameters, macs = (measured.prune[key] for key in ("parameters", "macs"))
    rows = [
        ["during training", count(parameters["training"]), millions(macs["training"])],
        *(
            [f"− {named(part)}", count(number), ""]
            for part, number in measured.prune["dropped"].items()
        ),
        [
            "student, branches fused" if measured.prune["fused"] else "student",
            count(parameters["student"]),
            millions(macs["student"]),
        ],
        ["plain network of the same name", count(parameters["plain"]), millions(macs["plain"])],
    ]
    return Table(["", "parameters", "MACs"], rows, "Size before and after pruning")
