"""Output and errors of ``ackd probe``."""

import base64
from pathlib import Path

import pytest

from pipeline.devices import probe
from pipeline.devices.measure import keep, results
from stages.bundle.keys import new_key
from stages.devices.browser import web_runtime
from stages.devices.browser.measurement import Browser, Failed, Measured
from stages.devices.browser.runs import Runs
from stages.files import read_json
from stages.runtimes.exported import load_exported
from stages.sections.export import Profile
from tests.pipeline.conftest import invoke

AGENT = "Mozilla/5.0 (Linux; Android 10; K) Chrome/156.0.0.0 Mobile"
BROWSER = Browser(
    user_agent=AGENT,
    platform="Android 16",
    model="Pixel 8",
    cores=8,
    isolated=False,
    secure=False,
    timer_ms=0.1,
    gpu=None,
)


def refused(*arguments: str) -> str:
    """Run the command, check that it keeps nothing, and return its error."""
    code, _, error = invoke("probe", *arguments)
    assert code == 1
    assert not Path("reports").exists()
    assert error.count("\n") == 1
    return error


@pytest.fixture
def report(project):
    """Create a report of a phone without isolation: one model was timed, one failed."""
    runs = Runs(load_exported(project / "artifacts/bundle"), Profile())
    begun = runs.begin(BROWSER)
    times = {"init_ms": 100.0, "first_ms": 9.0, "samples_ms": [1.0, 2.0, 6.0]}
    logits = base64.b64encode(runs.reference.tobytes()).decode()
    timed = Measured(
        version="1.30.0", provider="wasm", threads=1, logits=logits, hidden=False, **times
    )
    runs.take(begun["run"], 0, timed)
    for task in begun["tasks"][1:]:
        if task["status"] == "planned":
            runs.take(begun["run"], task["number"], Failed(error="out of\nmemory\x1b[2J"))
    return runs.reports.get(timeout=1)


def test_a_report_is_kept_like_those_of_other_devices(project, report):
    path = keep(probe.measurement(report, None))
    assert path == Path("reports/devices/browser-pixel-8-chrome-156.json")
    kept = read_json(path)
    assert kept["device"] == "browser:pixel-8-chrome-156"
    assert kept["description"]["system"] == "Android 16"
    assert kept["description"]["machine"] == "Pixel 8"
    assert kept["description"]["runtime"] == f"onnxruntime-web {web_runtime.VERSION}"
    assert kept["description"]["browser"]["isolated"] is False
    rows = {(r["precision"], r["provider"], r["threads"]): r for r in kept["results"]}
    assert {row["device"] for row in kept["results"]} == {kept["device"]}
    assert rows["fp32", "wasm", 1]["p50_ms"] == 2.0
    assert rows["fp32", "wasm", 1]["golden"]["max_relative_error"] == 0.0
    assert rows["fp32", "wasm", 2]["status"] == "skipped"
    assert rows["int8_u8s8", "wasm", 1]["reason"] == r"out of memory\x1b[2J"
    assert not any("samples_ms" in row for row in kept["results"])
    table = results(probe.measurement(report, None))
    assert ["fp32", "wasm", "1", "passed", "2.00", "5.20 *", "3", "0.00", "100.00 %"] in table.rows
    (failed,) = [note for note in table.notes if "out of memory" in note]
    assert "int8_u8s8 (threads: 1), " in failed
    assert failed.endswith(r": out of memory\x1b[2J.")
    assert "Not isolated: one thread, a clock with steps of 0.1 ms." in table.notes
    named = probe.measurement(report, "my-phone")
    assert keep(named) == Path("reports/devices/browser-my-phone.json")


@pytest.mark.usefixtures("stand_in_runtime")
def test_a_users_mistakes_are_one_sentence(project):
    assert "nowhere.tar.gz: no such file; `ackd run`" in refused("--bundle", "nowhere.tar.gz")
    assert "--name is '../x', expected letters" in refused("--name", "../x")
    public, key_id = new_key(Path("signing.key"))
    assert f"not signed, but the key {key_id} is required" in refused("--key", str(public))
    (project / "artifacts/bundle/labels.json").write_text('["one"]')
    assert "labels.json: altered since it was packaged" in refused()
    Path("dvc.yaml").unlink()
    assert "run ackd in the project's root" in refused()


def test_missing_files_are_reported_with_a_remedy(project, monkeypatch):
    monkeypatch.setenv("ACKD_ONNXRUNTIME_WEB", str(project / "none"))
    assert "run `ackd probe --install` once to fetch it with npm (33 MB)" in refused()
    monkeypatch.setenv("PATH", str(project))
    assert "error: npm is needed to fetch onnxruntime-web" in refused("--install")
    assert "other.tgz: No such file" in refused("--install-from", "other.tgz")
