import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.devices.base import unmeasured
from stages.devices.browser import measurement
from stages.devices.browser.measurement import RUNTIME, Failed, Measured, judge, plan, slug
from stages.runtimes.exported import Exported
from stages.sections.export import Profile
from tests.stages.devices.browser.conftest import PIXEL, make_browser
from tests.stages.test_profile_latency import FIELDS

FILES = {
    name: {"static": {"path": f"{name}.static.onnx", "sha256": name * 8}}
    for name in ("fp32", "fp16", "int8_u8s8")
}
REFERENCE = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1 (KHTML, like Gecko)"
    " Version/19.1 Mobile/15E148 Safari/604.1"
)
LINUX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
ENTRY = {"path": "fp32.static.onnx", "sha256": "0" * 64}
TASK = unmeasured(ENTRY, "fp32", 1, RUNTIME, None, "planned") | {"provider": "wasm"}


def encoded(logits: np.ndarray) -> str:
    return base64.b64encode(logits.astype("<f4").tobytes()).decode()


def measured(**given: Any) -> Measured:
    known: dict[str, Any] = {"version": "1.30.0", "provider": "wasm", "threads": 1}
    known |= {"init_ms": 120.55556, "first_ms": 4.0, "samples_ms": [1.0, 2.0, 3.0, 4.0]}
    known |= {"logits": encoded(REFERENCE), "hidden": False}
    return Measured.model_validate(known | given)


def planned(**given: Any) -> dict[tuple[str, str, int], str | None]:
    rows = plan(Exported(Path(), {"files": FILES}), Profile(threads=[1, 4]), make_browser(**given))
    assert all(row["status"] == ("skipped" if row["reason"] else "planned") for row in rows)
    return {(row["precision"], row["provider"], row["threads"]): row["reason"] for row in rows}


def test_a_phone_with_everything_measures_everything():
    tasks = planned()
    assert list(tasks) == [
        *(("fp32", "wasm", 1), ("fp32", "wasm", 4), ("fp32", "webgpu", 1)),
        *(("fp16", "wasm", 1), ("fp16", "wasm", 4), ("fp16", "webgpu", 1)),
        *(("int8_u8s8", "wasm", 1), ("int8_u8s8", "wasm", 4)),
    ]
    assert set(tasks.values()) == {None}


def test_what_a_browser_lacks_is_skipped_with_the_reason():
    plain = planned(isolated=False, secure=False, gpu=None)
    possible = [key for key, reason in plain.items() if reason is None]
    assert possible == [(name, "wasm", 1) for name in FILES]
    assert "isolated" in (plain["fp32", "wasm", 4] or "")
    assert "secure page" in (plain["fp32", "webgpu", 1] or "")
    assert planned(gpu=None)["fp32", "webgpu", 1] == "the browser offers no WebGPU"
    assert "only 2 threads" in (planned(cores=2)["fp16", "wasm", 4] or "")
    gpu = {"vendor": "", "architecture": "", "description": "", "half_precision": False}
    coarse = planned(gpu=gpu)
    assert coarse["fp32", "webgpu", 1] is None
    assert coarse["fp16", "webgpu", 1] == "the GPU's shaders lack float16"


def test_times_and_answers_are_judged_here():
    times = np.random.default_rng(1).gamma(4.0, 0.25, 700).round(4)
    noise = np.float32(3e-5) * np.abs(REFERENCE).max()
    other = REFERENCE.copy()
    other[2, 1] += noise
    row = judge(TASK, measured(samples_ms=times.tolist(), logits=encoded(other)), REFERENCE, 700)
    assert (row["status"], row["reason"], row["n"]) == ("passed", None, 700)
    assert row["p99_ms"] == pytest.approx(np.quantile(times, 0.99), abs=1e-4)
    assert row["noisy"] is True  # gamma of shape 4 has a cv of a half
    assert row["init_ms"] == 120.5556
    assert row["golden"]["max_relative_error"] == pytest.approx(3e-5, rel=1e-2)
    assert row["golden"]["top1_agreement"] == 1.0
    assert row["samples_ms"] == times.tolist()
    assert set(row) == {*FIELDS, "samples_ms"} - {"device"}
    assert set(judge(TASK, Failed(error="no memory"), REFERENCE, 10)) == FIELDS - {"device"}


def test_wrong_answers_fail_by_the_runners_tolerance():
    row = judge(TASK, measured(logits=encoded(REFERENCE * 1.01)), REFERENCE, 10)
    assert row["status"] == "failed"
    assert "relative error" in row["reason"]
    assert row["p50_ms"] == 2.5  # its times are known anyway
    lost = REFERENCE.copy()
    lost[0, 0] = np.nan
    row = judge(TASK, measured(logits=encoded(lost)), REFERENCE, 10)
    assert (row["status"], row["golden"]["cosine"]) == ("failed", None)
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"threads": 2}, "ran with 2 threads instead of 1"),
        ({"hidden": True}, "the page was hidden while it measured"),
        ({"samples_ms": [0.0, 0.0]}, "every run was shorter than a tick of the browser's clock"),
    ],
)
def test_incomplete_measurements_have_no_times(given, reason):
    row = judge(TASK, measured(**given), REFERENCE, 10)
    assert (row["status"], row["reason"], row["threads"]) == ("failed", reason, 1)
    assert row["p50_ms"] is None
    assert row["golden"]["top1_agreement"] == 1.0


def test_operators_that_fell_back_to_the_cpu_are_named():
    task = TASK | {"provider": "webgpu"}
    row = judge(task, measured(provider="webgpu+wasm"), REFERENCE, 10)
    assert (row["provider"], row["status"]) == ("webgpu+wasm", "passed")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples_ms": []}, "0 samples, expected 1 to 3"),
        ({"samples_ms": [1.0] * 4}, "4 samples, expected 1 to 3"),
        ({"provider": "webgpu"}, "the provider is webgpu, expected wasm"),
        ({"logits": encoded(REFERENCE[:7])}, r"not base64 of float32 \[8, 5\]"),
        ({"logits": "?" * 40}, r"not base64 of float32 \[8, 5\]"),
    ],
)
def test_results_for_another_task_are_refused(given, message):
    with pytest.raises(measurement.WrongMessageError, match=message):
        judge(TASK, measured(**({"samples_ms": [1.0]} | given)), REFERENCE, 3)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({}, "pixel-8-chrome-156"),
        ({"model": None}, "android-chrome-156"),
        ({"model": "../../x y"}, "x-y-chrome-156"),
        ({"model": None, "user_agent": IPHONE}, "iphone-safari-19"),
        ({"user_agent": PIXEL + " EdgA/156.0.0.0"}, "pixel-8-edge-156"),
        ({"model": None, "user_agent": LINUX}, "linux-firefox-150"),
        ({"model": "!", "user_agent": ""}, "device"),
    ],
)
def test_a_name_for_the_file(told, name):
    assert slug(make_browser(**told)) == name
