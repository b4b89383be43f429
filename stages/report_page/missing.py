"""List what was not measured, and why."""

from collections.abc import Iterator

from stages.formatting import threads
from stages.report_page.devices import current_rows
from stages.report_page.measurements import Measurements, Record
from stages.tables import BY_HAND

_P99_SAMPLES = 500
_UNREADABLE = "the device does not report it"

#: What is missing, the device if it concerns one, and the reason.
Missing = tuple[str, str | None, str]


def skipped(measured: Measurements, paper: Record | None) -> list[Record]:
    """Return ``skipped`` of ``reports/summary.json``; failures that have figures are not listed."""
    parts = (_latencies, _profiled, _validations, _litert)
    missing = [*(one for part in parts for one in part(measured)), *_others(measured, paper)]
    return [
        {"what": what, **({"device": device} if device else {}), "reason": reason}
        for what, device, reason in dict.fromkeys(missing)
    ]


def _latencies(measured: Measurements) -> Iterator[Missing]:
    first, *others = (device["device"] for device in measured.latency["devices"])
    results = measured.latency["results"]
    for result in results:
        what = f"{result['precision']} at {threads(result['threads'])}"
        device = result["device"] if others else None
        if result["p50_ms"] is None:
            yield f"latency of {what}", device, result["reason"]
        elif result["p99_ms"] is None:
            yield f"p99 of {what}", device, f"{result['n']} samples, fewer than {_P99_SAMPLES}"
    if 1 not in (r["threads"] for r in results if r["device"] == first):
        reason = f"{first} was measured with other numbers (profile.threads, or the device's URL)"
        yield "latency at one thread", None, reason


def _profiled(measured: Measurements) -> Iterator[Missing]:
    of_chain = {device["device"] for device in measured.latency["devices"]}
    for file in measured.devices:
        url = file["device"]
        if url in of_chain:
            yield BY_HAND, url, "replaced by the chain's own measurement of this device"
            continue
        current = current_rows(file, measured.model["files"])
        if len(current) < len(file["results"]):
            yield BY_HAND, url, "some or all of it is from other models; measure again"
        for row in current:
            if row["p50_ms"] is None:
                at = f"{row['precision']} at {threads(row['threads'])}"
                yield f"latency of {at}", url, row["reason"]


def _validations(measured: Measurements) -> Iterator[Missing]:
    for result in measured.validation["results"]:
        if result["golden"] is None:
            yield f"{result['runtime']} {result['precision']}", None, result["reason"]


def _litert(measured: Measurements) -> Iterator[Missing]:
    if not measured.litert["enabled"]:
        yield "LiteRT", None, "litert.enabled is false"
    for row in measured.litert["results"]:
        if row["golden"] is None:
            yield f"LiteRT {row['precision']}", None, row["reason"]
        for timed in row["latency"]:
            if timed["p50_ms"] is None:
                at = f"{row['precision']} at {threads(timed['threads'])}"
                yield f"latency of {at} in LiteRT", None, timed["reason"]


def _others(measured: Measurements, paper: Record | None) -> Iterator[Missing]:
    if measured.analysis["learners"] is None:
        yield "auxiliary learners", None, f"the method {measured.student['method']} has none"
    if measured.latency["devices"][0]["governor"] is None:
        yield "CPU governor", None, _UNREADABLE
    if all(result["temperature_before"] is None for result in measured.latency["results"]):
        yield "temperature", None, _UNREADABLE
    if paper is not None and not paper["accuracies"]:
        pair = f"{measured.teacher['network']} and {measured.student['network']}"
        yield "the paper's figures", None, f"the paper has none for {pair} on {paper['data']}"
