"""Stage ``gate``: check the goals of ``params.yaml: gate``; a missed goal prevents the bundle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.entry import run_stage
from stages.files import read_json, write_json
from stages.params import Params
from stages.sections.result import Gate

SUMMARY = Path("reports/summary.json")
GATE = Path("reports/gate.json")

# Tolerance for rounding in differences: 0.98 - 0.96 must meet a goal of 0.02.
_ROUNDING = 1e-9


def main(params: Params) -> None:
    """Write ``reports/gate.json``; then raise InputError with all goals that are missed."""
    goals = list(judge(params.gate, read_json(SUMMARY)))
    missed = [_sentence(**goal) for goal in goals if not goal["met"]]
    write_json(GATE, {"passed": not missed, "goals": goals})
    if missed:
        raise InputError(
            f"{GATE}: {len(missed)} of {len(goals)} goals are missed: {'; '.join(missed)};"
            " improve the student, or change gate in params.yaml"
        )
    print(f"gate: {len(goals)} of {len(goals)} goals are met")


def judge(gate: Gate, summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Judge each goal that is set. Exports that failed validation do not count.

    Yields:
        The key of ``params.yaml: gate`` as ``goal``, the network or precision it is ``of``,
        ``wanted``, ``measured`` and ``met``; a goal without measurement is missed.
    """
    student, drop = summary["student"], summary["drop_from_teacher"]
    passed = {n: export for n, export in summary["exports"].items() if export["status"] == "passed"}
    timed = {name: e["p90_ms"] for name, e in passed.items() if e["p90_ms"] is not None}
    sizes = {name: export["size_mb"] for name, export in passed.items()}
    measured: dict[str, dict[str | None, float | None]] = {
        "min_accuracy": {student["network"]: student["accuracy"]},
        "max_drop_from_teacher": {student["network"]: drop},
        "max_export_drop": {name: export["drop"] for name, export in passed.items()},
        "max_p90_ms": {name: timed[name] for name in sorted(timed, key=timed.__getitem__)[:1]},
        "max_size_mb": {max(sizes, key=sizes.__getitem__): max(sizes.values())} if sizes else {},
    }
    for goal, found in measured.items():
        wanted = getattr(gate, goal)
        if wanted is None:
            continue
        for of, value in (found or {None: None}).items():
            sign = -1 if goal.startswith("min_") else 1
            met = value is not None and sign * (value - wanted) <= _ROUNDING
            yield {"goal": goal, "of": of, "wanted": wanted, "measured": value, "met": met}


def _sentence(goal: str, of: str | None, wanted: float, measured: float | None, met: bool) -> str:
    bound = "at least" if goal.startswith("min_") else "at most"
    found = "was not measured" if measured is None else f"is {measured:.6g}"
    return f"{goal}{f' of {of}' if of else ''} {found}, expected {bound} {wanted:g}"


if __name__ == "__main__":
    run_stage(main)
