"""`ackd show`."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.rich_tables import print_table
from stages.files import read_json, write_json
from stages.tables import Table
from tests.pipeline.conftest import ROOT, invoke, set_temperature
from tests.warm_python import warm_dvc


def summary() -> dict[str, Any]:
    """The demo's summary, with a failed and a noisy export, a second device, LiteRT, a warning."""
    made = read_json(ROOT / "reports/summary.json")
    exports = made["exports"]
    made["teacher"]["weights"] = {"source": "timm:[big]", "licence": "apache-2.0"}
    made["student"]["weights"] = None
    for named in (made["teacher"], made["student"], exports["fp32"]):
        named["accuracy"] = 0.9972
    made["drop_from_teacher"] = 0.0
    score = {"value": 0.9, "low": 0.8, "high": 0.95}
    of_network = dict.fromkeys(("accuracy", "top5_accuracy", "balanced_accuracy"), score)
    of_network |= {"macro_f1": score | {"value": 0.875}}
    uneven = of_network | {"balanced_accuracy": score | {"value": 0.85}}
    made["scores"] = {"teacher": of_network, "student": uneven}
    unknown = ("size_mb", "accuracy", "drop", "p50_ms", "p90_ms", "noisy", "speedup", "agreement")
    exports["fp16"] |= dict.fromkeys(unknown)
    exports["fp16"] |= {"status": "failed", "reason": "not exported [why]", "dominated_by": []}
    exports["fp32"] |= {"noisy": True, "p90_ms": 0.334, "dominated_by": ["int8_u8s8"]}
    exports["fp32"] |= {"drop": 0.0, "drop_low": -0.0076, "drop_high": 0.0076}
    made["recommended"] = {"precision": "int8_u8s8", "reason": "the quickest of [all]"}
    (first,) = made["devices"].values()
    row = first["exports"]["fp32"] | {"p50_ms": 4.2, "p90_ms": 4.9, "noisy": False}
    made["devices"]["ssh://pi@[board]"] = first | {"cpu": "Board [1.4]", "exports": {"fp32": row}}
    litert = exports["fp32"] | {"speedup": 1.25, "noisy": False}
    made["litert"] = {"versions": {"ai-edge-litert": "2.3.1"}, "exports": {"fp32": litert}}
    made["warnings"] = ["The attention has collapsed on [D3B1]."]
    made["skipped"] = [{"what": "tensorrt [fp32]", "reason": "no NVIDIA GPU", "device": "[a]"}]
    return made


def write(content: dict[str, Any], folder: Path) -> None:
    write_json(folder / "reports/summary.json", content)


def test_show_prints_every_number_and_path(project):
    write(summary(), project)
    (project / "reports/index.html").write_text("")
    code, output, _ = invoke("show")
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines()]
    found = {row[0]: row for row in reversed(rows) if row}  # the first of each name
    assert found["teacher"][1:] == ["resnet20", "99.72 %", "272,474", "40.8 M", "1.09"]
    assert found["student"][1:] == ["resnet8", "99.72 %", "78,042", "12.5 M", "0.312"]
    assert found["teacher / student"][2:] == ["0.00 points", "3.49×", "3.26×", "3.49×"]
    assert found["top‑5 accuracy"][1:] == ["90.00 % (80.0 to 95.0)"] * 2
    assert found["balanced accuracy"][2] == "85.00 % (80.0 to 95.0)"
    assert found["macro F1"][1] == "87.50 % (80.0 to 95.0)"
    assert found["fp32"][1:5] == [
        *("passed", "dominated by int8_u8s8", "99.72 %", "0.00 (−0.76 to +0.76)")
    ]
    assert found["fp32"][7] == "0.334 *"
    assert found["fp16"][1:9] == ["failed", "", *["-"] * 6]
    assert found["int8_u8s8"][1:3] == ["passed", "recommended"]
    board = found["ssh://pi@[board]"]
    assert board[1:] == ["Board [1.4]", "fp32", "passed", "1", "4.20", "4.90"]
    for sentence in (
        "resnet8, distilled from resnet20 by ACKD",
        "digits: 1,295 training, 142 validation, 360 test images, 10 classes, 32 x 32",
        "* The machine was noisy",
        "fp16: not exported [why].",
        "The teacher starts from timm:[big] (apache-2.0).",
        "The student’s exports, in onnxruntime",
        "The student in LiteRT, on the machine that ran the chain",
        "Recommended on this device: int8_u8s8, the quickest of [all].",
        "warning  The attention has collapsed on [D3B1].",
        "tensorrt [fp32] on [a]: no NVIDIA GPU",
        "report  reports/index.html",
        "bundle  none; `ackd run` creates it",
    ):
        assert sentence in output
    (project / "artifacts").mkdir()
    (project / "artifacts/bundle.tar.gz").write_bytes(b"")
    write(summary() | {"recommended": None}, project)
    output = invoke("show")[1]
    assert "bundle  artifacts/bundle.tar.gz" in output
    assert "No export is recommended: none has accuracy, size and latency" in output
    write_json(project / "reports/gate.json", {"passed": False, "goals": []})
    goals = "bundle  none of this student; see the goals in reports/gate.json"
    assert goals in invoke("show")[1], "the bundle is an older student's"


def test_wide_tables_are_split_into_parts_that_fit_the_terminal():
    console = Console(width=40, file=io.StringIO(), record=True)
    rows = [["first", "1" * 12, "[2]", "3" * 12], ["second", None]]
    print_table(console, Table(["name", "one", "two", "three"], rows, "Both"))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 40
    assert [line.strip() for line in lines].count("Both") == 1
    body = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert body == [
        *(["first", "1" * 12, "[2]"], ["second", "-", ""]),
        *(["first", "3" * 12], ["second", ""]),
    ]


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (("litert",), ..., "written by another version of ackd (KeyError('litert'))"),
        (("skipped",), ..., "written by another version of ackd (KeyError('skipped'))"),
        (("teacher", "accuracy"), "high", "written by another version of ackd (ValueError("),
        (("exports",), [], "written by another version of ackd (AttributeError("),
        ((), None, "no such file; run `dvc repro` to make it"),
    ],
)
def test_an_unreadable_summary_is_one_sentence(place, value, problem, project):
    if place:
        part = content = summary()
        for key in place[:-1]:
            part = part[key]
        if value is ...:
            del part[place[-1]]
        else:
            part[place[-1]] = value
        write(content, project)
    code, output, error = invoke("show")
    assert (code, output, error.count("\n")) == (1, "", 1)
    assert error.startswith(f"error: reports/summary.json: {problem}")
    assert "; run `dvc repro` to make it" in error


def test_show_warns_of_outdated_results(finished):
    write(summary(), finished)
    assert "these results" not in invoke("show")[1]
    set_temperature(finished, 2.5)
    output = " ".join(invoke("show")[1].split())
    assert "made with distill.temperature 4.0 (now 2.5); `ackd run` updates them" in output
    (finished / "source.txt").write_text("2\n")
    subprocess.run(warm_dvc("repro", "--quiet", "--single-item", "first"), check=True)
    output = " ".join(invoke("show")[1].split())
    assert "2.5) and older than first.txt; `ackd run` updates them" in output
    Path("dvc.lock").write_text("stages: 5\n")
    assert (
        invoke("show")[2] == "error: dvc.lock: damaged; restore it with `git checkout dvc.lock`\n"
    )


def test_characters_beyond_the_terminals_encoding_are_escaped(project):
    write(summary(), project)
    own = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "pipeline.cli", "show"]
    assert rb"0.00 (\u22120.76 to +0.76)" in subprocess.check_output(command, env=os.environ | own)
