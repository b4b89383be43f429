"""The artifacts of a run in Prefect's pages."""

import base64
from typing import Any
from xml.etree import ElementTree

import pytest
from prefect import flow

from pipeline.service import artifacts
from pipeline.service.artifacts import Progress, accuracy_against_latency, percent_done, show_report
from stages.files import read_json
from tests.pipeline.conftest import ROOT, artifacts_of

SUMMARY = ROOT / "reports/summary.json"


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("kd: epoch 3/12  total 1.204 kd 1.1  val 91.20%  310 img/s  12 s left", 25.0),
        ("teacher: epoch 1/4, step 5 of 10  total 2.1  310 img/s  12 s left", 12.5),
        ("validate fp32: 4 of 16, 9 s left", 25.0),
        ("read: 3 of 4", 75.0),
        ("kd: resuming an interrupted training at epoch 3, step 1", None),
        ("3 of 4 passed: no", None),
        ("", None),
    ],
)
def test_progress_is_parsed_from_a_line(line, percent):
    assert percent_done(line) == percent


@pytest.mark.usefixtures("prefect_server")
def test_a_bar_is_updated_at_most_every_five_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(artifacts.time, "monotonic", lambda: now[0])
    shown: list[tuple[float, str]] = []
    update = artifacts.update_progress_artifact

    def note(artifact: Any, percent: float, description: str) -> None:
        shown.append((percent, description))
        update(artifact, percent, description)

    monkeypatch.setattr(artifacts, "update_progress_artifact", note)

    @flow
    def train() -> None:
        progress = Progress("train_teacher", pytest.fail)
        for epoch in range(1, 11):
            progress.see(f"teacher: epoch {epoch}/10")
            now[0] += 2
        progress.finish()

    bar = artifacts_of(train(return_state=True))["progress-train-teacher"]
    # The first line creates it, and lines at least five seconds apart update it.
    assert shown == [
        (40.0, "teacher: epoch 4/10"),
        (70.0, "teacher: epoch 7/10"),
        (100.0, "teacher: epoch 10/10"),
        (100.0, "train_teacher: done"),
    ]
    assert bar.type == "progress"
    assert bar.data == 100
    assert bar.description == "train_teacher: done"


def test_a_stage_continues_without_a_bar(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("no server")

    monkeypatch.setattr(artifacts, "create_progress_artifact", refuse)
    warnings: list[str] = []
    progress = Progress("distill", warnings.append)
    for epoch in (1, 2):
        progress.see(f"kd: epoch {epoch}/2")
    progress.finish()
    assert warnings == ["distill: Prefect no longer shows its progress (no server)"]


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("kept_as", [None, "nightly-2026-11-26-0200"])
def test_tables_chart_and_location_of_the_report(tmp_path, kept_as):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/summary.json").write_bytes(SUMMARY.read_bytes())

    @flow
    def show() -> None:
        show_report(tmp_path, kept_as)

    found = artifacts_of(show(return_state=True))
    assert set(found) == {"networks", "accuracy", "exports", "accuracy-against-latency", "report"}
    for key, named in (("networks", ("resnet20", "resnet8")), ("exports", ("fp32", "int8_u8s8"))):
        shown = str(found[key].data)
        assert all(f"| {name} |" in shown for name in named)
    place = str(found["report"].data)
    if kept_as is None:
        assert (tmp_path / "reports/index.html").as_uri() in place
    else:
        assert f"dvc exp apply {kept_as}" in place


def test_the_chart_is_a_standalone_image():
    address = accuracy_against_latency(read_json(SUMMARY))
    assert address is not None
    head, _, content = address.partition(",")
    assert head == "data:image/svg+xml;base64"
    svg = base64.b64decode(content).decode()
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.attrib["width"]) > float(root.attrib["height"]) > 0
    assert "var(" not in svg
    assert "int8_u8s8" in svg
    summary = read_json(SUMMARY)
    for device in summary["devices"].values():
        device["exports"] = {}
    assert accuracy_against_latency(summary) is None
