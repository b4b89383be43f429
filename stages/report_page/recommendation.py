"""Recommend an export, and find those that others dominate."""

from collections.abc import Mapping

from stages.formatting import drop, points, significant, times
from stages.report_page.measurements import Record

#: The criteria for exports, and whether more is better.
_AXES = {"accuracy": True, "size_mb": False, "p50_ms": False}
# Tolerance for rounding in differences, such as 0.98 - 0.96.
_ROUNDING = 1e-9


def dominated_by(exports: Mapping[str, Record]) -> dict[str, list[str]]:
    """Return for each export those that dominate it, the fastest first.

    An export dominates another if it is no worse in accuracy, size and median latency, and better
    in at least one of them. Only exports that passed validation and have all three figures are
    compared.
    """
    judged = {name: _goodness(export) for name, export in exports.items() if _complete(export)}
    beaten: dict[str, list[str]] = {name: [] for name in exports}
    for other in sorted(judged, key=lambda name: exports[name]["p50_ms"]):
        for name, own in judged.items():
            theirs = judged[other]
            if theirs != own and all(a >= b for a, b in zip(theirs, own, strict=True)):
                beaten[name].append(other)
    return beaten


def recommended(exports: Mapping[str, Record], max_drop: float | None) -> Record | None:
    """Return ``{"precision", "reason"}`` of the export to use on the measured device.

    It is the fastest that passed, is not dominated and keeps the student's accuracy: its drop is
    within ``max_drop``, which is ``gate.max_export_drop``, or if that is null, the interval of its
    drop includes zero. If none keeps it, the most accurate is chosen. None if no export that passed
    has all three figures.
    """
    beaten = dominated_by(exports)
    open_to_choice = {n: e for n, e in exports.items() if _complete(e) and not beaten[n]}
    if not open_to_choice:
        return None
    if max_drop is None:
        keeping = {n: e for n, e in open_to_choice.items() if e["drop_low"] <= 0}
        limit = "match torch within the margin of error"
    else:
        keeping = {n: e for n, e in open_to_choice.items() if e["drop"] <= max_drop + _ROUNDING}
        allowed = points(max_drop).lstrip("+")
        limit = f"stay within a drop of {allowed} points (gate.max_export_drop)"
    if keeping:
        name = min(keeping, key=lambda n: (keeping[n]["p50_ms"], -keeping[n]["accuracy"]))
        why = f"the fastest of those that {limit}"
    else:
        name = max(open_to_choice, key=lambda n: open_to_choice[n]["accuracy"])
        why = f"the most accurate, because none {limit}"
    return {"precision": name, "reason": f"{why}: {_figures(exports[name], exports)}"}


def _complete(export: Record) -> bool:
    return export["status"] == "passed" and all(export[axis] is not None for axis in _AXES)


def _goodness(export: Record) -> list[float]:
    return [export[axis] if more else -export[axis] for axis, more in _AXES.items()]


def _figures(export: Record, exports: Mapping[str, Record]) -> str:
    shown = [f"{significant(export['p50_ms'])} ms"]
    fp32 = exports["fp32"]
    if export is not fp32 and export["speedup"] is not None:
        smaller, larger = sorted((export["size_mb"], fp32["size_mb"]))
        than = "smaller" if export["size_mb"] <= fp32["size_mb"] else "larger"
        shown.append(f"{times(export['speedup'])} the speed of fp32")
        shown.append(f"{times(larger / smaller)} {than}")
    return f"{', '.join(shown)}, a drop of {drop(export)} points"
