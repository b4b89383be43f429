"""The tables that the page alone has."""

from __future__ import annotations

from stages.formatting import count, millions, points
from stages.report_page.devices import devices
from stages.report_page.measurements import Measurements, Record
from stages.tables import Table, cells, headings, of_records

_TIMES = ("n", "min_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms", "cv", "first_ms", "init_ms")
_ANSWERS = ("accuracy", "agreement", "calibration_error")


def validation(measured: Measurements) -> Table:
    of_golden = ("max_relative_error", "cosine", "top1_agreement")
    head = ["runtime", "precision", "shape", "status", "provider", "computed in"]
    rows = []
    for result in measured.validation["results"]:
        runtime = " ".join(filter(None, (result["runtime"], result["version"])))
        row = [runtime, result["precision"], result["shape"], result["status"]]
        if result["golden"] is None:
            rows.append([*row, result["reason"]])
            continue
        row += [result["provider"].removesuffix("ExecutionProvider"), ", ".join(result["dtypes"])]
        row += cells(result["golden"], *of_golden) + cells(result, *_ANSWERS, "images")
        rows.append(row)
    head += headings(*of_golden, *_ANSWERS, "images")
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
            quiet = {"noisy": False}
            row += cells(latency["gpu"] | quiet, "n", "p50_ms", "p90_ms")
            row += cells(latency["wall"] | quiet, "p50_ms", "p90_ms")
        rows.append(row)
    if not rows:
        return None
    reading = (
        "The GPU’s time is what lies between the launch of an engine and its end; the host’s goes"
        " from the images to the logits in its own memory. A small network’s launch takes longer"
        " than its work."
    )
    return Table(head, rows, "What was built, and its latency at batch 1", reading)


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
    several = len(measured.latency["devices"]) > 1
    rows = [
        (
            [
                f"{result['precision']}, {result['threads']}"
                + (f", {result['device']}" if several else "")
            ],
            result,
        )
        for result in measured.latency["results"]
    ]
    return of_records("Latency at batch 1", ["precision, threads"], rows, (*_TIMES, "peak_rss_mb"))


def litert_latency(measured: Measurements) -> Table | None:
    """Every number of threads; None where nothing was timed."""
    rows = [
        ([f"{row['precision']}, {timed['threads']}"], timed)
        for row in measured.litert["results"]
        for timed in row["latency"]
    ]
    if not rows:
        return None
    return of_records("Latency at batch 1 in LiteRT", ["precision, threads"], rows, _TIMES)


def measured_devices(measured: Measurements, exports: Record) -> Table | None:
    """Every measurement on every device; None where there is but one device."""
    found = devices(measured)
    if len(found) < 2:
        return None
    rows = []
    for device in found:
        providers = {row["provider"] for row in device.results} - {None}
        for row in device.results:
            name = f"{row['precision']}, {row['threads']}"
            if len(providers) > 1 and row["provider"] is not None:  # as browsers have them
                name += f", {row['provider']}"
            accuracy = exports.get(row["precision"], {}).get("accuracy")
            rows.append(([device.url, name], row | {"accuracy": accuracy}))
    keys = ("status", "accuracy", "p50_ms", "p90_ms")
    return of_records("All devices", ["device", "precision, threads"], rows, keys)


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
