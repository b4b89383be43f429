import itertools
from typing import Any

import numpy as np
import pytest

from stages.report_page.recommendation import dominated_by, recommended


def export(accuracy: float, size: float, ms: float, **more: Any) -> dict[str, Any]:
    drop = 0.9 - accuracy
    figures = {"accuracy": accuracy, "size_mb": size, "p50_ms": ms, "speedup": 1.0 / ms}
    interval = {"drop": drop, "drop_low": drop - 0.01, "drop_high": drop + 0.01}
    return {"status": "passed", **figures, **interval, **more}


FP32 = export(0.9, 0.3, 1.0)


@pytest.mark.parametrize("lacks", [{"status": "failed"}, {"p50_ms": None}])
def test_only_what_passed_and_has_all_figures_is_compared(lacks):
    worse = export(0.8, 0.4, 2.0)
    assert dominated_by({"fp32": FP32, "other": worse})["other"] == ["fp32"]
    assert dominated_by({"fp32": FP32, "other": worse | lacks})["other"] == []
    assert recommended({"fp32": FP32 | lacks}, 0.02) is None


def test_against_the_definition_on_many_sets_of_figures():
    random = np.random.default_rng(0)
    for _ in range(200):
        figures = random.integers(0, 3, (6, 3))
        rows = [export(0.1 * a, 1.0 + size, 1.0 + ms) for a, size, ms in figures]
        exports = {str(n): row for n, row in enumerate(rows)}
        expected: dict[str, set[str]] = {name: set() for name in exports}
        for (n, a), (m, b) in itertools.permutations(enumerate(figures), 2):
            costs_a, costs_b = (np.array([-x[0], x[1], x[2]]) for x in (a, b))
            if (costs_b <= costs_a).all() and (costs_b < costs_a).any():
                expected[str(n)].add(str(m))
        found = dominated_by(exports)
        assert {name: set(others) for name, others in found.items()} == expected
        # The quickest that leaves no reason is named first.
        for others in found.values():
            times = [exports[name]["p50_ms"] for name in others]
            assert times == sorted(times)
        choice = recommended(exports | {"fp32": FP32 | {"status": "failed"}}, 1.0)
        assert not expected[choice["precision"]]


def chosen(max_drop: float | None, **others: dict[str, Any]) -> tuple[str, str]:
    choice = recommended({"fp32": FP32} | others, max_drop)
    return choice["precision"], choice["reason"]


def test_the_quickest_within_the_goal_is_recommended():
    quick, quicker = export(0.89, 0.1, 0.5), export(0.85, 0.1, 0.25)
    name, reason = chosen(0.02, quick=quick, quicker=quicker)
    assert name == "quick"
    assert reason == (
        "the fastest of those that stay within a drop of 2.00 points (gate.max_export_drop):"
        " 0.500 ms, 2.00× the speed of fp32, 3.00× smaller, a drop of +1.00 (0.00 to +2.00) points"
    )
    assert chosen(0.05, quick=quick, quicker=quicker)[0] == "quicker"
    assert chosen(0.0, quick=quick, quicker=quicker)[0] == "fp32"
    assert chosen(0.02, slow=export(0.9, 0.29, 1.3))[0] == "fp32"


def test_what_is_recommended_where_the_goal_cannot_be_met_or_is_none():
    quick, quicker = export(0.891, 0.1, 0.5), export(0.88, 0.1, 0.25)
    name, reason = chosen(None, quick=quick, quicker=quicker)
    assert name == "quick"
    assert reason.startswith("the fastest of those that match torch within the margin of error")
    failed = FP32 | {"status": "failed"}
    worse, better = export(0.85, 0.1, 0.5), export(0.86, 0.1, 0.6)
    name, reason = chosen(0.02, fp32=failed, worse=worse, better=better)
    assert name == "better"
    assert reason.startswith("the most accurate, because none stay within a drop of 2.00")
    # Without a latency of fp32, speeds cannot be compared.
    untimed = FP32 | {"p50_ms": None, "speedup": None}
    _, reason = chosen(0.02, fp32=untimed, int8=export(0.9, 0.1, 0.5, speedup=None))
    assert reason.endswith(": 0.500 ms, a drop of 0.00 (−1.00 to +1.00) points")
