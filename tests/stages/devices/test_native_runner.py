"""Parse and judge the output of a user's program for a phone."""

import json
from typing import Any

import pytest

from models.errors import InputError
from stages.devices.base import Measurement, unmeasured
from stages.devices.commands import Finished
from stages.devices.judging import judge
from stages.devices.native_runner import files_of, parse

GOLDEN = {"max_relative_error": 1e-9, "cosine": 1.0, "top1_agreement": 1.0}
ANSWER: dict[str, Any] = {"runtime": "bench", "version": "1", "provider": "cpu", "threads": 1}
ANSWER |= {"init_ms": 1, "first_ms": 1, "samples_ms": [1, 1.5], "golden": GOLDEN}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("ready", r" printed 'ready', expected one line of JSON with the keys of docs/"),
        ({"init_ms": None}, "JSON is wrong at init_ms: expected a valid number"),
        ({"samples_ms": []}, "JSON is wrong at samples_ms: expected at least 1 item; see"),
        ({"golden": {"cosine": 1.0}}, r"wrong at golden\.max_relative_error: field required"),
    ],
)
def test_invalid_measurements_are_refused(given, sentence):
    text = given if isinstance(given, str) else json.dumps(ANSWER | given)
    with pytest.raises(InputError, match=f"^the runner.*{sentence}"):
        parse(Finished(0, text, ""))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, None),
        ({"golden": GOLDEN | {"max_relative_error": 0.5}}, "relative error 5.0e-01 is above 1e-04"),
        ({"golden": GOLDEN | {"max_relative_error": None}}, "logits are not finite, or"),
    ],
)
def test_the_rules_are_those_of_all_devices(given, reason, exported):
    answer = parse(Finished(0, "a greeting\n" + json.dumps(ANSWER | given), ""))
    row = unmeasured(exported.entry("fp32", "static"), "fp32", 1, answer.runtime, None)
    row = judge(row, answer, answer.golden.model_dump(), "runner")
    assert row["status"] == ("failed" if reason else "passed")
    assert (row["reason"] or "").startswith(reason or "")
    assert row["p50_ms"] == (None if row["n"] is None else 1.25)


def test_a_program_that_ignores_the_threads_keeps_the_times_that_are_right(exported):
    answer, rows = parse(Finished(0, json.dumps(ANSWER), "")), []
    for threads in (1, 2):
        row = unmeasured(exported.entry("fp32", "static"), "fp32", threads, answer.runtime, None)
        rows.append(judge(row, answer, GOLDEN, "runner"))
    assert rows[1]["reason"] == "ran with 1 thread instead of 2"
    samples = Measurement("adb:x", {}, rows).samples
    assert samples == {"adb:x|bench|fp32|1": [1, 1.5], "adb:x|bench|fp32|2": []}


def test_missing_and_broken_programs_are_refused(tmp_path):
    (tmp_path / "plain").touch(0o644)
    (tmp_path / "empty").mkdir()
    for name, sentence in (
        ("nothing", r"nothing: no such file; \?runner= expects a program"),
        ("empty", r"empty/runner: no such file"),
        ("plain", r"plain: not executable; run `chmod \+x "),
    ):
        with pytest.raises(InputError, match=sentence):
            files_of(str(tmp_path / name), "adb:x")
