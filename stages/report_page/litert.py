"""LiteRT, the second mobile runtime, beside onnxruntime's exports."""

from __future__ import annotations

from collections.abc import Iterator

from stages.formatting import threads
from stages.report_page.measurements import Measurements, Record

_MB = 1e6
#: Where LiteRT is timed, whatever else is measured.
_DEVICE = "local:"


def summary(measured: Measurements) -> Record | None:
    """``litert`` of ``reports/summary.json``; None where it is off."""
    if not measured.litert["enabled"]:
        return None
    return {
        "versions": measured.litert["versions"],
        "exports": {row["precision"]: _export(row, measured) for row in measured.litert["results"]},
    }


def _export(row: Record, measured: Measurements) -> Record:
    latency = _at_one_thread(row["latency"])
    fp32 = _at_one_thread(
        [
            r
            for r in measured.latency["results"]
            if (r["device"], r["runtime"], r["precision"]) == (_DEVICE, "onnxruntime", "fp32")
        ]
    )
    timed = bool(latency and fp32)
    return {
        "made_by": "calibration" if row["precision"] == "int8" else None,
        "size_mb": None if row["bytes"] is None else row["bytes"] / _MB,
        **{key: row[key] for key in ("accuracy", "drop", "drop_low", "drop_high")},
        "max_relative_error": row["golden"] and row["golden"]["max_relative_error"],
        **{key: row[key] for key in ("agreement", "calibration_error", "status", "reason")},
        **{key: latency.get(key) for key in ("p50_ms", "p90_ms")},
        "threads": 1,
        "noisy": latency.get("noisy"),
        "speedup": fp32["p50_ms"] / latency["p50_ms"] if timed else None,
    }


def _at_one_thread(rows: list[Record]) -> Record:
    """Empty where this was not timed, or where the model answered wrongly."""
    return next((r for r in rows if r["threads"] == 1 and r["status"] == "passed"), {})


def missing(measured: Measurements) -> Iterator[tuple[str, str]]:
    """What of LiteRT was not measured, and why."""
    if not measured.litert["enabled"]:
        yield "LiteRT", "litert.enabled is false"
    for row in measured.litert["results"]:
        if row["golden"] is None:
            yield f"LiteRT {row['precision']}", row["reason"]
        for timed in row["latency"]:
            if timed["status"] != "passed":
                at = f"{row['precision']} at {threads(timed['threads'])}"
                yield f"latency of {at} in LiteRT", timed["reason"]
