"""LiteRT in summary and page, with onnxruntime's exports."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.html_page import Page, change, change_rows, made, reasons

pytestmark = pytest.mark.usefixtures("chain")
LATENCY = "reports/latency.json"
TIMES = {"init_ms": 3.0, "first_ms": 0.4, "n": 3000, "min_ms": 0.1, "mean_ms": 0.16, "cv": 0.05}
TIMES |= {"p50_ms": 0.155, "p90_ms": 0.17, "p99_ms": 0.2}
ANSWERS = {"accuracy": 0.975, "drop": 0.0, "drop_low": -0.01, "drop_high": 0.01, "agreement": 1.0}
ANSWERS["calibration_error"] = 0.012


def row(precision: str, **changed: Any) -> dict[str, Any]:
    passed = {"status": "passed", "reason": None}
    timed = {**TIMES, **passed, "noisy": False}
    return {
        **{"precision": precision, "bytes": 105_000, **passed, **ANSWERS},
        "golden": {"max_relative_error": 3e-7, "cosine": 1.0, "top1_agreement": 1.0},
        "latency": [{"threads": 1, **timed}, {"threads": 2, **timed, "p50_ms": 0.1}],
        **changed,
    }


def measured(*rows: dict[str, Any]) -> tuple[dict[str, Any], Page]:
    content = {"enabled": True, "versions": {"ai-edge-litert": "2.3.0"}, "results": rows}
    Path("reports/litert.json").write_text(json.dumps(content))
    return made()


def test_it_is_compared_with_fp32_in_onnxruntime():
    summary, page = measured(row("fp32"), row("int8", latency=[]))
    exports, onnx = summary["litert"]["exports"], summary["exports"]
    assert exports["fp32"]["speedup"] == pytest.approx(onnx["fp32"]["p50_ms"] / 0.155)
    assert (exports["fp32"]["size_mb"], exports["fp32"]["p90_ms"]) == (0.105, 0.17)
    assert (exports["int8"]["speedup"], exports["int8"]["p50_ms"]) == (None, None)
    assert not [what for what in reasons(summary) if "LiteRT" in what]
    assert "The student in LiteRT" in page.text["results"]
    cells = [r for t in page.tables["results"] for r in t if r[:2] == ["fp32", "passed"]]
    assert ["97.50 %", "0.105", "0.155", "0.170"] in [[r[2], *r[4:7]] for r in cells]
    timed = [r[:4] for t in page.tables["latency"] for r in t]
    assert ["fp32, 2", "passed", "3,000", "0.100"] in timed


def test_failures_have_reasons_and_times_of_other_machines_do_not_count():
    change(LATENCY, lambda latency: latency["devices"][0].update(device="ssh://pi@board"))
    change_rows(LATENCY, {}, device="ssh://pi@board")
    failed = dict.fromkeys((*ANSWERS, "bytes", "golden")) | {"status": "failed", "latency": []}
    summary, page = measured(row("fp32"), row("int8", **failed, reason="not converted: <why>"))
    fp32, int8 = summary["litert"]["exports"].values()
    assert (fp32["p50_ms"], fp32["speedup"], int8["size_mb"]) == (0.155, None, None)
    assert reasons(summary)["LiteRT int8"] == "not converted: <why>"
    assert "int8 in LiteRT: not converted: <why>." in page.text["results"]
    summary, page = measured(*(row(n, **failed, reason="no kernel") for n in ("fp32", "int8")))
    assert summary["litert"]["exports"]["fp32"]["status"] == "failed"
    assert "fp32 in LiteRT: no kernel." in page.text["results"]
