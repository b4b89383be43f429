"""Build ``reports/summary.json``, the figures for goals, tables and the model card."""

from stages.params import Params
from stages.report_page.devices import Measured, devices, of_precisions
from stages.report_page.learner_warnings import warnings
from stages.report_page.measurements import Measurements, Record
from stages.report_page.missing import skipped
from stages.report_page.paper import paper_figures
from stages.report_page.recommendation import dominated_by, recommended
from stages.tables import is_non_commercial

# Of one parameter in fp32, so that networks without exports can be compared too.
_BYTES = 4
_MB = 1e6
#: Where LiteRT is timed, whatever the other devices.
_LOCAL = "local:"


def summarise(measured: Measurements, params: Params) -> Record:
    """Build the summary, as described in ``docs/files.md``."""
    splits, prune = measured.data["splits"], measured.prune
    student = {
        "network": prune["network"],
        "accuracy": measured.validation["torch"]["accuracy"],
        "parameters": prune["parameters"]["student"],
        "macs": prune["macs"]["student"],
        "weights": measured.student.get("weights"),
    }
    paper = paper_figures(measured, params)
    exports = _exports(measured)
    networks = {"teacher": _network(measured.teacher), "student": _network(student)}
    return {
        "data": {
            "source": measured.data["source"],
            **{name: splits[name]["count"] for name in ("train", "val", "test")},
            "classes": len(measured.data["classes"]),
            "image_size": measured.data["image_size"],
        },
        "teacher": networks["teacher"],
        "proxy": {"method": measured.proxy["method"], **_network(measured.proxy)},
        "student": {"method": measured.student["method"], **networks["student"]},
        "drop_from_teacher": measured.teacher["accuracy"] - student["accuracy"],
        "scores": measured.analysis["scores"],
        "calibration_error": {
            name: found["error"] for name, found in measured.analysis["calibration"].items()
        },
        "baseline": measured.analysis["baseline"],
        "paper": paper,
        "exports": exports,
        "recommended": recommended(exports, params.gate.max_export_drop),
        "devices": {device.url: _device(device, exports) for device in devices(measured)},
        "litert": _litert(measured),
        "warnings": [*warnings(measured.student_history), *_non_commercial(networks)],
        "skipped": skipped(measured, paper),
    }


def _device(device: Measured, exports: Record) -> Record:
    keys = ("threads", "p50_ms", "p90_ms", "noisy", "status", "reason")
    rows = {name: row for name, row in of_precisions(device).items() if name in exports}
    return {
        **{key: device.description[key] for key in ("system", "machine", "cpu", "runtime")},
        "by_hand": device.by_hand,
        "exports": {name: {key: row[key] for key in keys} for name, row in rows.items()},
    }


def _network(metrics: Record) -> Record:
    shown = {key: metrics[key] for key in ("network", "accuracy", "parameters", "macs")}
    size = metrics["parameters"] * _BYTES / _MB
    return shown | {"size_mb": size, "weights": metrics.get("weights")}


def _non_commercial(networks: dict[str, Record]) -> list[str]:
    """Return a sentence for each network whose weights forbid commercial use."""
    return [
        f"The weights that the {name} starts from, {weights['source']}, are licensed for"
        f" non-commercial use only ({weights['licence']})."
        for name, network in networks.items()
        if (weights := network["weights"]) and is_non_commercial(weights)
    ]


def _exports(measured: Measurements) -> dict[str, Record]:
    model, first = measured.model, measured.latency["devices"][0]["device"]
    exports = {}
    for precision in (*model["files"], *model["failed"]):
        answers = _answers(precision, measured)
        file = model["files"].get(precision)
        chosen = model["int8"].get(precision, {})
        exports[precision] = {
            "size_mb": file and file["static"]["bytes"] / _MB,
            "in_float": chosen.get("in_float", []),
            **answers,
            **_speed(_timed(measured, first, precision), _timed(measured, first, "fp32")),
        }
    for precision, others in dominated_by(exports).items():
        exports[precision]["dominated_by"] = others
    return exports


def _answers(precision: str, measured: Measurements) -> Record:
    """Summarise all validations of a precision in onnxruntime."""
    results = [r for r in measured.validation["results"] if r["precision"] == precision]
    own = [r for r in results if r["runtime"] == "onnxruntime" and r["status"] != "skipped"]
    # The first that saw the whole test split; the dynamic model if both did.
    own.sort(key=lambda r: r["shape"])
    whole: Record = next((r for r in own if r["accuracy"] is not None), {})
    errors = [r["golden"]["max_relative_error"] for r in own if r["golden"]]
    reasons = [r["reason"] for r in results if r["status"] == "failed"]
    if precision in measured.model["failed"]:
        reasons.append(measured.model["failed"][precision])
    status = "failed" if reasons else "passed" if own else "skipped"
    if status == "skipped":
        reasons += [r["reason"] for r in results] or ["not validated"]
    return {
        **{key: whole.get(key) for key in ("accuracy", "drop", "drop_low", "drop_high")},
        # A logit that is not finite has no error, and counts as the worst.
        "max_relative_error": None if None in errors else max(errors, default=None),
        **{key: whole.get(key) for key in ("agreement", "calibration_error")},
        "status": status,
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
    }


def _litert(measured: Measurements) -> Record | None:
    """Summarise the LiteRT exports; None if LiteRT is off."""
    if not measured.litert["enabled"]:
        return None
    answers = ("agreement", "calibration_error", "status", "reason")
    return {
        "versions": measured.litert["versions"],
        "exports": {
            row["precision"]: {
                "size_mb": None if row["bytes"] is None else row["bytes"] / _MB,
                **{key: row[key] for key in ("accuracy", "drop", "drop_low", "drop_high")},
                "max_relative_error": row["golden"] and row["golden"]["max_relative_error"],
                **{key: row[key] for key in answers},
                **_speed(_at_one_thread(row["latency"]), _timed(measured, _LOCAL, "fp32")),
            }
            for row in measured.litert["results"]
        },
    }


def _timed(measured: Measurements, device: str, precision: str) -> Record:
    rows = measured.latency["results"]
    return _at_one_thread([r for r in rows if (r["device"], r["precision"]) == (device, precision)])


def _at_one_thread(rows: list[Record]) -> Record:
    """Return the row at one thread; empty if it was not timed or failed parity."""
    return next((r for r in rows if r["threads"] == 1 and r["status"] == "passed"), {})


def _speed(latency: Record, fp32: Record) -> Record:
    return {
        **{key: latency.get(key) for key in ("p50_ms", "p90_ms")},
        "threads": 1,
        "noisy": latency.get("noisy"),
        "speedup": fp32["p50_ms"] / latency["p50_ms"] if latency and fp32 else None,
    }
