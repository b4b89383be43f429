"""Several devices in the report, measured by the chain and by `ackd profile`."""

import json
import re
from pathlib import Path
from typing import Any

from stages.files import write_json
from tests.stages.chain_files import PRECISIONS
from tests.stages.html_page import PAGE, change, change_rows, made, reasons

BOARD = "ssh://pi@<board>/srv"
LATENCY, FILE = "reports/latency.json", "reports/devices/board.json"
_UNKNOWN = dict.fromkeys(("p50_ms", "p90_ms", "noisy", "n"))


def write_device(url: str = BOARD, **changes: dict[str, Any]) -> None:
    """Write results of `ackd profile`: a tenth of the speed, 4 and 1 threads, and these changes."""
    model = json.loads(Path("artifacts/onnx/model.json").read_text())
    latency = json.loads(Path(LATENCY).read_text())
    here = {row["precision"]: row for row in latency["results"] if row["threads"] == 1}
    rows = [
        here[precision]
        | {"device": url, "threads": threads, "noisy": precision == "fp16"}
        | {key: here[precision][key] * 10 / threads for key in ("p50_ms", "p90_ms")}
        | {"model_sha256": model["files"][precision]["static"]["sha256"]}
        | changes.get(precision, {})
        for threads in (4, 1)
        for precision in PRECISIONS
    ]
    description = latency["devices"][0] | {"cpu": "Board <1.4>", "runtime": "onnxruntime 1.19.2"}
    del description["device"]
    Path("reports/devices").mkdir(exist_ok=True)
    write_json(Path(FILE), {"device": url, "description": description, "results": rows})


def test_another_device_has_its_chart_and_its_rows(chain):
    write_device()
    summary, page = made()
    assert list(summary["devices"]) == ["local:", BOARD]
    board = summary["devices"][BOARD]
    assert [device["by_hand"] for device in summary["devices"].values()] == [False, True]
    assert (board["cpu"], board["runtime"]) == ("Board <1.4>", "onnxruntime 1.19.2")
    for name, export in summary["exports"].items():
        row = board["exports"][name]
        assert (row["threads"], row["status"], row["noisy"]) == (1, "passed", name == "fp16")
        assert abs(row["p50_ms"] - 10 * export["p50_ms"]) < 1e-9
    (table,) = page.tables["trade-off"]
    assert [row[0] for row in table[1:]] == ["local:"] * 8 + [BOARD] * 8
    fp16 = next(row for row in table if row[:2] == [BOARD, "fp16, 1"])
    assert fp16[2:4] == ["passed", f"{100 * summary['exports']['fp16']['accuracy']:.2f} %"]
    assert fp16[5].endswith(" *")
    html = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"<h3>(Test accuracy and latency[^<]*)</h3>", html) == [
        "Test accuracy and latency",
        "Test accuracy and latency on ssh://pi@&lt;board&gt;/srv",
    ]
    assert "<board>" not in html
    assert "Board &lt;1.4&gt;, onnxruntime 1.19.2." in html
    assert len(set(page.ids)) == len(page.ids)


def test_failures_have_reasons_and_a_passed_row_represents_a_precision(chain):
    failed = _UNKNOWN | {"status": "failed", "reason": "no such <instruction>"}
    write_device(fp32=failed)
    skipped = _UNKNOWN | {"status": "skipped", "reason": "no half precision"}
    change(FILE, lambda file: file["description"].update(cpu=None, machine="Phone 8"))
    change_rows(FILE, {}, provider="wasm")
    change_rows(FILE, {"precision": "fp16", "threads": 1}, provider="webgpu", **skipped)
    summary, page = made()
    fp16 = summary["devices"][BOARD]["exports"]["fp16"]
    assert (fp16["status"], fp16["threads"]) == ("passed", 4)
    rows = [row[1:3] for row in page.tables["trade-off"][0] if row[0] == BOARD]
    assert ["fp16, 1, webgpu", "skipped"] in rows
    assert ["int8_u8s8, 1, wasm", "passed"] in rows
    assert summary["devices"][BOARD]["exports"]["fp32"]["status"] == "failed"
    assert reasons(summary)[f"latency of fp32 at 1 thread on {BOARD}"] == "no such <instruction>"
    assert "Phone 8, onnxruntime 1.19.2." in page.text["trade-off"]
    assert reasons(summary)[f"latency of fp16 at 1 thread on {BOARD}"] == "no half precision"


def test_what_is_of_other_models_is_left_out_and_named(chain):
    write_device(fp32={"model_sha256": "0" * 64})
    summary, _ = made()
    assert list(summary["devices"][BOARD]["exports"]) == PRECISIONS[1:]
    reason = reasons(summary)[f"latency by `ackd profile` on {BOARD}"]
    assert reason.startswith("some or all of it is from other models")
    write_device(**{name: {"model_sha256": "0" * 64} for name in PRECISIONS})
    assert list(made()[0]["devices"]) == ["local:"]
    # Devices of the chain are not shown twice.
    write_device("local:")
    summary, page = made()
    assert list(summary["devices"]) == ["local:"]
    reason = reasons(summary)["latency by `ackd profile` on local:"]
    assert "replaced by the chain" in reason
    assert "trade-off" not in page.tables


def test_times_by_another_runtime_count_if_its_device_is_the_first(chain):
    exports = made()[0]["exports"]
    change_rows(LATENCY, {}, runtime="bench")
    summary, _ = made()
    assert summary["exports"] == exports
    assert summary["recommended"] is not None


def test_several_devices_of_the_chain(chain):
    def second(content: dict[str, Any]) -> None:
        content["devices"].append(content["devices"][0] | {"device": "ssh://board", "cpu": None})
        rows = [row | {"device": "ssh://board"} for row in content["results"]]
        rows[0] |= {"p99_ms": None, "n": 400}
        content["results"] += rows

    change(LATENCY, second)
    summary, page = made()
    assert list(summary["devices"]) == ["local:", "ssh://board"]
    assert "p99 of fp32 at 1 thread on ssh://board" in reasons(summary)
    assert len(page.tables["latency"][0]) == 1 + 16
    assert page.tables["latency"][0][1][0] == "fp32, 1, local:"
    assert "x86_64, onnxruntime 1.31.1." in page.text["trade-off"]
    # The summary describes the first one.
    change(LATENCY, lambda content: content["devices"].reverse())
    _, page = made()
    assert "at one thread on Example CPU" not in page.text["results"]
