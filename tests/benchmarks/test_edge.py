"""Compare the ways to export a small student; reject folders without a finished one."""

import itertools
import re
import shutil
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch

from benchmarks import edge, latency
from benchmarks.latency import PRECISIONS, read_student
from benchmarks.results import FOLDER
from models.errors import InputError
from models.networks.checkpoint import load_network, save_network
from stages import validate
from stages.files import read_json, write_json
from stages.params import Params
from tests.stages.conftest import exported, made_once

WAYS = ["eager", "plain", "plain_bytes", *PRECISIONS, "calibrated", "onnxruntime"]
PARAMS = Params.model_validate({"validate": {"batch_sizes": [1, 3, 8], "tensorrt": "off"}})


@pytest.fixture(scope="session")
def finished():
    """A project after its stage validate; read-only."""
    return made_once("validated", lambda: validate.main(PARAMS), exported())


@pytest.fixture
def project(finished, tmp_path):
    """A writable copy of :func:`finished`."""
    return Path(shutil.copytree(finished, tmp_path / "project"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(latency, "_RUNS", 5)
    monkeypatch.setattr(latency, "_SECONDS", 0.0)
    monkeypatch.setattr(latency, "_WARM_UP_SECONDS", 0.0)


def test_a_finished_project_becomes_tables_and_json(project, page, capsys):
    threads = torch.get_num_threads()
    with pytest.raises(InputError, match="tiny: expected NAME=FOLDER"):
        edge.main(["tiny"])
    edge.main([f"tiny={project}"], rounds=3)
    assert torch.get_num_threads() == threads

    student = read_json(FOLDER / "edge.json")["students"]["tiny"]
    assert (student["network"], student["test_images"]) == ("resnet8", 30)
    rows = student["rows"]
    assert list(rows) == WAYS
    validated = {
        row["precision"]: row
        for row in read_json(project / "reports/validation.json")["results"]
        if (row["runtime"], row["shape"]) == ("onnxruntime", "dynamic")
    }
    for key, column in itertools.product(PRECISIONS, ("accuracy", "drop")):
        assert rows[key][column] == validated[key][column]
    assert rows["eager"]["accuracy"] == validated["fp32"]["accuracy"]
    assert rows["plain"]["accuracy"] is None
    assert rows["int8_u8s8"]["title"] == "static int8_u8s8"
    samples = {key: row["samples_p50_ms"] for key, row in rows.items()}

    def speed(key: str, of: str) -> float:
        return median(a / b for a, b in zip(samples[of], samples[key], strict=True))

    for key, row in rows.items():
        assert (row["reason"], row["runs"], len(samples[key])) == (None, 15, 3)
        assert row["p50_ms"]["median"] == median(samples[key])
        assert row["speedup"]["median"] == speed(key, "fp32")
    goal = student["goals"]["fp32"]
    assert goal["speedup"]["median"] == speed("fp32", "plain")
    assert goal["speedup_from_bytes"]["median"] == speed("fp32", "plain_bytes")
    assert rows["plain_bytes"]["golden"] == rows["plain"]["golden"]
    assert rows["fp16"]["golden"]["max_relative_error"] > 1e-5

    for model, convolution in {"fp32": "Conv", "int8_u8s8": "QLinearConv"}.items():
        times = student["operators_ms"][model]
        assert convolution in times
        assert list(times.values()) == sorted(times.values(), reverse=True)
        assert 0 < sum(times.values()) < 100

    text = page.read_text()
    assert re.search(r"^Time in int8_u8s8, [\d.]+ ms when profiled: .*QLinearConv \d+%", text, re.M)
    assert capsys.readouterr().out.strip() in text


def test_a_plain_export_has_floats_and_a_free_batch(finished, tmp_path):
    student = read_student(finished)
    way = latency.open_ways(student, tmp_path)["plain"]
    (given,) = way.session.get_inputs()
    assert given.type == "tensor(float)"
    assert isinstance(given.shape[0], str)
    assert given.shape[1:] == [3, 16, 16]
    options = way.session.get_session_options()
    assert options.intra_op_num_threads == 1
    images, reference = student.exported.golden_batch()
    prepared = way.prepare(images)
    (logits,) = way.session.run(None, {given.name: prepared})
    assert np.abs(logits - reference).max() < 1e-4 * np.abs(reference).max()
    assert prepared.shape == (len(images), 3, 16, 16)
    assert way.size > student.weights.stat().st_size * 0.9  # weights beside the graph count


@pytest.mark.parametrize(
    ("speedup", "drop", "reason", "holds", "fast"),
    [
        (1.8, 0.005, None, True, True),
        (1.8, 0.98 - 0.975, None, True, True),
        (1.0, -0.01, None, True, False),
        (0.99, 0.0, None, False, False),
        (2.5, 0.0051, None, False, True),
        (2.5, 0.0, "cosine 0.2 is below 0.95", False, True),
    ],
)
def test_int8_must_be_fast_and_accurate(speedup, drop, reason, holds, fast):
    right = {"reason": None, "samples_p50_ms": [2.0, 1.0]}
    int8 = {"speedup": {"median": speedup}, "drop": drop, "drop_low": drop, "drop_high": drop}
    rows = dict.fromkeys(("plain", "plain_bytes", "fp32"), right)
    rows["int8_u8s8"] = right | int8 | {"reason": reason, "accuracy": 0.9}
    peer = {"title": "the peer", "accuracy": 0.91, "speedup": {"median": speedup + 0.01}}
    rows["onnxruntime"] = right | peer
    found = edge.goals(rows, 1.8)
    assert (found["holds"]["met"], found["fast"]["met"]) == (holds, fast)
    assert found["peers"] == {"better": ["the peer"], "met": False}
    assert found["fp32"]["met"]
    rows["plain"] = right | {"samples_p50_ms": [1.9, 0.9]}
    rows["onnxruntime"] = right | peer | {"accuracy": 0.9}
    found = edge.goals(rows, 1.8)
    assert found["peers"]["met"]
    assert not found["fp32"]["met"]


def without_a_row(project: Path) -> None:
    path = project / "reports/validation.json"
    content = read_json(path)
    content["results"] = [row for row in content["results"] if row["precision"] != "fp16"]
    write_json(path, content)


def with_another_student(project: Path) -> None:
    network = load_network(project / "artifacts/student/model.safetensors")
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    save_network(project / "artifacts/student/model.safetensors", network)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_another_student, "not the student that .* was exported from"),
        (without_a_row, "has no validated fp16; add to export.precisions"),
    ],
)
def test_an_unfinished_project_is_refused(project, spoil, message):
    spoil(project)
    with pytest.raises(InputError, match=message) as error:
        read_student(project)
    assert "\n" not in str(error.value)
