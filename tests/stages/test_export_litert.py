import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from models.errors import InputError
from stages import export_litert
from stages.files import read_json, sha256
from stages.litert import export
from stages.params import Params
from stages.runtimes import litert_runtime
from stages.runtimes.litert_runtime import LiteRtRuntime, Session
from stages.runtimes.onnx_runtime import OnnxRuntime
from tests.stages.conftest import imported_by

ABSENT = LiteRtRuntime().unavailable()
# The contract of docs/files.md.
FIELDS = {
    *("precision", "file", "sha256", "bytes", "status", "reason", "provider", "dtypes", "golden"),
    *("accuracy", "top5_accuracy", "balanced_accuracy"),
    *("drop", "drop_low", "drop_high", "agreement", "calibration_error", "images"),
    "latency",
}
LATENCY_FIELDS = {
    *("threads", "init_ms", "first_ms", "n", "min_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms"),
    *("cv", "load_before", "load_after", "temperature_before", "temperature_after", "noisy"),
    *("golden", "status", "reason"),
}


@pytest.fixture
def asked(tiny_params):
    given = tiny_params.model_dump(by_alias=True) | {"litert": {"enabled": True}}
    return Params.model_validate(given)


def test_switched_off_it_needs_neither_data_nor_any_package(tmp_path):
    (tmp_path / "params.yaml").write_text("litert: {enabled: false}\n")
    assert imported_by("export_litert", tmp_path, "torch", "onnx", "ai_edge_litert") == "[]\n"
    assert list((tmp_path / "artifacts/litert").iterdir()) == []
    report = read_json(tmp_path / "reports/litert.json")
    assert report == {"enabled": False, "versions": None, "results": []}


@pytest.mark.usefixtures("project")
def test_missing_packages_are_named_before_any_work(asked, monkeypatch):
    monkeypatch.setattr(litert_runtime, "_PACKAGES", ["numpy", "no-such-package"])
    expected = (
        r"params\.yaml: litert\.enabled is true, but no-such-package is not installed"
        r" \(see docs/how-to-litert\.md\); install what is missing, or set litert.enabled to false"
    )
    with pytest.raises(InputError, match=expected):
        export_litert.main(asked)
    assert not export_litert.REPORT.exists()


def test_what_fails_is_a_row_and_the_chain_goes_on(project, asked, monkeypatch, capsys):
    crash = project / "crash"
    crash.write_text("#!/bin/sh\necho 'about to fail' >&2\nkill -ABRT $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(litert_runtime, "_PACKAGES", [])
    monkeypatch.setattr(sys, "executable", str(crash))
    export_litert.main(asked)
    fp32, int8 = read_json(export_litert.REPORT)["results"]
    assert set(fp32) == set(int8) == FIELDS
    reason = "not converted: the converter crashed with SIGABRT: about to fail"
    assert (fp32["status"], fp32["reason"]) == ("failed", reason)
    assert (int8["status"], int8["reason"]) == ("failed", "no fp32 file to quantise")
    assert (fp32["bytes"], fp32["accuracy"], fp32["latency"]) == (None, None, [])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"export_litert: fp32 failed: {reason}",
        "export_litert: int8 failed: no fp32 file to quantise",
    ]


class Crashing(LiteRtRuntime):
    """Runs fp32 in onnxruntime, and crashes on int8."""

    def run(self, model, jobs):
        if model.stem == "int8":
            os.kill(os.getpid(), signal.SIGSEGV)
        return OnnxRuntime().run(Path("artifacts/onnx/fp32.static.onnx"), jobs)


@pytest.mark.usefixtures("project")
def test_a_model_that_crashes_the_interpreter_fails_alone(asked, monkeypatch):
    monkeypatch.setattr(litert_runtime, "_PACKAGES", [])
    monkeypatch.setattr(export, "LiteRtRuntime", Crashing)
    monkeypatch.setattr(export, "_convert", lambda path, *_: path.touch())
    monkeypatch.setattr(export, "_latency", lambda *_: {"threads": 1, "status": "passed"})
    export_litert.main(asked)
    fp32, int8 = read_json(export_litert.REPORT)["results"]
    assert (fp32["status"], fp32["images"]) == ("passed", 30)
    assert (int8["status"], int8["golden"]) == ("failed", None)
    assert int8["reason"] == "its process crashed, or was killed for memory"


@pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
def test_a_student_answers_in_litert_as_in_torch(project, asked):
    export_litert.main(asked)
    report = read_json(export_litert.REPORT)
    assert report["versions"] == litert_runtime.versions()
    assert report["versions"]["ai-edge-litert"] == LiteRtRuntime().version()
    samples = read_json(export_litert.LITERT_FOLDER / "samples.json")
    onnx = project / "artifacts/onnx"
    with np.load(onnx / "golden.npz") as golden:
        images, logits = golden["images"], golden["logits"]
    for row, dtype in zip(report["results"], ("float32", "int8"), strict=True):
        assert set(row) == FIELDS
        assert (row["status"], row["reason"]) == ("passed", None)
        assert (row["provider"], row["dtypes"], row["images"]) == ("XNNPACK", [dtype], 30)
        path = export_litert.LITERT_FOLDER / row["file"]
        assert (row["sha256"], row["bytes"]) == (sha256(path), path.stat().st_size)
        # No file contains the path where it was made.
        assert str(project).encode() not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()
        found = Session(path, 1).logits(images)
        assert found.dtype == np.float32
        error = np.abs(found - logits).max() / np.abs(logits).max()
        assert row["golden"]["max_relative_error"] == pytest.approx(error, rel=1e-3)
        (timed,) = row["latency"]
        assert set(timed) == LATENCY_FIELDS
        assert len(samples[f"local:|litert|{row['precision']}|1"]) == timed["n"] >= 20
        assert 0 < timed["min_ms"] <= timed["p50_ms"] <= timed["p90_ms"]
    fp32, int8 = report["results"]
    assert fp32["golden"]["max_relative_error"] < 1e-5
    assert 1e-4 < int8["golden"]["max_relative_error"] < 0.1
    assert int8["bytes"] < fp32["bytes"] / 2


@pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
def test_a_damaged_file_is_a_reason(tmp_path):
    path = tmp_path / "fp32.tflite"
    path.write_bytes(b"no model" * 100)
    with pytest.raises(litert_runtime.RuntimeFailureError):
        Session(path, 1)
