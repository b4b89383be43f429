"""``reports/summary.json``: the figures that goals, tables and the model card are made of."""

from __future__ import annotations

from stages.formatting import threads
from stages.params import Params
from stages.report_page import devices, litert
from stages.report_page.choice import dominated_by, recommended
from stages.report_page.learners import warnings
from stages.report_page.measurements import Measurements, Record
from stages.report_page.paper import paper_figures

# Of one parameter in fp32; so networks that were never exported can be compared too.
_BYTES = 4
_MB = 1e6
_P99_SAMPLES = 500


def summarise(measured: Measurements, params: Params) -> Record:
    """The summary, as ``docs/files.md`` describes it."""
    teacher, student = measured.teacher, measured.student
    accuracy = measured.validation["torch"]["accuracy"]
    splits = measured.data["splits"]
    prune = measured.prune
    paper = paper_figures(measured, params)
    exports = _exports(measured)
    return {
        "data": {
            "source": measured.data["source"],
            **{name: splits[name]["count"] for name in ("train", "val", "test")},
            "classes": len(measured.data["classes"]),
            "image_size": measured.data["image_size"],
        },
        "teacher": _network(teacher, teacher["parameters"], teacher["macs"]),
        "proxy": {
            "method": measured.proxy["method"],
            **_network(measured.proxy, measured.proxy["parameters"], measured.proxy["macs"]),
        },
        "student": {
            "method": student["method"],
            **_network(
                {"network": prune["network"], "accuracy": accuracy},
                prune["parameters"]["student"],
                prune["macs"]["student"],
            ),
        },
        "drop_from_teacher": teacher["accuracy"] - accuracy,
        "calibration_error": {
            name: figures["error"] for name, figures in measured.analysis["calibration"].items()
        },
        "baseline": measured.analysis["baseline"],
        "paper": paper,
        "exports": exports,
        "recommended": recommended(exports, params.gate.max_export_drop),
        "devices": devices.summary(measured, exports),
        "litert": litert.summary(measured),
        "warnings": warnings(measured.student_history),
        "skipped": skipped(measured) + _without_paper(measured, paper),
    }


def _network(metrics: Record, parameters: int, macs: int) -> Record:
    return {
        "network": metrics["network"],
        "accuracy": metrics["accuracy"],
        "parameters": parameters,
        "macs": macs,
        "size_mb": parameters * _BYTES / _MB,
    }


def _exports(measured: Measurements) -> dict[str, Record]:
    made = (*measured.model["files"], *measured.model["failed"])
    exports = {precision: _export(precision, measured) for precision in made}
    fp32 = exports["fp32"]["p50_ms"]
    for export in exports.values():
        timed = fp32 is not None and export["p50_ms"] is not None
        export["speedup"] = fp32 / export["p50_ms"] if timed else None
    for precision, others in dominated_by(exports).items():
        exports[precision]["dominated_by"] = others
    return exports


def _export(precision: str, measured: Measurements) -> Record:
    results = [r for r in measured.validation["results"] if r["precision"] == precision]
    own = [r for r in results if r["runtime"] == "onnxruntime" and r["status"] != "skipped"]
    # The first that saw the whole test split; the model with a dynamic batch where both did.
    own.sort(key=lambda r: r["shape"])
    whole: Record = next((r for r in own if r["accuracy"] is not None), {})
    errors = [r["golden"]["max_relative_error"] for r in own if r["golden"]]
    # A logit that is not finite has no error, and none is as large.
    error = None if None in errors else max(errors, default=None)
    reasons = [r["reason"] for r in results if r["status"] == "failed"]
    if precision in measured.model["failed"]:
        reasons.append(measured.model["failed"][precision])
    status = "failed" if reasons else "passed" if own else "skipped"
    latency = _at_one_thread(precision, measured)
    files = measured.model["files"].get(precision)
    if status == "skipped":
        reasons += [r["reason"] for r in results] or ["not validated"]
    made = measured.model["quantization"].get(precision)
    return {
        "made_by": made and made["made_by"],
        "size_mb": files and files["static"]["bytes"] / _MB,
        **{key: whole.get(key) for key in ("accuracy", "drop", "drop_low", "drop_high")},
        "max_relative_error": error,
        "agreement": whole.get("agreement"),
        "calibration_error": whole.get("calibration_error"),
        "status": status,
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
        **{key: latency.get(key) for key in ("p50_ms", "p90_ms")},
        "threads": 1,
        "noisy": latency.get("noisy"),
    }


def _at_one_thread(precision: str, measured: Measurements) -> Record:
    """Empty where this was not profiled, or where the model answered wrongly."""
    first = measured.latency["devices"][0]["device"]
    for result in measured.latency["results"]:
        ours = result["device"] == first and result["runtime"] == "onnxruntime"
        if ours and (result["precision"], result["threads"]) == (precision, 1):
            return dict(result) if result["status"] == "passed" else {}
    return {}


def skipped(measured: Measurements) -> list[Record]:
    """What was not measured, each with its reason; what failed with its figures is not here."""
    missing: list[tuple[str, str]] = []
    for result in measured.validation["results"]:
        if result["golden"] is None:
            missing.append((f"{result['runtime']} {result['precision']}", result["reason"]))
    several = len(measured.latency["devices"]) > 1
    of_devices: list[tuple[str, str | None, str]] = []
    for result in measured.latency["results"]:
        what = f"{result['precision']} at {threads(result['threads'])}"
        device = result["device"] if several else None
        if result["status"] != "passed":
            of_devices.append((f"latency of {what}", device, result["reason"]))
        elif result["p99_ms"] is None:
            reason = f"{result['n']} samples, under {_P99_SAMPLES}"
            of_devices.append((f"p99 of {what}", device, reason))
    of_devices += devices.missing(measured)
    first = measured.latency["devices"][0]["device"]
    counts = [r["threads"] for r in measured.latency["results"] if r["device"] == first]
    if 1 not in counts:
        missing.append(("latency at one thread", "profile.threads lacks 1"))
    missing += litert.missing(measured)
    if measured.analysis["learners"] is None:
        method = measured.student["method"]
        missing.append(("auxiliary learners", f"the method {method} has none"))
    missing += _of_device(measured)
    listed = of_devices + [(what, None, reason) for what, reason in missing]
    return [
        {"what": what, **({"device": device} if device else {}), "reason": reason}
        for what, device, reason in dict.fromkeys(listed)
    ]


def _without_paper(measured: Measurements, paper: Record | None) -> list[Record]:
    if paper is None or paper["accuracies"]:
        return []
    pair = f"{measured.teacher['network']} and {measured.student['network']}"
    reason = f"the paper has none for {pair} on {paper['data']}"
    return [{"what": "the paper's figures", "reason": reason}]


def _of_device(measured: Measurements) -> list[tuple[str, str]]:
    def unread(key: str) -> bool:
        return all(r[key] is None for r in measured.latency["results"])

    missing = []
    if measured.latency["devices"][0]["governor"] is None:
        missing.append(("CPU governor", "not readable on the device that measured"))
    if unread("temperature_before"):
        missing.append(("temperature", "not readable on the device that measured"))
    return missing
