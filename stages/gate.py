"""Stage ``gate``: check the goals of ``params.yaml: gate``; a missed goal stops the bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.entry import run_stage
from stages.files import read_json, write_json
from stages.params import Params
from stages.sections.result import Gate

SUMMARY = Path("reports/summary.json")
GATE = Path("reports/gate.json")

# Drops are differences with rounding errors: 0.98 - 0.96 must meet a goal of 0.02.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Goal:
    """A goal and its measurement.

    Attributes:
        goal: the key of ``params.yaml: gate``.
        of: the network or precision that was measured; None if there is none.
        measured: None if there is no measurement, in which case the goal is missed.
    """

    goal: str
    of: str | None
    wanted: float
    measured: float | None

    @property
    def met(self) -> bool:
        if self.measured is None:
            return False
        if self.goal.startswith("min_"):
            return self.measured >= self.wanted - _ROUNDING
        return self.measured <= self.wanted + _ROUNDING

    def __str__(self) -> str:
        bound = "at least" if self.goal.startswith("min_") else "at most"
        measured = "was not measured" if self.measured is None else f"is {self.measured:.6g}"
        of = f" of {self.of}" if self.of else ""
        return f"{self.goal}{of} {measured}, expected {bound} {self.wanted:g}"


def main(params: Params) -> None:
    """Write ``reports/gate.json``.

    Raises:
        InputError: goals are missed; names them all, after the file is written.
    """
    goals = list(judge(params.gate, read_json(SUMMARY)))
    breaches = [goal for goal in goals if not goal.met]
    write_json(
        GATE,
        {"passed": not breaches, "goals": [asdict(goal) | {"met": goal.met} for goal in goals]},
    )
    if breaches:
        raise InputError(
            f"{GATE}: {len(breaches)} of {len(goals)} goals are missed:"
            f" {'; '.join(map(str, breaches))}; improve the student, or change gate in params.yaml"
        )
    print(f"gate: {len(goals)} of {len(goals)} goals are met")


def judge(gate: Gate, summary: dict[str, Any]) -> Iterator[Goal]:
    """Yield every goal that is set. Exports that failed validation do not count."""
    student = summary["student"]
    exports = {
        precision: export
        for precision, export in summary["exports"].items()
        if export["status"] == "passed"
    }
    if gate.min_accuracy is not None:
        yield Goal("min_accuracy", student["network"], gate.min_accuracy, student["accuracy"])
    if gate.max_drop_from_teacher is not None:
        drop = summary["drop_from_teacher"]
        yield Goal("max_drop_from_teacher", student["network"], gate.max_drop_from_teacher, drop)
    if gate.max_export_drop is not None:
        for precision, export in exports.items():
            yield Goal("max_export_drop", precision, gate.max_export_drop, export["drop"])
        if not exports:
            yield Goal("max_export_drop", None, gate.max_export_drop, None)
    if gate.max_p90_ms is not None:
        p90 = {name: e["p90_ms"] for name, e in exports.items() if e["p90_ms"] is not None}
        quickest = min(p90, key=lambda name: p90[name], default=None)
        yield Goal("max_p90_ms", quickest, gate.max_p90_ms, p90[quickest] if quickest else None)
    if gate.max_size_mb is not None:
        size = {name: export["size_mb"] for name, export in exports.items()}
        largest = max(size, key=lambda name: size[name], default=None)
        yield Goal("max_size_mb", largest, gate.max_size_mb, size[largest] if largest else None)


if __name__ == "__main__":
    run_stage(main)
