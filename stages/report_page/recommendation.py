"""Which export to take: what others beat in everything, and the one that is recommended."""

from __future__ import annotations

from collections.abc import Mapping

from stages.formatting import drop, points, significant, times
from stages.report_page.measurements import Record

#: What an export is judged by, and whether more of it is better.
_AXES = {"accuracy": True, "size_mb": False, "p50_ms": False}
# Drops are differences: 0.98 - 0.96 shall be within 0.02.
_ROUNDING = 1e-9


def dominated_by(exports: Mapping[str, Record]) -> dict[str, list[str]]:
    """For each export those that leave no reason to take it, the quickest first.

    Another one does where it is no worse in accuracy, size and median latency, and better in one
    of them at least. Only exports that passed their validation and have all three figures are
    compared.
    """
    judged = {name: _goodness(export) for name, export in exports.items() if _complete(export)}
    beaten: dict[str, list[str]] = {name: [] for name in exports}
    for name, own in judged.items():
        better = [
            other
            for other, theirs in judged.items()
            if theirs != own and all(a >= b for a, b in zip(theirs, own, strict=True))
        ]
        beaten[name] = sorted(better, key=lambda other: exports[other]["p50_ms"])
    return beaten


def recommended(exports: Mapping[str, Record], max_drop: float | None) -> Record | None:
    """``{"precision", "reason"}`` of the export to take on the device that measured.

    The quickest of those that passed, are not dominated and keep the student's accuracy: their
    drop is within ``max_drop``, which is ``gate.max_export_drop``, or, where there is none, the
    interval of their drop reaches zero. If none keeps it, the most accurate is taken. None where no
    export that passed has all three figures.
    """
    beaten = dominated_by(exports)
    open_to_choice = {n: e for n, e in exports.items() if _complete(e) and not beaten[n]}
    if not open_to_choice:
        return None
    keeping = {n: e for n, e in open_to_choice.items() if _keeps_accuracy(e, max_drop)}
    limit = "show no loss on the test images"
    if max_drop is not None:
        limit = f"lose at most {points(max_drop).lstrip('+')} points (gate.max_export_drop)"
    if keeping:
        name = min(keeping, key=lambda n: (keeping[n]["p50_ms"], -keeping[n]["accuracy"]))
        why = f"the quickest of those that {limit}"
    else:
        name = max(open_to_choice, key=lambda n: open_to_choice[n]["accuracy"])
        why = f"the most accurate, as there are none that {limit}"
    return {"precision": name, "reason": f"{why}: {_figures(exports[name], exports)}"}


def _complete(export: Record) -> bool:
    return export["status"] == "passed" and all(export[axis] is not None for axis in _AXES)


def _goodness(export: Record) -> list[float]:
    return [export[axis] if more else -export[axis] for axis, more in _AXES.items()]


def _keeps_accuracy(export: Record, max_drop: float | None) -> bool:
    if max_drop is None:
        return bool(export["drop_low"] <= 0)
    return bool(export["drop"] <= max_drop + _ROUNDING)


def _figures(export: Record, exports: Mapping[str, Record]) -> str:
    shown = [f"{significant(export['p50_ms'])} ms"]
    fp32 = exports["fp32"]
    if export is not fp32 and export["speedup"] is not None:
        smaller, larger = sorted((export["size_mb"], fp32["size_mb"]))
        than = "smaller" if export["size_mb"] <= fp32["size_mb"] else "larger"
        shown.append(f"{times(export['speedup'])} the speed of fp32")
        shown.append(f"{times(larger / smaller)} {than}")
    return f"{', '.join(shown)}, a drop in points of {drop(export)}"
