"""Measure over a fake adb that runs the device's commands on this machine."""

import json
import shutil
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from models.errors import InputError
from stages.devices import adb, adb_client
from stages.devices import phone as condition
from stages.devices.base import Measurement
from stages.devices.phone import Thermal, parse_thermal
from stages.devices.programs import RUNNER, single_file
from stages.devices.urls import open_device
from stages.runtimes.exported import Exported
from tests.bundles import flip_byte
from tests.phone import THERMAL, Phone, phone, phones, whoever_opens
from tests.stages.devices.browser.conftest import make_browser, no_runtime
from tests.stages.devices.conftest import PROFILE, only
from tests.stages.devices.test_native_runner import ANSWER
from tests.stages.test_profile_latency import FIELDS

__all__ = ["no_runtime", "phone", "phones"]

FIXED = "power set-fixed-performance-mode-enabled"
ON_AND_OFF = [f"{FIXED} true", f"{FIXED} false"]
#: What a runner prints: times that do not scatter, and torch's answers.
LINE = json.dumps(ANSWER | {"samples_ms": [1, 1]})


def begin(address: str) -> None:
    """Open the page like a browser and begin; never finish."""
    runs, described = address.partition("#")[0] + "runs", make_browser().model_dump_json()
    with urllib.request.urlopen(runs, described.encode(), timeout=10) as answer:
        assert json.load(answer)["tasks"]


def script(folder: Path, text: str, name: str = "bench") -> Path:
    """Write a program that the phone can run."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def measure(url: str, exported: Exported) -> Measurement:
    return open_device(url).measure(exported, PROFILE)


def test_a_native_runner_measures(phone, tmp_path, exported):
    (tmp_path / "runner.py").write_bytes(single_file(RUNNER))
    runner = script(tmp_path / "bin", f'exec {sys.executable} {tmp_path}/runner.py "$@"')
    url = f"{phone.url}?threads=2&runner={runner}"
    measured = measure(url, exported)
    assert measured.device == url
    assert [row["precision"] for row in measured.results] == exported.precisions
    for row in measured.results:
        entry = exported.entry(row["precision"], "static")
        assert set(row) == FIELDS
        assert (row["status"], row["reason"], row["n"], row["threads"]) == ("passed", None, 5, 2)
        assert (row["file"], row["model_sha256"]) == (entry["path"], entry["sha256"])
        assert (row["runtime"], row["provider"]) == ("onnxruntime", "CPUExecutionProvider")
        assert row["noisy"] == (row["cv"] > 0.2)
        assert row["temperature_before"] == 31.0
        assert row["peak_rss_mb"] > 1
        assert len(measured.samples[f"{url}|onnxruntime|{row['precision']}|2"]) == 5
    assert measured.description["runtime"].startswith("onnxruntime 1.")
    assert "browser" not in measured.description
    assert phone.calls("cmd") == ON_AND_OFF
    assert list(phone.folder.iterdir()) == []


def test_what_a_runner_needs_travels_with_it_and_a_warm_phone_is_noisy(phone, tmp_path, exported):
    folder = tmp_path / "native"
    script(folder, 'cat "$LD_LIBRARY_PATH/libbench.so"', "runner")
    (folder / "libbench.so").write_text(LINE)
    for status in (0, 1):
        phone.put("thermalservice", THERMAL.format(status=status))
        measured = measure(f"adb:?runner={folder}", only(exported, "fp32"))
        (row,) = measured.results
        assert (row["status"], row["cv"], row["noisy"]) == ("passed", 0.0, status > 0)
        assert measured.description["thermal"]["status_after"] == status


def test_a_phone_without_a_fixed_speed_and_models_that_fail(phone, tmp_path, exported):
    phone.put("refused", "Failed to set FIXED_PERFORMANCE mode\nThis is likely because of HAL\n")
    phone.put("thermalservice", "Can't find service: thermalservice\n")
    phone.put("properties", "[ro.product.model]: [SM-A105]\n[ro.board.platform]: [exynos7885]\n")
    failing = (
        'case "$*" in *fp16*) echo no kernel >&2; exit 3;; *u8s8*) kill -9 $$;;'
        " *s8s8*) echo ready; exit;; esac"
    )
    runner = script(tmp_path / "bin", f"{failing}\necho '{LINE}'")
    measured = measure(f"adb:?runner={runner}", exported)
    found = measured.description
    refusal = "Failed to set FIXED_PERFORMANCE mode This is likely because of HAL"
    assert found["fixed_performance"] == {"on": False, "reason": refusal}
    assert set(found["thermal"].values()) == {None}
    assert (found["system"], found["machine"], found["cpu"]) == ("Android", "SM-A105", "exynos7885")
    rows = {row["precision"]: row for row in measured.results}
    assert all(set(row) == FIELDS for row in rows.values())
    assert rows["fp16"]["status"] == rows["int8_u8s8"]["status"] == "failed"
    assert rows["fp16"]["reason"] == "no kernel"
    assert rows["int8_u8s8"]["reason"].startswith("the process was ended by SIGKILL")
    assert rows["int8_s8s8"]["reason"].startswith("the runner printed 'ready', expected one line")
    assert rows["fp32"]["status"] == "passed"
    assert rows["fp32"]["temperature_before"] is None


@pytest.mark.usefixtures("no_runtime")
def test_missing_and_hanging_browsers_are_reported(phone, exported, monkeypatch):
    monkeypatch.setattr(adb, "BEGIN_SECONDS", 0.2)
    with pytest.raises(InputError, match=r"no browser has opened the page within 0\.2 s; unlock"):
        measure("adb:", exported)
    monkeypatch.setattr(adb, "BEGIN_SECONDS", 60.0)
    monkeypatch.setattr(adb, "timeout_s", lambda: 1.0)
    (phone.state_folder / "opened").unlink()
    with (
        whoever_opens(phone, begin),
        pytest.raises(InputError, match=r"no browser has measured within 1 s; .*DEVICE_TIMEOUT"),
    ):
        measure("adb:", exported)
    phone.put("am", "Error: Activity not started, unable to resolve Intent { dat=http://x }\n")
    with pytest.raises(InputError, match=r"no browser could be opened \(Error: Activity not st"):
        measure("adb:", exported)
    assert phone.calls("cmd") == ON_AND_OFF * 3
    assert [call.split()[0] for call in phone.calls("reverse")] == ["--no-rebind", "--remove"] * 3


def test_ctrl_c_ends_the_fixed_performance_mode(phone, monkeypatch):
    client = adb_client.find(None, "adb:")
    with pytest.raises(KeyboardInterrupt), condition.fixed_performance(client):
        raise KeyboardInterrupt
    real = condition._set_fixed

    def interrupted(client: adb_client.Adb, *, on: bool) -> str | None:
        refusal = real(client, on=on)
        if on:  # the answer never arrives
            raise KeyboardInterrupt
        return refusal

    monkeypatch.setattr(condition, "_set_fixed", interrupted)
    with pytest.raises(KeyboardInterrupt), condition.fixed_performance(client):
        pass
    assert phone.calls("cmd") == ON_AND_OFF * 2


@pytest.mark.usefixtures("no_runtime")
def test_a_phone_that_is_unplugged(phone, exported, monkeypatch):
    monkeypatch.setattr(adb, "_LOOK_SECONDS", 0.2)
    start = time.monotonic()
    with (
        whoever_opens(phone, lambda _: phone.unplug()),
        pytest.raises(InputError, match="the connection was lost") as caught,
    ):
        measure("adb:", exported)
    assert time.monotonic() - start < 60
    assert "may still be in fixed-performance mode: restart it, or run" in str(caught.value)
    assert f"adb -s {phone.serial} shell cmd {FIXED} false" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runners_and_models_that_cannot_be_used(phone, tmp_path, exported):
    good = script(tmp_path / "bin", f"echo '{LINE}'", "good")
    alien = script(tmp_path / "bin", "true", "alien")
    alien.write_bytes(b"\x7fELF of another processor")
    altered = Exported(shutil.copytree(exported.folder, tmp_path / "copy"), exported.description)
    flip_byte(altered.file("fp16", "static"))
    for runner, models, sentence in (
        (good, altered, r"fp16\.static\.onnx was altered, in transfer"),
        (alien, exported, r"cannot run the runner \(.*\); build it for Android's arm64-v8a"),
    ):
        with pytest.raises(InputError, match=sentence):
            measure(f"adb:?runner={runner}", models)
        assert phone.calls("cmd")[-1] == f"{FIXED} false"
        assert list(phone.folder.iterdir()) == []


def test_which_phone(phones):
    def refusal(url: str) -> str:
        with pytest.raises(InputError) as caught:
            open_device(url)
        assert "; attach an Android device with USB debugging" in str(caught.value)
        return str(caught.value)

    assert refusal("adb:").startswith("adb:: no usable device (no devices/emulators found)")
    first, second = Phone(phones, "one"), Phone(phones, "192.168.1.7:5555")
    first.attach()
    for url in ("adb:", "adb://", first.url):
        device = open_device(url)
        assert device.name == first.url
    assert "(device 'R58M' not found)" in refusal("adb://R58M")
    second.attach("unauthorized")
    assert "(more than one device/emulator)" in refusal("adb:")
    assert "(device unauthorized. " in refusal(second.url)


def test_no_adb_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="adb is not installed here; install Android's platform"):
        open_device("adb:")
    for program, reason in (
        ("echo recovery", "its state is recovery"),
        ("echo 'adb: failed to start daemon' >&2; exit 1", "adb: failed to start daemon"),
    ):
        script(tmp_path, program, "adb")
        with pytest.raises(InputError, match=rf"no usable device \({reason}\)"):
            open_device("adb:")


@pytest.mark.parametrize(
    ("text", "thermal"),
    [
        (THERMAL.format(status=3), Thermal(3, "skin", 31.0)),
        ("Thermal Status: 0\n\tTemperature{mValue=29.1, mType=2, mName=b}", (0, "battery", 29.1)),
        ("Thermal Status: 1\n\tTemperature{mValue=NaN, mType=3, mName=skin}", (1, None, None)),
        ("Temperature{mValue=-4.5, mType=3, mName=skin, mStatus=0}", (None, "skin", -4.5)),
        ("Can't find service: thermalservice", (None, None, None)),
    ],
)
def test_how_warm_it_is(text, thermal):
    assert parse_thermal(text) == thermal
