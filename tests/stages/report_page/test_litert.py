"""LiteRT in summary and page, beside onnxruntime's exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.html_page import Page, change, made

pytestmark = pytest.mark.usefixtures("chain")
TIMES = {"init_ms": 3.0, "first_ms": 0.4, "n": 3000, "min_ms": 0.1, "mean_ms": 0.16, "cv": 0.05}


def row(precision: str, **changed: Any) -> dict[str, Any]:
    timed = {"p50_ms": 0.155, "p90_ms": 0.17, "p99_ms": 0.2, "noisy": False, **TIMES}
    timed |= {"status": "passed", "reason": None}
    return {
        "precision": precision,
        "bytes": 105_000,
        "status": "passed",
        "reason": None,
        "golden": {"max_relative_error": 3e-7, "cosine": 1.0, "top1_agreement": 1.0},
        **{"accuracy": 0.975, "drop": 0.0, "drop_low": -0.01, "drop_high": 0.01},
        **{"agreement": 1.0, "calibration_error": 0.012},
        "latency": [{"threads": 1, **timed}, {"threads": 2, **timed, "p50_ms": 0.1}],
        **changed,
    }


def measured(*rows: dict[str, Any]) -> tuple[dict[str, Any], Page]:
    content = {"enabled": True, "versions": {"ai-edge-litert": "2.3.0"}, "results": rows}
    Path("reports/litert.json").write_text(json.dumps(content))
    return made()


def test_switched_off_it_is_not_measured_and_says_why() -> None:
    summary, page = made()
    assert summary["litert"] is None
    assert {"what": "LiteRT", "reason": "litert.enabled is false"} in summary["skipped"]
    assert "The student in LiteRT" not in page.text["results"]


def test_it_is_compared_with_fp32_in_onnxruntime() -> None:
    summary, page = measured(row("fp32"), row("int8", latency=[]))
    (fp32,) = (
        r["p50_ms"]
        for r in json.loads(Path("reports/latency.json").read_text())["results"]
        if (r["precision"], r["threads"]) == ("fp32", 1)
    )
    exports = summary["litert"]["exports"]
    assert exports["fp32"]["speedup"] == pytest.approx(fp32 / 0.155)
    assert (exports["fp32"]["size_mb"], exports["fp32"]["p90_ms"]) == (0.105, 0.17)
    assert (exports["int8"]["speedup"], exports["int8"]["p50_ms"]) == (None, None)
    assert not [item for item in summary["skipped"] if "LiteRT" in item["what"]]
    assert "The student in LiteRT" in page.text["results"]
    (cells,) = (
        r for t in page.tables["results"] for r in t if r[:3] == ["fp32", "passed", "97.50 %"]
    )
    assert cells[4:7] == ["0.105", "0.155", "0.170"]
    assert ["fp32, 2", "3,000", "0.100", "0.100"] in [
        r[:4] for t in page.tables["latency"] for r in t
    ]


def test_fp32_that_was_timed_elsewhere_is_not_compared_with() -> None:
    def elsewhere(latency: dict[str, Any]) -> None:
        for entry in [*latency["devices"], *latency["results"]]:
            entry["device"] = "ssh://pi@board"

    change("reports/latency.json", elsewhere)
    summary, _ = measured(row("fp32"))
    assert summary["litert"]["exports"]["fp32"]["p50_ms"] == 0.155
    assert summary["litert"]["exports"]["fp32"]["speedup"] is None


def test_what_failed_is_named_with_its_reason() -> None:
    figures = ("bytes", "golden", "accuracy", "drop", "drop_low", "drop_high", "agreement")
    empty = dict.fromkeys((*figures, "calibration_error"))
    failed = row("int8", **empty, status="failed", reason="not converted: <why>", latency=[])
    summary, page = measured(row("fp32"), failed)
    assert {"what": "LiteRT int8", "reason": "not converted: <why>"} in summary["skipped"]
    assert summary["litert"]["exports"]["int8"]["size_mb"] is None
    assert "int8 in LiteRT: not converted: <why>." in page.text["results"]
